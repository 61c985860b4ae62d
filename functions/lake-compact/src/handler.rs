//! One merge of a partition -> the next one, until none is due.

use std::path::Path;

use domain::fault::{Fault, PortFault, Refusal, Remedy};
use domain::lake::compaction::{CompactJob, CompactQueue, Size, Tier, next_step, next_step_by_hand};
use lake::{DataFile, Lake, LakeFault, Merge, Merged};
use lake_rows::Level;

/// Decoded columns and encoded pages. Beside it are the keys of the rows, the log, and what is on its way to and from the store.
const MEMORY_BYTES: usize = 224 << 20;

/// Carries out the merge that is due in the job's partition, or the possible one if somebody asked by hand, and asks for another if that
/// leaves one. A merge takes what fits into one run, so that a partition of any size is done in steps.
///
/// A second job, or one for a partition that somebody else merges meanwhile, changes nothing.
pub(crate) async fn carry_out(
    lake: &Lake,
    jobs: &dyn CompactQueue,
    scratch: &Path,
    body: String,
) -> Result<(), CompactFault> {
    let job: CompactJob = serde_json::from_str(&body).map_err(CompactFault::NotAJob)?;
    let CompactJob { kind, partition, by_hand, .. } = job;
    let files = lake.files(kind, move |of| of == partition).await?;
    let Some((inputs, level)) = due(&files, by_hand) else {
        return Ok(());
    };
    let scratch = tempfile::tempdir_in(scratch).map_err(CompactFault::Scratch)?;
    let merge = Merge { kind, partition, level, reason: "compact", memory_bytes: MEMORY_BYTES };
    match lake.merge(merge, &inputs, scratch.path()).await? {
        Merged::Stale => tracing::info!(job.kind = %kind, job.partition = %partition, "Somebody else merged the files"),
        Merged::Done(made) => {
            tracing::info!(
                job.kind = %kind, job.partition = %partition, made.version, made.files_in, made.files_out, made.bytes_in, made.bytes_out,
                made.rows, made.duplicates, made.conflicts, "Merged files"
            );
            let left = lake.files(kind, move |of| of == partition).await?;
            if due(&left, by_hand).is_some() {
                jobs.ask(&[CompactJob { version: made.version, ..job }]).await?;
            }
        }
    }
    Ok(())
}

/// The files to merge, and what they become.
fn due(files: &[DataFile], by_hand: bool) -> Option<(Vec<DataFile>, Level)> {
    let sizes = files.iter().map(|file| Size { bytes: file.bytes, rows: file.rows });
    let sized: Vec<_> = files.iter().map(|file| tier(Level::of(&file.path))).zip(sizes).collect();
    let step = if by_hand { next_step_by_hand(&sized) } else { next_step(&sized) }?;
    let inputs = step.inputs.iter().filter_map(|place| files.get(*place).cloned()).collect();
    Some((inputs, if step.to == Tier::Merged { Level::L1 } else { Level::L2 }))
}

/// A file that somebody else wrote is merged with the day when it is sealed.
fn tier(level: Option<Level>) -> Tier {
    match level {
        Some(Level::L0) => Tier::Small,
        Some(Level::L1) => Tier::Merged,
        Some(Level::L2 | Level::Archive) | None => Tier::Whole,
    }
}

/// Why a partition was not merged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompactFault {
    #[error("the message is not a job")]
    NotAJob(#[source] serde_json::Error),
    #[error("there is no room for files")]
    Scratch(#[source] std::io::Error),
    #[error(transparent)]
    Lake(#[from] LakeFault),
    #[error("the next merge was not asked for")]
    Port(#[from] PortFault),
}

impl Fault for CompactFault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::NotAJob(_) => Remedy::Reject(Refusal::Invalid),
            Self::Scratch(_) => Remedy::Retry,
            Self::Lake(fault) => fault.remedy(),
            Self::Port(fault) => fault.remedy(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotAJob(_) => "invalid_message",
            Self::Scratch(_) => "unavailable",
            Self::Lake(fault) => fault.code(),
            Self::Port(fault) => fault.code(),
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::lake::batch::BatchId;
    use domain::lake::source::Mapping;
    use domain::lake::{Kind, Partition};
    use lake::Settings;
    use lake_rows::{Line, Options, convert, write_parquet};
    use lake_sample::Plan;
    use testkit::MemoryIntakes;
    use time::macros::datetime;

    use super::*;

    fn day() -> Partition {
        "2026-11-05".parse().unwrap()
    }

    /// Appends a batch of `files` small files of as many messages each, some of which are in another file, too.
    async fn append(lake: &Lake, seed: u64, files: u64, messages: u64) {
        let noon = datetime!(2026-11-05 12:00 UTC);
        let plan = Plan { seed, events: messages, from: noon.unix_timestamp(), spread_secs: 60, mixed: false };
        let bodies: Vec<Vec<u8>> = plan.events().map(|event| event.body).collect();
        let batch = BatchId::parse(format!("dt=2026-11-05/hh=12/{seed:064x}")).unwrap();
        let line = |(raw_line, body)| Line {
            bytes: body,
            source: "wechat",
            mapping: &Mapping::Wechat,
            mask: false,
            received_at: noon,
            raw_object: batch.as_str(),
            raw_line,
        };
        let lines: Vec<Line<'_>> = (1..).zip(bodies.iter().map(Vec::as_slice)).map(line).collect();
        let converted = convert(&lines, &Options::default()).unwrap();
        let written = write_parquet(Kind::Messages, &converted.batches[0].rows, Level::L0).unwrap();
        let mut added = Vec::new();
        for _ in 0..files {
            added.push(lake.write_batch_file(Kind::Messages, day(), &batch, &written).await.unwrap());
        }
        let mut counts = converted.counts();
        (counts.rows, counts.lines_in) = (counts.rows * files, counts.lines_in * files);
        lake.append(Kind::Messages, &added, &batch, counts).await.unwrap();
    }

    async fn files(lake: &Lake) -> Vec<(Option<Level>, u64)> {
        let files = lake.files(Kind::Messages, |_| true).await.unwrap();
        files.iter().map(|file| (Level::of(&file.path), file.rows)).collect()
    }

    async fn run(lake: &Lake) -> Vec<CompactJob> {
        carry_out_job(lake, CompactJob::due(Kind::Messages, day(), 1)).await
    }

    async fn carry_out_job(lake: &Lake, job: CompactJob) -> Vec<CompactJob> {
        let jobs = MemoryIntakes::default();
        let scratch = tempfile::tempdir().unwrap();
        carry_out(lake, &jobs, scratch.path(), serde_json::to_string(&job).unwrap()).await.unwrap();
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "nothing is left lying about");
        jobs.asked()
    }

    fn lake() -> (Lake, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        (Lake::open(&Settings::folder(folder.path())).unwrap(), folder)
    }

    #[tokio::test]
    async fn small_files_become_one_once_there_are_enough() {
        let (lake, _folder) = lake();
        assert!(run(&lake).await.is_empty(), "there is no table yet");
        append(&lake, 1, 1, 20).await;
        append(&lake, 2, 14, 10).await;
        assert!(run(&lake).await.is_empty());
        assert_eq!(files(&lake).await.len(), 15, "too few to merge");

        append(&lake, 3, 1, 5).await;
        assert!(run(&lake).await.is_empty(), "nothing is due any more");
        assert_eq!(files(&lake).await, [(Some(Level::L1), 35)]);
        let version = lake.version(Kind::Messages).await.unwrap();
        assert!(run(&lake).await.is_empty());
        assert_eq!(lake.version(Kind::Messages).await.unwrap(), version, "a second job finds nothing to do");
    }

    #[tokio::test]
    async fn what_does_not_fit_into_one_run_is_asked_for_again() {
        let (lake, _folder) = lake();
        append(&lake, 1, 1_020, 1).await;
        let again = run(&lake).await;
        let version = lake.version(Kind::Messages).await.unwrap().unwrap();
        assert_eq!(again, [CompactJob::due(Kind::Messages, day(), version)]);
        assert_eq!(files(&lake).await.len(), 21);
        assert!(run(&lake).await.is_empty());
        assert_eq!(files(&lake).await.len(), 2);
    }

    #[tokio::test]
    async fn merged_files_that_are_many_become_one_in_their_turn() {
        let (lake, _folder) = lake();
        for seed in 0..15 {
            append(&lake, seed, 16, 1).await;
            assert!(run(&lake).await.is_empty());
        }
        assert_eq!(files(&lake).await.len(), 15);
        append(&lake, 15, 16, 1).await;
        let again = run(&lake).await;
        assert_eq!((files(&lake).await.len(), again.len()), (16, 1), "the last merge leaves another one to do");
        assert!(carry_out_job(&lake, again[0].clone()).await.is_empty());
        assert_eq!(files(&lake).await, [(Some(Level::L1), 16)]);
    }

    #[tokio::test]
    async fn by_hand_two_files_are_enough() {
        let (lake, _folder) = lake();
        append(&lake, 1, 2, 10).await;
        assert!(run(&lake).await.is_empty());
        assert_eq!(files(&lake).await.len(), 2, "too few to be due");
        let wanted = CompactJob { by_hand: true, ..CompactJob::due(Kind::Messages, day(), 1) };
        assert!(carry_out_job(&lake, wanted.clone()).await.is_empty());
        assert_eq!(files(&lake).await, [(Some(Level::L1), 10)]);

        append(&lake, 2, 1, 5).await;
        assert!(carry_out_job(&lake, wanted).await.is_empty());
        assert_eq!(files(&lake).await, [(Some(Level::L1), 15)]);
    }

    #[tokio::test]
    async fn a_message_that_is_no_job_is_refused() {
        let (lake, folder) = lake();
        let (jobs, body) = (MemoryIntakes::default(), r#"{"kind":"messages"}"#.to_owned());
        let fault = carry_out(&lake, &jobs, folder.path(), body).await.unwrap_err();
        assert_eq!(fault.remedy(), Remedy::Reject(Refusal::Invalid));
    }
}
