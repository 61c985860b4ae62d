//! The template's schedules, and what AWS does on its own by the clock.

use std::sync::Arc;
use std::time::Duration;

use local_bucket::Buckets;
use local_mapping::schedule::{Definition, Kind, Schedule, ScheduleError, Schedules};
use local_mapping::{AsyncInvoker as _, Shutdown};
use local_template::{Bundle, Input, ScheduleSource};
use time::OffsetDateTime;

use crate::arn::{ACCOUNT, REGION};
use crate::delivery::Delivery;
use crate::resources::target_arn;
use crate::{StartError, part};

/// How often expired objects are looked for; AWS does it once a day.
const LIFECYCLE: Duration = Duration::from_secs(3_600);

/// The schedules of one bundle. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Clockwork {
    schedules: Schedules,
    delivery: Arc<Delivery>,
}

impl Clockwork {
    /// `created_at` is when the data folder was made: rates count from there, over restarts.
    pub(crate) fn new(
        bundle: &Bundle,
        delivery: Arc<Delivery>,
        created_at: OffsetDateTime,
    ) -> Result<Self, StartError> {
        let made: Result<Vec<Schedule>, ScheduleError> =
            bundle.schedules.iter().map(|schedule| Schedule::new(definition(schedule, created_at))).collect();
        for schedule in bundle.schedules.iter().filter(|schedule| schedule.start.is_some() || schedule.end.is_some()) {
            tracing::warn!(
                "line {}: StartDate and EndDate of `{}` are not carried out locally",
                schedule.line,
                schedule.name
            );
        }
        Ok(Self { schedules: Schedules::new(made.map_err(part("schedules"))?), delivery })
    }

    pub(crate) async fn run(self, shutdown: Shutdown) {
        self.schedules.run(self.delivery, shutdown).await;
    }

    /// Runs every schedule of a function now, enabled or not, and names what was sent.
    pub(crate) async fn trigger(&self, function: &str) -> Vec<String> {
        let mut sent = Vec::new();
        for due in self.schedules.due_now(function, now()) {
            sent.push(String::from_utf8_lossy(&due.event).into_owned());
            self.delivery.hand_over(&due.target, due.event).await;
        }
        sent
    }
}

fn definition(schedule: &local_template::Schedule, created_at: OffsetDateTime) -> Definition {
    let kind = match schedule.source {
        ScheduleSource::Rule => Kind::Rule,
        ScheduleSource::Scheduler => Kind::Scheduler,
    };
    Definition {
        kind,
        name: schedule.name.clone(),
        target: target_arn(&schedule.target),
        expression: schedule.expression.clone(),
        timezone: (kind == Kind::Scheduler).then(|| schedule.timezone.clone()),
        input: match &schedule.input {
            Input::Constant(json) => Some(json.clone()),
            // The template reader lets a schedule have no other input than none or a constant.
            _ => None,
        },
        enabled: schedule.enabled,
        region: REGION.to_owned(),
        account: ACCOUNT.to_owned(),
        created_at,
    }
}

/// Removes expired objects and abandoned uploads, now and then.
pub(crate) async fn hourly_lifecycle(buckets: Buckets) {
    loop {
        if let Err(error) = buckets.run_lifecycle(now()).await {
            tracing::error!(error = %error, "The buckets' lifecycle rules were not carried out");
        }
        tokio::time::sleep(LIFECYCLE).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "the edge where the clock enters")]
fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}
