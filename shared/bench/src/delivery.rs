//! The rules of delivery over ports in memory, with duplicates, reordering, losses and crashes: does any reader ever see anything twice,
//! out of order, or not at all?

use std::fmt;
use std::time::{Duration, Instant};

use testkit::delivery::{Outcome, Plan, simulate};

/// How many of the violations are shown.
const SHOWN: usize = 10;

/// What came of it.
#[derive(Debug)]
pub(crate) struct Report {
    plan: Plan,
    outcome: Outcome,
    took: Duration,
}

impl Report {
    pub(crate) fn holds(&self) -> bool {
        self.outcome.violations.is_empty()
    }
}

/// Simulates until this many messages were shown to readers.
pub(crate) async fn measure(deliveries: u64, seed: u64) -> Report {
    let plan = Plan::of(seed, 1);
    let plan = Plan { messages: deliveries.div_ceil(plan.users.into()), ..plan };
    let began = Instant::now();
    let outcome = simulate(plan).await;
    Report { plan, outcome, took: began.elapsed() }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (plan, outcome) = (&self.plan, &self.outcome);
        writeln!(
            f,
            "seed {}: {} conversations of {} readers; jobs doubled {} %, reordered {} %, killed {} %; bells lost {} %",
            plan.seed, plan.conversations, plan.users, plan.doubled, plan.reordered, plan.killed, plan.lost
        )?;
        writeln!(
            f,
            "{} messages committed, {} frames with a message received, {} messages shown; {} jobs, {} workers killed at work, {} connections; \
             {:.1} s",
            outcome.committed,
            outcome.delivered,
            outcome.shown,
            outcome.jobs,
            outcome.kills,
            outcome.connections,
            self.took.as_secs_f64()
        )?;
        for violation in outcome.violations.iter().take(SHOWN) {
            writeln!(f, "  {violation}")?;
        }
        let verdict = if self.holds() { "holds" } else { "DOES NOT HOLD" };
        write!(f, "each reader sees each message once, in order: {verdict} ({} violations)", outcome.violations.len())
    }
}
