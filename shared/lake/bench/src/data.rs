//! A day of messages in small files, as appending leaves them: in the order of arrival, some of them once more. The same data each time.

use std::io;
use std::path::{Path, PathBuf};

use domain::lake::Kind;
use domain::lake::source::Mapping;
use lake_rows::{Level, Line, Options, convert, write_parquet};
use lake_sample::Plan;
use time::{Duration, OffsetDateTime};

use crate::peers::BenchError;

/// An hour into a day, so that none of its messages is of another one.
const FROM: i64 = 1_793_840_400;
const SPREAD_SECS: i64 = 79_200;

/// Writes the files, unless the folder has as many, and tells their bytes.
pub(crate) fn small_files(folder: &Path, events: u32, count: u32) -> Result<u64, BenchError> {
    std::fs::create_dir_all(folder)?;
    if files(folder)?.len() != count as usize {
        let plan = Plan { seed: 6, events: events.into(), from: FROM, spread_secs: SPREAD_SECS, mixed: true };
        let (mut all, begin) = (plan.events(), OffsetDateTime::from_unix_timestamp(FROM)?);
        let mapping = Mapping::Wechat;
        for file in 0..u64::from(count) {
            let share = |file: u64| u64::from(events) * file / u64::from(count);
            let bodies: Vec<Vec<u8>> =
                all.by_ref().take((share(file + 1) - share(file)) as usize).map(|event| event.body).collect();
            let raw_object = format!("dt=2026-11-05/hh=00/{file:064x}");
            let lines = (1..).zip(&bodies).map(|(raw_line, body)| Line {
                bytes: body,
                source: "wechat",
                mapping: &mapping,
                mask: false,
                received_at: begin + Duration::milliseconds((share(file) + raw_line) as i64),
                raw_object: &raw_object,
                raw_line,
            });
            for batch in convert(&lines.collect::<Vec<_>>(), &Options::default())?.batches {
                if batch.table == Kind::Messages {
                    let written = write_parquet(batch.table, &batch.rows, Level::L0)?;
                    std::fs::write(folder.join(format!("L0-{file:06}-{}.parquet", batch.partition)), &written.bytes)?;
                }
            }
        }
    }
    Ok(bytes(&files(folder)?)?)
}

/// The Parquet files of a folder, by name.
pub(crate) fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries: io::Result<Vec<_>> = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect();
    let mut files: Vec<_> =
        entries?.into_iter().filter(|path| path.extension().is_some_and(|it| it == "parquet")).collect();
    files.sort_unstable();
    Ok(files)
}

pub(crate) fn bytes(files: &[PathBuf]) -> io::Result<u64> {
    files.iter().map(|file| Ok(std::fs::metadata(file)?.len())).sum()
}

/// Brings a folder's files into the system's memory.
pub(crate) fn read_all(folder: &Path) -> io::Result<()> {
    files(folder)?.iter().try_for_each(|file| io::copy(&mut std::fs::File::open(file)?, &mut io::sink()).map(drop))
}
