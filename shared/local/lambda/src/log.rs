//! What functions print, line by line, each line with the request it belongs to.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::net::unix::pipe::Receiver;

use crate::origin;

/// CloudWatch Logs takes no longer events.
const LINE_LIMIT: usize = 256 * 1024;
const CUT_MARK: &str = " [cut: longer than 262144 bytes]";

/// Takes each line as it is complete. Called from the tasks that run functions: it must not block for long.
pub trait LogSink: Send + Sync {
    fn write(&self, line: &LogLine<'_>);
}

impl<F: Fn(&LogLine<'_>) + Send + Sync> LogSink for F {
    fn write(&self, line: &LogLine<'_>) {
        self(line);
    }
}

/// One line, without its line feed.
#[derive(Debug, Clone, Copy)]
pub struct LogLine<'a> {
    pub time: OffsetDateTime,
    pub function: &'a str,
    /// The end of the log stream's name, one per process.
    pub environment: &'a str,
    /// The invocation during which the line was printed; none during initialisation.
    pub request_id: Option<&'a str>,
    pub source: LogSource,
    pub text: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogSource {
    Stdout,
    Stderr,
    /// Lambda's own lines: START, END, REPORT, INIT_REPORT and what ended a process.
    Platform,
}

/// The log of one function: the sink all functions share, and a file of its own.
pub(crate) struct FunctionLog {
    function: String,
    sink: Arc<dyn LogSink>,
    file: Mutex<File>,
}

impl FunctionLog {
    pub(crate) fn open(directory: &Path, function: &str, sink: Arc<dyn LogSink>) -> io::Result<Arc<Self>> {
        std::fs::create_dir_all(directory)?;
        let file = OpenOptions::new().append(true).create(true).open(directory.join(format!("{function}.log")))?;
        Ok(Arc::new(Self { function: function.to_owned(), sink, file: Mutex::new(file) }))
    }

    /// One of Lambda's own lines.
    pub(crate) fn platform(&self, environment: &str, request_id: Option<&str>, text: &str) {
        self.write(environment, request_id, LogSource::Platform, text);
    }

    fn write(&self, environment: &str, request_id: Option<&str>, source: LogSource, text: &str) {
        let time = origin::now();
        self.sink.write(&LogLine { time, function: &self.function, environment, request_id, source, text });
        let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
        let stamp = time.format(format).unwrap_or_default();
        let line = format!("{stamp} {} {text}\n", request_id.unwrap_or("-"));
        // A full disk must not stop functions; the sink has the line.
        let _ = self.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
    }
}

/// The output of one process.
pub(crate) struct EnvironmentLog {
    function: Arc<FunctionLog>,
    environment: String,
    request_id: Mutex<Option<String>>,
    outputs: [Output; 2],
}

struct Output {
    source: LogSource,
    pipe: Receiver,
    unfinished: Mutex<LineBuffer>,
}

impl EnvironmentLog {
    /// A log, and what the process is to have as standard output and standard error. Must be called within a Tokio runtime.
    pub(crate) fn new(function: Arc<FunctionLog>, environment: &str) -> io::Result<(Arc<Self>, Stdio, Stdio)> {
        let output = |source| -> io::Result<(Output, Stdio)> {
            let (reader, writer) = io::pipe()?;
            let pipe = Receiver::from_owned_fd(OwnedFd::from(reader))?;
            Ok((Output { source, pipe, unfinished: Mutex::default() }, Stdio::from(writer)))
        };
        let (stdout, stdout_writer) = output(LogSource::Stdout)?;
        let (stderr, stderr_writer) = output(LogSource::Stderr)?;
        let log = Arc::new(Self {
            function,
            environment: environment.to_owned(),
            request_id: Mutex::default(),
            outputs: [stdout, stderr],
        });
        for index in 0..log.outputs.len() {
            let log = Arc::clone(&log);
            tokio::spawn(async move { log.follow(index).await });
        }
        Ok((log, stdout_writer, stderr_writer))
    }

    /// From here on lines belong to `request_id`. What was printed before is written out first.
    pub(crate) fn attribute_to(&self, request_id: Option<&str>) {
        self.drain();
        *self.request_id.lock().unwrap_or_else(PoisonError::into_inner) = request_id.map(str::to_owned);
    }

    /// Writes all complete lines the process has printed so far, whether or not the pipes were reported readable: a line
    /// printed before a response is sent is in the pipe before that response arrives.
    pub(crate) fn drain(&self) {
        for output in &self.outputs {
            // At the end of the stream and at an empty pipe alike there is nothing more to do here: `follow` sees the end.
            let _ = self.read(output, |buffer| nix::unistd::read(output.pipe.as_fd(), buffer).map_err(Errno::into));
        }
    }

    /// As [`drain`](Self::drain), for a process that has ended: its last line counts without a line feed.
    pub(crate) fn drain_to_end(&self) {
        self.drain();
        self.outputs.iter().for_each(|output| self.finish(output));
    }

    async fn follow(&self, index: usize) {
        let Some(output) = self.outputs.get(index) else { return };
        while output.pipe.readable().await.is_ok() {
            match self.read(output, |buffer| output.pipe.try_read(buffer)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(()) | Err(_) => break,
            }
        }
        self.finish(output);
    }

    fn finish(&self, output: &Output) {
        let rest = output.unfinished.lock().unwrap_or_else(PoisonError::into_inner).finish();
        if let Some(text) = rest {
            self.line(output.source, &text);
        }
    }

    /// Reads until the pipe is empty, which is an error of kind `WouldBlock`, or its end.
    fn read(&self, output: &Output, mut read: impl FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        // Held across the read, so that two readers cannot swap what they read.
        let mut unfinished = output.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    unfinished.push(buffer.get(..count).unwrap_or_default(), |text| self.line(output.source, text));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn line(&self, source: LogSource, text: &str) {
        let request_id = self.request_id.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.function.write(&self.environment, request_id.as_deref(), source, text);
    }
}

/// Cuts a stream of bytes into lines of at most [`LINE_LIMIT`] bytes.
#[derive(Debug, Default)]
struct LineBuffer {
    bytes: Vec<u8>,
    /// The line exceeds the limit; the rest of it is dropped.
    cut: bool,
}

impl LineBuffer {
    fn push(&mut self, mut input: &[u8], mut line: impl FnMut(&str)) {
        while let Some(end) = input.iter().position(|byte| *byte == b'\n') {
            let (head, tail) = input.split_at(end);
            self.extend(head);
            line(&self.take());
            input = tail.get(1..).unwrap_or_default();
        }
        self.extend(input);
    }

    /// The last line, if it had no line feed.
    fn finish(&mut self) -> Option<String> {
        (!self.bytes.is_empty()).then(|| self.take())
    }

    fn extend(&mut self, input: &[u8]) {
        let room = LINE_LIMIT.saturating_sub(self.bytes.len());
        self.cut |= input.len() > room;
        self.bytes.extend_from_slice(input.get(..room).unwrap_or(input));
    }

    fn take(&mut self) -> String {
        let mut bytes = std::mem::take(&mut self.bytes);
        let cut = std::mem::take(&mut self.cut);
        if cut {
            // Not within a character.
            let whole = std::str::from_utf8(&bytes).map_or_else(|error| error.valid_up_to(), str::len);
            if bytes.len() - whole < 4 {
                bytes.truncate(whole);
            }
        } else if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        if cut {
            text.push_str(CUT_MARK);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<String> {
        let mut buffer = LineBuffer::default();
        let mut lines = Vec::new();
        for chunk in chunks {
            buffer.push(chunk, |line| lines.push(line.to_owned()));
        }
        lines.extend(buffer.finish());
        lines
    }

    #[test]
    fn lines_are_the_same_however_the_stream_is_chunked() {
        let text = "eins\n\n消息 🚀\r\nlast".as_bytes();
        let expected = ["eins", "", "消息 🚀", "last"];
        for size in 1..=text.len() {
            assert_eq!(lines(&text.chunks(size).collect::<Vec<_>>()), expected, "chunks of {size}");
        }
    }

    #[test]
    fn a_line_over_the_limit_is_cut_between_characters_and_marked() {
        let long = "消".repeat(LINE_LIMIT);
        let found = lines(&[long.as_bytes(), b"\nnext\n"]);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].len(), LINE_LIMIT / 3 * 3 + CUT_MARK.len());
        assert!(found[0].ends_with(&format!("消{CUT_MARK}")));
        assert_eq!(found[1], "next");
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_whole() {
        let exact = "x".repeat(LINE_LIMIT);
        assert_eq!(lines(&[exact.as_bytes(), b"\n"]), [exact]);
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_replaced() {
        assert_eq!(lines(&[b"a\xffb\n"]), ["a\u{fffd}b"]);
    }
}
