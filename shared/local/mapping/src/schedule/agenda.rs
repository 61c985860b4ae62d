//! Keeps schedules: finds what is due, hands it over, and runs one on demand.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use time::OffsetDateTime;

use super::Schedule;
use crate::{AsyncInvoker, Shutdown, clock};

/// The longest sleep: a timer stands still while the machine sleeps, so the clock is looked at this often.
const LOOK: Duration = Duration::from_secs(5);

/// The schedules of a template. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Schedules(Vec<Schedule>);

/// A run that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Name or ARN of the function.
    pub target: String,
    pub event: Bytes,
}

/// When each enabled schedule runs next.
#[derive(Debug)]
struct Agenda(Vec<(OffsetDateTime, Schedule)>);

impl Schedules {
    #[must_use]
    pub fn new(schedules: Vec<Schedule>) -> Self {
        Self(schedules)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Schedule> {
        self.0.iter()
    }

    /// The runs that the schedules of `function`, or the schedule of that name, would cause at `now`, enabled or not.
    #[must_use]
    pub fn due_now(&self, function: &str, now: OffsetDateTime) -> Vec<Due> {
        let named = |schedule: &&Schedule| {
            let target = schedule.target();
            schedule.name() == function || target == function || target.rsplit(':').next() == Some(function)
        };
        self.0.iter().filter(named).map(|schedule| Due::new(schedule, now)).collect()
    }

    /// Hands over every run when it is due, until the signal.
    ///
    /// What was due while the process was down does not run, as nothing says when it last ran. What was due while the
    /// machine slept runs once per schedule when it wakes, however many runs were missed.
    pub async fn run(self, invoker: Arc<dyn AsyncInvoker>, mut shutdown: Shutdown) {
        let mut agenda = Agenda::new(self.0, clock::now());
        while !shutdown.is_requested() {
            for due in agenda.take(clock::now()) {
                invoker.hand_over(&due.target, due.event).await;
            }
            shutdown.sleep(agenda.wait(clock::now())).await;
        }
    }
}

impl Due {
    fn new(schedule: &Schedule, at: OffsetDateTime) -> Self {
        Self { target: schedule.target().to_owned(), event: schedule.event(at) }
    }
}

impl Agenda {
    fn new(schedules: Vec<Schedule>, now: OffsetDateTime) -> Self {
        let enabled = schedules.into_iter().filter(Schedule::is_enabled);
        Self(enabled.filter_map(|schedule| Some((schedule.next_after(now)?, schedule))).collect())
    }

    /// What is due, in the order of time; each schedule's next run is later than `now`.
    fn take(&mut self, now: OffsetDateTime) -> Vec<Due> {
        let (mut due, later): (Vec<_>, Vec<_>) = self.0.drain(..).partition(|(at, _)| *at <= now);
        self.0 = later;
        due.sort_by_key(|(at, _)| *at);
        let runs = due.iter().map(|(at, schedule)| Due::new(schedule, *at)).collect();
        self.0.extend(due.into_iter().filter_map(|(_, schedule)| Some((schedule.next_after(now)?, schedule))));
        runs
    }

    fn wait(&self, now: OffsetDateTime) -> Duration {
        let next = self.0.iter().map(|(at, _)| *at - now).min();
        // What is due by now cannot be waited for: it has a negative wait.
        next.map_or(LOOK, |wait| Duration::try_from(wait).unwrap_or_default()).min(LOOK)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use time::macros::datetime;

    use super::super::{Definition, Kind};
    use super::*;

    fn schedule(name: &str, expression: &str) -> Definition {
        Definition {
            kind: Kind::Scheduler,
            name: name.into(),
            target: format!("arn:aws:lambda:eu-west-1:123456789012:function:{name}-function"),
            expression: expression.into(),
            timezone: None,
            input: Some(format!("\"{name}\"")),
            enabled: true,
            region: "eu-west-1".into(),
            account: "123456789012".into(),
            created_at: datetime!(2026-01-01 00:00 UTC),
        }
    }

    fn schedules(definitions: impl IntoIterator<Item = Definition>) -> Vec<Schedule> {
        definitions.into_iter().map(|definition| Schedule::new(definition).unwrap()).collect()
    }

    fn inputs(due: &[Due]) -> Vec<&[u8]> {
        due.iter().map(|due| due.event.as_ref()).collect()
    }

    #[test]
    fn each_run_is_due_once_in_the_order_of_time() {
        let both = [schedule("five", "rate(5 minutes)"), schedule("two", "cron(0/2 * * * ? *)")];
        let mut agenda = Agenda::new(schedules(both), datetime!(2026-01-01 00:00 UTC));
        assert_eq!(agenda.take(datetime!(2026-01-01 00:01:59 UTC)), []);
        assert_eq!(inputs(&agenda.take(datetime!(2026-01-01 00:02 UTC))), [b"\"two\""]);
        assert_eq!(agenda.take(datetime!(2026-01-01 00:02:01 UTC)), []);
        assert_eq!(inputs(&agenda.take(datetime!(2026-01-01 00:05 UTC))), [&b"\"two\""[..], b"\"five\""]);
    }

    #[test]
    fn runs_missed_while_the_machine_slept_are_not_made_up_for() {
        let mut agenda = Agenda::new(schedules([schedule("m", "rate(1 minute)")]), datetime!(2026-01-01 00:00 UTC));
        assert_eq!(agenda.take(datetime!(2026-01-03 00:00:30 UTC)).len(), 1);
        assert_eq!(agenda.take(datetime!(2026-01-03 00:00:59 UTC)).len(), 0);
        assert_eq!(agenda.take(datetime!(2026-01-03 00:01 UTC)).len(), 1);
    }

    #[test]
    fn the_wait_ends_at_the_next_run_and_never_lasts_long() {
        let agenda = Agenda::new(schedules([schedule("m", "rate(1 minute)")]), datetime!(2026-01-01 00:00 UTC));
        assert_eq!(agenda.wait(datetime!(2026-01-01 00:00:01 UTC)), LOOK);
        assert_eq!(agenda.wait(datetime!(2026-01-01 00:00:59.5 UTC)), Duration::from_millis(500));
        assert_eq!(agenda.wait(datetime!(2026-01-02 00:00 UTC)), Duration::ZERO);
        assert_eq!(
            Agenda::new(Vec::new(), datetime!(2026-01-01 00:00 UTC)).wait(datetime!(2026-01-01 00:00 UTC)),
            LOOK
        );
    }

    #[test]
    fn a_disabled_schedule_runs_on_demand_only() {
        let off = Definition { enabled: false, ..schedule("off", "rate(1 minute)") };
        let all = schedules([off, schedule("on", "rate(1 minute)")]);
        let now = datetime!(2026-01-02 00:00 UTC);
        assert_eq!(inputs(&Agenda::new(all.clone(), datetime!(2026-01-01 00:00 UTC)).take(now)), [b"\"on\""]);
        let all = Schedules::new(all);
        for name in ["off", "off-function", "arn:aws:lambda:eu-west-1:123456789012:function:off-function"] {
            assert_eq!(inputs(&all.due_now(name, now)), [b"\"off\""], "{name}");
        }
        assert_eq!(all.due_now("function", now), []);
    }

    /// Keeps what it is handed and ends the runner.
    struct Keep {
        stop: crate::Stop,
        runs: Mutex<Vec<(String, Bytes)>>,
    }

    #[async_trait]
    impl AsyncInvoker for Keep {
        async fn hand_over(&self, target: &str, event: Bytes) {
            self.runs.lock().unwrap().push((target.into(), event));
            self.stop.stop();
        }
    }

    #[tokio::test]
    async fn the_runner_hands_over_what_is_due() {
        let (stop, shutdown) = Shutdown::channel();
        let soon =
            Definition { created_at: clock::now() + Duration::from_millis(50), ..schedule("soon", "rate(1 day)") };
        let keep = Arc::new(Keep { stop, runs: Mutex::default() });
        let running = Schedules::new(schedules([soon])).run(keep.clone(), shutdown);
        tokio::time::timeout(Duration::from_secs(30), running).await.unwrap();
        let runs = keep.runs.lock().unwrap().clone();
        assert_eq!(runs.len(), 1);
        assert_eq!(runs[0].1, "\"soon\"");
    }
}
