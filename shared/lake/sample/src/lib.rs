//! Events as a WeChat gateway sends them, good and bad, the same ones for the same seed: what tests post and benchmarks convert.
//!
//! Of a thousand events 10 are malformed, 20 repeat an earlier message to the byte, 16 tell of a contact, and the others are messages. Of the
//! messages 16 in a thousand have an integer as `source`, and one in [`LARGE_EVERY`] holds [`LARGE_BYTES`] of XML.

mod message;
mod random;

use std::collections::VecDeque;

use crate::random::Random;

/// How many events the first lake was fed.
pub const FIRST_LAKE: u64 = 23_210;

/// One message in so many is large.
pub const LARGE_EVERY: u64 = 4_096;

/// How much XML a large message holds.
pub const LARGE_BYTES: usize = 200_000;

/// How many messages back a repetition may reach.
const REPEATED_FROM: usize = 1_000;

/// What to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    pub events: u64,
    /// When the first message was said, in Unix seconds. Later ones follow, a little out of order.
    pub from: i64,
    /// Over how many seconds the messages are spread.
    pub spread_secs: i64,
    /// Whether there are malformed events, repetitions and contacts among the messages, and ids and sources that are integers: most other
    /// programs that read JSON take none of these.
    pub mixed: bool,
}

impl Plan {
    /// As the first lake: mixed, over three days that begin at `from`.
    #[must_use]
    pub const fn first_lake(seed: u64, from: i64) -> Self {
        Self { seed, events: FIRST_LAKE, from, spread_secs: 3 * 86_400, mixed: true }
    }

    /// The events, in the order in which they are sent.
    #[must_use]
    pub fn events(self) -> Events {
        Events { plan: self, at: 0, random: Random::new(self.seed), sent: VecDeque::new() }
    }
}

/// What an event is, so that what was made of it can be judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A message that no earlier event held.
    Message {
        msg_id: String,
        integer_source: bool,
        large: bool,
    },
    /// An earlier message once more.
    Repetition {
        msg_id: String,
    },
    Contact {
        username: String,
    },
    Malformed,
}

/// One event: the body of a request, or a line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub body: Vec<u8>,
    pub what: What,
}

/// The events of a [`Plan`].
#[derive(Debug)]
pub struct Events {
    plan: Plan,
    at: u64,
    random: Random,
    /// Messages that may be repeated.
    sent: VecDeque<(String, Vec<u8>)>,
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        if self.at == self.plan.events {
            return None;
        }
        let at = self.at;
        self.at += 1;
        let kind = if self.plan.mixed { self.random.below(1_000) } else { u64::MAX };
        Some(match kind {
            0..10 => Event { body: self.malformed(at), what: What::Malformed },
            10..30 if !self.sent.is_empty() => self.repetition(),
            30..46 => {
                let username = format!("wxid_{:x}", self.random.below(2_000));
                Event { body: message::contact(&mut self.random, &username, at), what: What::Contact { username } }
            }
            _ => self.message(at),
        })
    }
}

impl Events {
    fn message(&mut self, at: u64) -> Event {
        let msg_id = message::msg_id(self.plan.seed, at);
        let integer_source = self.random.below(1_000) < 16 && self.plan.mixed;
        let integer_id = self.random.below(2) == 0 && self.plan.mixed;
        let large = at % LARGE_EVERY == LARGE_EVERY / 2;
        let said_at = self.said_at(at);
        let as_integer = message::AsInteger { id: integer_id, source: integer_source };
        let body = message::message(&mut self.random, &msg_id, said_at, as_integer, large);
        if self.plan.mixed && !large {
            if self.sent.len() == REPEATED_FROM {
                self.sent.pop_front();
            }
            self.sent.push_back((msg_id.clone(), body.clone()));
        }
        Event { body, what: What::Message { msg_id, integer_source, large } }
    }

    fn repetition(&mut self) -> Event {
        let at = self.random.index(self.sent.len());
        let (msg_id, body) = self.sent.get(at).cloned().unwrap_or_default();
        Event { body, what: What::Repetition { msg_id } }
    }

    /// Evenly over the spread, up to two minutes early or late.
    fn said_at(&mut self, at: u64) -> i64 {
        let share = i128::from(self.plan.spread_secs) * i128::from(at) / i128::from(self.plan.events.max(1));
        let jitter = i64::try_from(self.random.below(240)).unwrap_or_default() - 120;
        let offset = i64::try_from(share).unwrap_or_default() + jitter;
        self.plan.from + offset.clamp(0, self.plan.spread_secs.max(1) - 1)
    }

    /// Each kind of what goes wrong, in turns.
    fn malformed(&mut self, at: u64) -> Vec<u8> {
        let msg_id = message::msg_id(self.plan.seed, at);
        let said_at = self.said_at(at);
        let mut body = message::message(&mut self.random, &msg_id, said_at, message::AsInteger::default(), false);
        let with = |from: &str, to: &str| {
            let text = String::from_utf8_lossy(&body).replacen(from, to, 1);
            text.into_bytes()
        };
        match self.random.below(8) {
            0 => body.truncate(body.len() / 2),
            1 => body = b"<xml>not json</xml>".to_vec(),
            2 => body.clear(),
            3 => {
                // A byte that UTF-8 does not have, within the text.
                let middle = body.len() / 2;
                body.splice(middle..middle, [0xFF]);
            }
            4 => body = with("\"msg_id\"", "\"no_id\""),
            // The years 1 and 9999.
            5 => body = with(&format!("\"create_time\":{said_at}"), "\"create_time\":-62135596800"),
            6 => body = with(&format!("\"create_time\":{said_at}"), "\"create_time\":253402300799"),
            _ => body = with("\"is_chatroom_msg\":", "\"is_chatroom_msg\":[],\"was\":"),
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const PLAN: Plan = Plan::first_lake(7, 1_790_000_000);

    #[test]
    fn a_seed_says_all() {
        let body = |seed| Plan { seed, events: 2_000, ..PLAN }.events().map(|event| event.body).collect::<Vec<_>>();
        assert_eq!(body(1), body(1));
        assert_ne!(body(1), body(2));
    }

    #[test]
    fn the_shares_are_those_of_the_first_lake() {
        let (mut messages, mut repeated, mut contacts, mut malformed, mut integers, mut large) = (0, 0, 0, 0, 0, 0);
        let mut ids = HashSet::new();
        for event in PLAN.events() {
            match event.what {
                What::Message { msg_id, integer_source, large: is_large } => {
                    messages += 1;
                    integers += u32::from(integer_source);
                    large += u32::from(is_large);
                    assert!(ids.insert(msg_id));
                    assert_eq!(event.body.len() > LARGE_BYTES, is_large);
                    let text = std::str::from_utf8(&event.body).unwrap();
                    assert!(serde_json::from_str::<serde_json::Value>(text).unwrap().is_object());
                    assert!(!text.contains('\n'));
                }
                What::Repetition { msg_id } => {
                    repeated += 1;
                    assert!(ids.contains(&msg_id));
                }
                What::Contact { .. } => contacts += 1,
                What::Malformed => malformed += 1,
            }
        }
        let share = |count: u32| f64::from(count) / 23_210.0 * 100.0;
        assert_eq!(messages + repeated + contacts + malformed, 23_210);
        for (what, count, from, to) in [
            ("messages", messages + repeated, 97.0, 98.0),
            ("repeated", repeated, 1.7, 2.3),
            ("contacts", contacts, 1.3, 1.9),
            ("malformed", malformed, 0.8, 1.2),
            ("integer sources", integers, 1.3, 1.9),
        ] {
            assert!((from..to).contains(&share(count)), "{what}: {} %", share(count));
        }
        assert!(large >= 3, "{large} large ones");
    }
}
