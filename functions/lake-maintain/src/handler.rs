//! Schedule -> job of the lake.

use lake::maintain::{Done, Job, MaintainFault, Maintenance, Report};
use serde::Deserialize;
use time::Duration;

/// When a run begins nothing new, inside the function's time-out. What is left is done by the next run.
const RUN: Duration = Duration::minutes(13);

/// For the columns of a merge; with keys, requests and the program itself it stays below the function's memory.
pub(crate) const MEMORY_BYTES: usize = 256 << 20;

/// What a schedule asks for, as its `Input` in the template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct Asked {
    job: Job,
    /// To be told what would be done.
    #[serde(default)]
    dry_run: bool,
}

/// Runs one job and answers with its report. Run twice, or twice at once, the second run finds nothing to do.
///
/// A batch that was left behind fails the run after it was asked for again, so that somebody hears of it.
pub(crate) async fn run(maintenance: &Maintenance, asked: Asked) -> Result<Report, MaintainFault> {
    let end = maintenance.clock.now() + RUN;
    let report = maintenance.run(asked.job, end, asked.dry_run).await?;
    tell(&report);
    match &report.done {
        Done::Replayed(batches) if !batches.is_empty() && !report.dry_run => {
            Err(MaintainFault::LeftBehind(batches.len()))
        }
        _ => Ok(report),
    }
}

/// The figures that people watch, as fields of a log line.
fn tell(report: &Report) {
    let (job, dry_run, unfinished) = (report.job.as_str(), report.dry_run, report.unfinished);
    let (mut count, mut bytes) = (0, 0);
    match &report.done {
        Done::Asked(jobs) => count = jobs.len(),
        Done::Replayed(batches) => count = batches.len(),
        Done::Checkpointed(versions) => count = versions.len(),
        Done::Deleted(objects) => (count, bytes) = (objects.keys.len(), objects.bytes),
        Done::Rewritten(days) => {
            (count, bytes) = (days.len(), days.iter().filter_map(|day| day.made).map(|made| made.bytes_out).sum());
        }
        Done::Vacuumed(tables) => {
            for (files, log) in tables.values() {
                count += files.removed.len() + files.orphans.len() + log.objects.len();
                bytes += files.bytes;
            }
        }
        Done::Stats(tables) => {
            for (kind, stats) in tables {
                tracing::info!(
                    lake.table = %kind,
                    lake.version = stats.version,
                    lake.rows = stats.rows,
                    lake.files = stats.files,
                    lake.small_files = stats.small_files,
                    lake.bytes = stats.bytes,
                    lake.days = stats.days.len(),
                    "`{kind}` has {} rows in {} files",
                    stats.rows,
                    stats.files,
                );
            }
            count = tables.len();
        }
    }
    tracing::info!(lake.job = job, dry_run, unfinished, done.count = count, done.bytes = bytes, "`{job}` has run");
    if unfinished {
        tracing::warn!(
            lake.job = job,
            "`{job}` had too little time: the next run goes on, and each is late if this stays so"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use domain::lake::batch::{BatchId, Gate as _};
    use domain::lake::retention;
    use lake::{Lake, Settings};
    use lambda_kit::clock::{SystemClock, now};
    use tempfile::TempDir;
    use testkit::{MemoryGate, MemoryIntakes};

    use super::*;

    fn world() -> (TempDir, Arc<MemoryGate>, Arc<MemoryIntakes>, Maintenance) {
        let folder = tempfile::tempdir().unwrap();
        let (gate, queues) = (Arc::new(MemoryGate::default()), Arc::new(MemoryIntakes::default()));
        let maintenance = Maintenance {
            lake: Arc::new(Lake::open(&Settings::folder(folder.path().join("lake"))).unwrap()),
            gate: gate.clone(),
            merges: queues.clone(),
            batches: queues.clone(),
            clock: Arc::new(SystemClock),
            scratch: folder.path().to_owned(),
            memory_bytes: MEMORY_BYTES,
        };
        (folder, gate, queues, maintenance)
    }

    #[tokio::test]
    async fn every_job_runs_on_a_lake_that_is_empty() {
        let (_folder, _, _, maintenance) = world();
        for job in Job::ALL {
            for dry_run in [true, false] {
                let report = run(&maintenance, Asked { job, dry_run }).await.unwrap();
                assert_eq!((report.job, report.dry_run, report.unfinished), (job, dry_run, false));
            }
        }
    }

    #[tokio::test]
    async fn a_batch_that_was_left_behind_is_asked_for_again_and_fails_the_run() {
        let (folder, gate, queues, maintenance) = world();
        let received = now() - retention::RECONCILE_AFTER - Duration::HOUR;
        let batch = BatchId::new(received, &"a".repeat(64)).unwrap();
        maintenance.lake.write_object(&batch.raw_key(), "{}".into()).await.unwrap();
        let file = std::fs::File::options().write(true).open(folder.path().join("lake").join(batch.raw_key())).unwrap();
        file.set_modified(received.into()).unwrap();

        let asked = Asked { job: Job::Reconcile, dry_run: true };
        assert_eq!(run(&maintenance, asked).await.unwrap().done, Done::Replayed(vec![batch.clone()]));
        let asked = Asked { dry_run: false, ..asked };
        assert!(matches!(run(&maintenance, asked).await, Err(MaintainFault::LeftBehind(1))));
        assert_eq!(queues.again(), std::slice::from_ref(&batch));
        gate.settle(&batch, now()).await.unwrap();
        assert_eq!(run(&maintenance, asked).await.unwrap().done, Done::Replayed(vec![]));
    }

    #[test]
    fn every_input_of_the_template_is_a_job() {
        for job in Job::ALL {
            let asked: Asked = serde_json::from_str(&format!(r#"{{"job": "{}"}}"#, job.as_str())).unwrap();
            assert_eq!(asked, Asked { job, dry_run: false });
        }
        let asked: Asked = serde_json::from_str(r#"{"job": "vacuum", "dry_run": true}"#).unwrap();
        assert_eq!(asked, Asked { job: Job::Vacuum, dry_run: true });
        assert!(serde_json::from_str::<Asked>(r#"{"job": "full_vacuum"}"#).is_err());
    }
}
