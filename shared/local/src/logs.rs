//! What functions print, as one readable stream on stderr; each function also has a file of its own.

use std::io::{self, Write as _};

use local_lambda::{LogLine, LogSink, LogSource};
use time::macros::format_description;

/// Writes each line whole, with the time, the function and the request that it belongs to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stderr;

/// Leaves it at the functions' own files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Nowhere;

impl LogSink for Nowhere {
    fn write(&self, _: &LogLine<'_>) {}
}

impl LogSink for Stderr {
    fn write(&self, line: &LogLine<'_>) {
        // START and END only bracket what the request id says anyway; the function's file has them.
        if line.source == LogSource::Platform && (line.text.starts_with("START ") || line.text.starts_with("END ")) {
            return;
        }
        let time =
            line.time.format(format_description!("[hour]:[minute]:[second].[subsecond digits:3]")).unwrap_or_default();
        let request = line.request_id.and_then(|id| id.get(..8)).unwrap_or("init    ");
        // With stderr gone there is nobody left to tell.
        let _ = writeln!(io::stderr().lock(), "{time} {:<16} {request} {}", line.function, line.text.trim_end());
    }
}
