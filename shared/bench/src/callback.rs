//! What one card click costs the receiver in CPU time: verify, decrypt, parse.

use std::fmt;
use std::hint::black_box;
use std::time::{Duration, Instant};

use lark::callback::{Callback, SignatureHeaders, open};

use crate::case;

/// What proving and reading one click may cost.
const BUDGET: Duration = Duration::from_micros(5);

/// Short samples, many of them: the best one was not interrupted by another process.
const ROUNDS: u32 = 100;
const SAMPLES: usize = 3_000;

/// What was measured.
#[derive(Debug)]
pub(crate) struct Cost {
    body_bytes: usize,
    click: Duration,
}

impl Cost {
    pub(crate) fn holds(&self) -> bool {
        self.click <= BUDGET
    }
}

/// Reads the same click again and again. Nothing if it is not accepted, which costs less than it should.
pub(crate) fn measure() -> Option<Cost> {
    let (keys, push) = (case::keys(), case::push());
    let headers = SignatureHeaders {
        timestamp: Some(push.timestamp),
        nonce: Some(push.nonce),
        signature: Some(&push.signature),
        refresh_token: None,
    };
    let read = || matches!(open(&keys, &headers, black_box(push.body.as_bytes())), Ok(Callback::CardAction(_)));
    let sample = || {
        let start = Instant::now();
        let accepted = (0..ROUNDS).all(|_| read());
        accepted.then(|| start.elapsed() / ROUNDS)
    };
    let samples: Option<Vec<Duration>> = (0..SAMPLES).map(|_| sample()).collect();
    Some(Cost { body_bytes: push.body.len(), click: samples?.into_iter().min()? })
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.holds() { "holds" } else { "DOES NOT HOLD" };
        let microseconds = |duration: Duration| duration.as_secs_f64() * 1_000_000.0;
        writeln!(f, "{} bytes, best of {SAMPLES} samples of {ROUNDS} clicks", self.body_bytes)?;
        let (click, budget) = (microseconds(self.click), microseconds(BUDGET));
        write!(f, "verify, decrypt and parse a card click: at most {budget} us: {verdict} ({click:.2} us)")
    }
}
