//! The template's schedules, and what AWS does on its own by the clock.

use std::sync::Arc;
use std::time::Duration;

use local_bucket::Buckets;
use local_mapping::schedule::{Definition, Kind, Schedule, ScheduleError, Schedules};
use local_mapping::{AsyncInvoker as _, Shutdown};
use local_template::{Bundle, Input, ScheduleSource, Target};
use time::OffsetDateTime;

use crate::arn::{ACCOUNT, REGION};
use crate::clock::now;
use crate::delivery::Delivery;
use crate::resources::target_arn;
use crate::{StartError, part};

/// How often expired objects are looked for; AWS does it once a day.
const LIFECYCLE: Duration = Duration::from_secs(3_600);

/// The schedules of one bundle. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Clockwork {
    schedules: Schedules,
    names: Arc<[ScheduleName]>,
    delivery: Arc<Delivery>,
}

/// What a schedule of a function goes by.
struct ScheduleName {
    function: String,
    /// Of its event under the function; the logical id of a schedule that stands alone.
    event: String,
    logical_id: String,
    name: String,
}

impl ScheduleName {
    fn all(bundle: &Bundle) -> Arc<[Self]> {
        let name = |schedule: &local_template::Schedule| {
            let Target::Function(function) = &schedule.target else { return None };
            let owner = bundle.functions.iter().find(|owner| owner.name == *function)?;
            let id = &schedule.logical_id;
            Some(Self {
                function: function.clone(),
                event: id.strip_prefix(&owner.logical_id).unwrap_or(id).to_owned(),
                logical_id: id.clone(),
                name: schedule.name.clone(),
            })
        };
        bundle.schedules.iter().filter_map(name).collect()
    }
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
        let schedules = Schedules::new(made.map_err(part("schedules"))?);
        Ok(Self { schedules, names: ScheduleName::all(bundle), delivery })
    }

    pub(crate) async fn run(self, shutdown: Shutdown) {
        self.schedules.run(self.delivery, shutdown).await;
    }

    /// What the schedules of a function are called in the template.
    pub(crate) fn names(&self, function: &str) -> Vec<&str> {
        self.names.iter().filter(|known| known.function == function).map(|known| known.event.as_str()).collect()
    }

    /// Runs every schedule of a function now, or the one of that name, enabled or not, and tells what was sent.
    pub(crate) async fn trigger(&self, function: &str, schedule: Option<&str>) -> Vec<String> {
        let chosen = match schedule {
            None => Some(function),
            Some(alias) => {
                let goes_by = |known: &&ScheduleName| {
                    known.function == function
                        && [&known.event, &known.logical_id, &known.name].iter().any(|it| *it == alias)
                };
                self.names.iter().find(goes_by).map(|known| known.name.as_str())
            }
        };
        let mut sent = Vec::new();
        for due in chosen.map(|chosen| self.schedules.due_now(chosen, now())).unwrap_or_default() {
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
