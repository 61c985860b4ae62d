//! Random histories of a queue against a model of it that fits on one page.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use local_queue::sqs::{Depth, Outgoing};
use proptest::prelude::*;

use crate::{Fixture, bodies, fifo, text};

const VISIBILITY: u64 = 30;
const MAX_RECEIVES: u32 = 3;
const DEDUPLICATION: u64 = 300;

#[derive(Debug, Clone)]
enum Step {
    Send { group: u8, deduplication: u8 },
    Receive { max: u32 },
    Delete { which: usize },
    Return { which: usize },
    Extend { which: usize, seconds: u64 },
    Wait { seconds: u64 },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3_u8, 0..12_u8).prop_map(|(group, deduplication)| Step::Send { group, deduplication }),
        6 => (1..5_u32).prop_map(|max| Step::Receive { max }),
        4 => any::<usize>().prop_map(|which| Step::Delete { which }),
        2 => any::<usize>().prop_map(|which| Step::Return { which }),
        1 => (any::<usize>(), 1..100_u64).prop_map(|(which, seconds)| Step::Extend { which, seconds }),
        3 => prop_oneof![1..40_u64, 200..400_u64].prop_map(|seconds| Step::Wait { seconds }),
        1 => Just(Step::Reopen),
    ]
}

/// A message as the rules of SQS see it.
#[derive(Debug, Clone)]
struct Message {
    body: String,
    group: u8,
    visible_at: u64,
    receives: u32,
    receipt: Option<String>,
}

#[derive(Debug, Default)]
struct Model {
    is_fifo: bool,
    now: u64,
    messages: Vec<Message>,
    dead: Vec<String>,
    seen: BTreeMap<u8, u64>,
    /// Every receipt ever given out, with its body.
    receipts: Vec<(String, String)>,
}

impl Model {
    fn in_flight(&self, message: &Message) -> bool {
        message.receives > 0 && message.visible_at > self.now
    }

    /// Which bodies a receive gives, in order.
    fn receive(&mut self, max: u32) -> Vec<String> {
        let blocked: BTreeSet<u8> = match self.is_fifo {
            true => self.messages.iter().filter(|it| self.in_flight(it)).map(|it| it.group).collect(),
            false => BTreeSet::new(),
        };
        let mut order: Vec<usize> = (0..self.messages.len()).collect();
        if !self.is_fifo {
            order.sort_by_key(|index| self.messages[*index].visible_at);
        }
        let (mut taken, mut dead) = (Vec::new(), Vec::new());
        for index in order {
            let message = &mut self.messages[index];
            if taken.len() == max as usize {
                break;
            }
            if message.visible_at > self.now || blocked.contains(&message.group) {
                continue;
            }
            if message.receives == MAX_RECEIVES {
                dead.push(message.body.clone());
                continue;
            }
            message.receives += 1;
            message.visible_at = self.now + VISIBILITY;
            taken.push(message.body.clone());
        }
        self.messages.retain(|message| !dead.contains(&message.body));
        self.dead.extend(dead);
        taken
    }

    fn holder(&mut self, which: usize) -> Option<(String, Option<&mut Message>)> {
        let (receipt, body) = self.receipts.get(which % self.receipts.len().max(1))?.clone();
        Some((receipt, self.messages.iter_mut().find(|message| message.body == body)))
    }
}

async fn play(is_fifo: bool, steps: Vec<Step>) {
    let mut it = Fixture::new();
    let kind: &[(&str, &str)] = if is_fifo { &[("FifoQueue", "true")] } else { &[] };
    let (queue, dead) = if is_fifo { ("q.fifo", "dead.fifo") } else { ("q", "dead") };
    it.create(dead, kind);
    let policy = format!(r#"{{"deadLetterTargetArn":"{}","maxReceiveCount":{MAX_RECEIVES}}}"#, it.queues.arn(dead));
    it.create(queue, &[kind, &[("RedrivePolicy", policy.as_str())]].concat());
    let mut model = Model { is_fifo, ..Model::default() };
    for (number, step) in steps.into_iter().enumerate() {
        let now = model.now;
        match step {
            Step::Send { group, deduplication } => {
                let body = format!("{number}-消息");
                let message = if is_fifo {
                    fifo(&body, &group.to_string(), &deduplication.to_string())
                } else {
                    Outgoing { group_id: Some(group.to_string()), ..text(&body) }
                };
                it.send(queue, &[message]).await;
                let is_duplicate = is_fifo && model.seen.get(&deduplication).is_some_and(|at| now < at + DEDUPLICATION);
                if !is_duplicate {
                    model.seen.insert(deduplication, now);
                    model.messages.push(Message { body, group, visible_at: now, receives: 0, receipt: None });
                }
            }
            Step::Receive { max } => {
                let received = it.receive(queue, max).await;
                assert_eq!(bodies(&received), model.receive(max), "step {number}");
                for message in received {
                    let known = model.messages.iter_mut().find(|known| known.body == message.body).unwrap();
                    assert_eq!(message.attributes["ApproximateReceiveCount"], known.receives.to_string());
                    known.receipt = Some(message.receipt_handle.clone());
                    model.receipts.push((message.receipt_handle, message.body));
                }
            }
            Step::Delete { which } => {
                let Some((receipt, message)) = model.holder(which) else { continue };
                let outcome = it.queues.delete(queue, std::slice::from_ref(&receipt)).await;
                match message.map(|message| message.clone()) {
                    None => assert!(outcome.is_ok(), "step {number}"),
                    Some(message) => {
                        let is_latest = message.receipt.as_ref() == Some(&receipt);
                        let stands = is_latest && (!is_fifo || message.visible_at > now);
                        assert_eq!(outcome.is_ok(), stands || !is_fifo, "step {number}");
                        if stands {
                            model.messages.retain(|known| known.body != message.body);
                        }
                    }
                }
            }
            Step::Return { which } | Step::Extend { which, .. } => {
                let seconds = if let Step::Extend { seconds, .. } = step { seconds } else { 0 };
                let Some((receipt, message)) = model.holder(which) else { continue };
                let outcome =
                    it.queues.change_visibility(queue, &[(receipt.clone(), Duration::from_secs(seconds))]).await;
                match message.filter(|it| it.receipt.as_ref() == Some(&receipt) && it.visible_at > now) {
                    None => assert!(outcome.is_err(), "step {number}"),
                    Some(message) => {
                        assert!(outcome.is_ok(), "step {number}");
                        message.visible_at = now + seconds;
                    }
                }
            }
            Step::Wait { seconds } => {
                it.clock.advance(Duration::from_secs(seconds));
                model.now += seconds;
            }
            Step::Reopen => it = it.reopened(),
        }
        let in_flight = model.messages.iter().filter(|message| model.in_flight(message)).count() as u64;
        let visible = model.messages.len() as u64 - in_flight;
        assert_eq!(it.queues.depth(queue).unwrap(), Depth { visible, in_flight, delayed: 0 }, "step {number}");
    }
    let dead: Vec<String> = it.queues.peek(dead, 10_000).await.unwrap().into_iter().map(|it| it.body).collect();
    assert_eq!(dead, model.dead);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_history_of_a_queue_agrees_with_the_model(
        is_fifo in any::<bool>(),
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play(is_fifo, steps));
    }
}
