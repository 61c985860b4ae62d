//! The bytes of objects and parts: immutable files, written once, read in ranges, deleted when nothing refers to them.
//!
//! An object is an ordered list of [`Segment`]s of such files. Completing a multipart upload or copying an object
//! therefore moves no bytes. A file is durable before any record names it, and records alone make it visible; a file that
//! no record names is left over from a crash and is deleted at the next start.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::Stream;
use rusqlite::{Connection, OptionalExtension as _, params};
use uuid::Uuid;

use crate::error::{BucketError, causes};

const READ_BYTES: u64 = 512 * 1024;
const WRITE_BUFFER_BYTES: usize = 256 * 1024;

/// A range of bytes of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) body: String,
    pub(crate) start: u64,
    pub(crate) length: u64,
}

/// A random name for a body, an upload or a list of segments.
pub(crate) fn new_id() -> String {
    #[expect(clippy::disallowed_methods, reason = "the one place where identifiers are made")]
    let id = Uuid::new_v4();
    id.simple().to_string()
}

pub(crate) struct Bodies {
    folder: PathBuf,
    readers: Mutex<Readers>,
}

/// One lock for "look up an object" and "delete its file", so that no reader finds a file that is about to go.
struct Readers {
    connection: Connection,
    pins: HashMap<String, usize>,
    /// Unreferenced while still being read; deleted by the last reader.
    doomed: HashSet<String>,
}

impl Bodies {
    /// Deletes the files that no segment names.
    pub(crate) fn open(folder: PathBuf, connection: Connection) -> Result<Self, BucketError> {
        fs::create_dir_all(&folder).map_err(BucketError::file(&folder))?;
        for entry in fs::read_dir(&folder).map_err(BucketError::file(&folder))? {
            let path = entry.map_err(BucketError::file(&folder))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !is_referenced(&connection, name)? {
                fs::remove_file(&path).map_err(BucketError::file(&path))?;
            }
        }
        let readers = Mutex::new(Readers { connection, pins: HashMap::new(), doomed: HashSet::new() });
        Ok(Self { folder, readers })
    }

    fn path(&self, body: &str) -> PathBuf {
        self.folder.join(body)
    }

    pub(crate) fn create(self: &Arc<Self>) -> Result<BodyWriter, BucketError> {
        let body = NewBody { bodies: self.clone(), name: Some(new_id()) };
        let path = body.path();
        let file = File::create_new(&path).map_err(BucketError::file(&path))?;
        Ok(BodyWriter { file: BufWriter::with_capacity(WRITE_BUFFER_BYTES, file), path, body })
    }

    /// Reads committed records, all as they were at one instant.
    pub(crate) fn query<T>(&self, query: impl FnOnce(&Connection) -> Result<T, BucketError>) -> Result<T, BucketError> {
        let readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        // The transaction ends when it is dropped; it changed nothing.
        let transaction = readers.connection.unchecked_transaction()?;
        query(&transaction)
    }

    /// Reads records that name segments, and keeps the segments' files until the [`Content`] is dropped.
    pub(crate) fn pin<T>(
        self: &Arc<Self>,
        query: impl FnOnce(&Connection) -> Result<(T, Vec<Segment>), BucketError>,
    ) -> Result<(T, Content), BucketError> {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = readers.connection.unchecked_transaction()?;
        let (found, segments) = query(&transaction)?;
        drop(transaction);
        for segment in &segments {
            *readers.pins.entry(segment.body.clone()).or_default() += 1;
        }
        Ok((found, Content { bodies: self.clone(), segments }))
    }

    /// Deletes those of the files that no segment names any more, now or when their last reader is done.
    pub(crate) fn discard(&self, bodies: Vec<String>) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        for body in bodies {
            if readers.pins.contains_key(&body) {
                readers.doomed.insert(body);
            } else {
                self.delete_unreferenced(&readers.connection, &body);
            }
        }
    }

    fn unpin(&self, segments: &[Segment]) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        for Segment { body, .. } in segments {
            let Some(pins) = readers.pins.get_mut(body) else { continue };
            *pins -= 1;
            if *pins == 0 {
                readers.pins.remove(body);
                if readers.doomed.remove(body) {
                    self.delete_unreferenced(&readers.connection, body);
                }
            }
        }
    }

    /// A failure only leaves a file behind, which the next start deletes.
    fn delete_unreferenced(&self, connection: &Connection, body: &str) {
        let path = self.path(body);
        let result = is_referenced(connection, body).and_then(|referenced| {
            if referenced { Ok(()) } else { fs::remove_file(&path).map_err(BucketError::file(&path)) }
        });
        if let Err(error) = result {
            tracing::warn!(error = %causes(&error), "Left the unused body `{body}` behind");
        }
    }
}

fn is_referenced(connection: &Connection, body: &str) -> Result<bool, BucketError> {
    let mut statement = connection.prepare_cached("SELECT 1 FROM segment WHERE body = ?1 LIMIT 1")?;
    Ok(statement.query_row(params![body], |_| Ok(())).optional()?.is_some())
}

/// A body being written.
pub(crate) struct BodyWriter {
    file: BufWriter<File>,
    path: PathBuf,
    body: NewBody,
}

impl BodyWriter {
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), BucketError> {
        self.file.write_all(bytes).map_err(BucketError::file(&self.path))
    }

    /// Returns once the bytes and the file's name are on disk.
    pub(crate) fn finish(self) -> Result<NewBody, BucketError> {
        let sync = |writer: BufWriter<File>| -> io::Result<()> {
            writer.into_inner()?.sync_all()?;
            File::open(&self.body.bodies.folder)?.sync_all()
        };
        sync(self.file).map_err(BucketError::file(&self.path))?;
        Ok(self.body)
    }
}

/// A file that no record names yet: deleted unless kept.
pub(crate) struct NewBody {
    bodies: Arc<Bodies>,
    name: Option<String>,
}

impl NewBody {
    pub(crate) fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    fn path(&self) -> PathBuf {
        self.bodies.path(self.name())
    }

    /// To be called once a committed record names the file.
    pub(crate) fn keep(mut self) {
        self.name = None;
    }
}

impl Drop for NewBody {
    fn drop(&mut self) {
        if self.name.is_some() {
            // The next start deletes what cannot be deleted now.
            let _ = fs::remove_file(self.path());
        }
    }
}

/// The segments of an object, whose files stay as long as this does.
pub(crate) struct Content {
    bodies: Arc<Bodies>,
    segments: Vec<Segment>,
}

impl Content {
    /// The segments that hold the bytes of `range`, which must lie within the object.
    pub(crate) fn range(&self, range: &Range<u64>) -> Vec<Segment> {
        let mut found = Vec::new();
        let mut offset = 0;
        for segment in &self.segments {
            let start = range.start.clamp(offset, offset + segment.length);
            let end = range.end.clamp(offset, offset + segment.length);
            if start < end {
                found.push(Segment {
                    body: segment.body.clone(),
                    start: segment.start + (start - offset),
                    length: end - start,
                });
            }
            offset += segment.length;
        }
        found
    }

    pub(crate) fn read(self, range: &Range<u64>) -> Reader {
        let mut segments = self.range(range);
        segments.reverse();
        Reader { content: self, remaining: segments, open: None }
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        self.bodies.unpin(&self.segments);
    }
}

/// Reads segments one after the other, in pieces of bounded size.
pub(crate) struct Reader {
    content: Content,
    /// Last first.
    remaining: Vec<Segment>,
    open: Option<(File, PathBuf, u64)>,
}

impl Reader {
    /// `None` at the end. Blocks.
    pub(crate) fn next_piece(&mut self) -> Result<Option<Bytes>, BucketError> {
        let (mut file, path, left) = match self.open.take() {
            Some(open) => open,
            None => {
                let Some(segment) = self.remaining.pop() else { return Ok(None) };
                let path = self.content.bodies.path(&segment.body);
                (open_at(&path, segment.start).map_err(BucketError::file(&path))?, path, segment.length)
            }
        };
        let length = left.min(READ_BYTES);
        let mut piece = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
        let read = (&mut file).take(length).read_to_end(&mut piece).map_err(BucketError::file(&path))? as u64;
        if read < length {
            return Err(BucketError::file(&path)(io::ErrorKind::UnexpectedEof.into()));
        }
        if left > length {
            self.open = Some((file, path, left - length));
        }
        Ok(Some(piece.into()))
    }

    /// Reads ahead of the consumer by nothing: each piece is read when it is asked for.
    pub(crate) fn into_stream(self) -> impl Stream<Item = Result<Bytes, BucketError>> + Send + Sync + 'static {
        futures_util::stream::try_unfold(self, |mut reader| async move {
            let (piece, reader) = tokio::task::spawn_blocking(move || (reader.next_piece(), reader))
                .await
                .map_err(BucketError::Stopping)?;
            Ok(piece?.map(|piece| (piece, reader)))
        })
    }
}

fn open_at(path: &Path, start: u64) -> io::Result<File> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    Ok(file)
}
