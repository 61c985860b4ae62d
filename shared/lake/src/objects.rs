//! Objects by key: what the log does not describe (raw batches, quarantine, schemas), and the bodies of data files.

use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Arc;

use bytes::Bytes;
use delta_kernel::object_store::path::Path;
use delta_kernel::object_store::{DynObjectStore, Error as StoreError, ObjectStoreExt as _, PutMode, WriteMultipart};
use futures_util::future::try_join_all;
use futures_util::stream::{StreamExt as _, TryStreamExt as _};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::fault::LakeFault;
use crate::runtime::Runtime;

/// How many objects are read or deleted at once.
pub(crate) const AT_ONCE: usize = 16;

/// How much of a large file is sent at once, and how many of such parts. S3 takes no smaller ones than 5 MiB.
const PART_BYTES: usize = 8 * 1024 * 1024;
const PARTS_AT_ONCE: usize = 3;

/// What a listing tells of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    pub key: String,
    pub bytes: u64,
    /// By the store's clock.
    pub modified_at: OffsetDateTime,
}

/// Whether an object was there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    Written,
    /// Somebody wrote it before, or an earlier try of ours did.
    AlreadyThere,
}

/// The objects of a lake.
#[derive(Debug, Clone)]
pub(crate) struct Objects {
    store: Arc<DynObjectStore>,
    prefix: Path,
    runtime: Runtime,
}

impl Objects {
    pub(crate) fn new(store: Arc<DynObjectStore>, prefix: Path, runtime: Runtime) -> Self {
        Self { store, prefix, runtime }
    }

    fn path(&self, key: &str) -> Result<Path, LakeFault> {
        let whole = if self.prefix.is_root() { key.to_owned() } else { format!("{}/{key}", self.prefix) };
        Path::parse(whole).map_err(|fault| LakeFault::broken("naming an object", fault))
    }

    fn key(&self, path: &Path) -> String {
        let whole = path.as_ref();
        let own = whole.strip_prefix(self.prefix.as_ref()).unwrap_or(whole);
        own.trim_start_matches('/').to_owned()
    }

    /// The whole object; `None` if there is none.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<Bytes>, LakeFault> {
        let (store, path) = (self.store.clone(), self.path(key)?);
        let read = self.runtime.run(async move { store.get(&path).await?.bytes().await }).await?;
        match read {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(fault) => Err(failed("reading an object", fault)),
        }
    }

    /// Ranges of an object, all asked for at once, in their order; `None` if there is no object.
    pub(crate) async fn get_ranges(&self, key: &str, ranges: Vec<Range<u64>>) -> Result<Option<Vec<Bytes>>, LakeFault> {
        let (store, path) = (self.store.clone(), self.path(key)?);
        let read = self
            .runtime
            .run(async move { try_join_all(ranges.into_iter().map(|range| store.get_range(&path, range))).await });
        match read.await? {
            Ok(parts) => Ok(Some(parts)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(fault) => Err(failed("reading a part of an object", fault)),
        }
    }

    /// Writes the object, whatever was there.
    pub(crate) async fn put(&self, key: &str, body: Bytes) -> Result<(), LakeFault> {
        let (store, path) = (self.store.clone(), self.path(key)?);
        let written = self.runtime.run(async move { store.put(&path, body.into()).await }).await?;
        written.map(|_| ()).map_err(|fault| failed("writing an object", fault))
    }

    /// Writes the object unless there is one. Of many who try, one is told `Written`; if its answer was lost, nobody is.
    pub(crate) async fn put_new(&self, key: &str, body: Bytes) -> Result<Put, LakeFault> {
        // S3 answers 409 while another conditional write of the key is under way: who won is not known until it is asked again.
        let (store, path) = (self.store.clone(), self.path(key)?);
        let written = self.runtime.run(async move { store.put_opts(&path, body.into(), PutMode::Create.into()).await });
        match written.await? {
            Ok(_) => Ok(Put::Written),
            Err(StoreError::AlreadyExists { .. }) if self.exists(key).await? => Ok(Put::AlreadyThere),
            Err(fault) => Err(failed("writing a new object", fault)),
        }
    }

    /// The object as a new file of this machine, a piece at a time. `false` if there is none.
    pub(crate) async fn download(&self, key: &str, file: &FilePath) -> Result<bool, LakeFault> {
        let (store, path, target) = (self.store.clone(), self.path(key)?, file.to_owned());
        let copied = self.runtime.run(async move {
            let mut pieces = store.get(&path).await?.into_stream();
            let mut file = tokio::fs::File::create(&target).await.map_err(local)?;
            while let Some(piece) = pieces.try_next().await? {
                file.write_all(&piece).await.map_err(local)?;
            }
            file.flush().await.map_err(local)
        });
        match copied.await? {
            Ok(()) => Ok(true),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(fault) => Err(failed("reading an object", fault)),
        }
    }

    /// Writes a file of this machine as an object, in parts if it is large: no more than a few parts are in memory.
    pub(crate) async fn upload(&self, key: &str, file: &FilePath) -> Result<(), LakeFault> {
        let (store, path, source) = (self.store.clone(), self.path(key)?, file.to_owned());
        let copied = self.runtime.run(async move {
            let mut file = tokio::fs::File::open(&source).await.map_err(local)?;
            if file.metadata().await.map_err(local)?.len() <= PART_BYTES as u64 {
                let mut whole = Vec::new();
                file.read_to_end(&mut whole).await.map_err(local)?;
                return store.put(&path, whole.into()).await.map(|_| ());
            }
            let mut parts = WriteMultipart::new_with_chunk_size(store.put_multipart(&path).await?, PART_BYTES);
            match send(&mut file, &mut parts).await {
                Ok(()) => parts.finish().await.map(|_| ()),
                Err(fault) => {
                    // If this fails too, the bucket's own rule takes the parts in a few days.
                    let _ = parts.abort().await;
                    Err(fault)
                }
            }
        });
        copied.await?.map_err(|fault| failed("writing an object", fault))
    }

    pub(crate) async fn exists(&self, key: &str) -> Result<bool, LakeFault> {
        Ok(self.head(key).await?.is_some())
    }

    pub(crate) async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, LakeFault> {
        let (store, path) = (self.store.clone(), self.path(key)?);
        match self.runtime.run(async move { store.head(&path).await }).await? {
            Ok(meta) => Ok(Some(self.info(&meta))),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(fault) => Err(failed("looking at an object", fault)),
        }
    }

    /// Every object whose key starts with the folder `prefix`, sorted by key.
    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, LakeFault> {
        let (store, path) = (self.store.clone(), self.path(prefix)?);
        let listed = self.runtime.run(async move { store.list(Some(&path)).try_collect::<Vec<_>>().await }).await?;
        let listed = listed.map_err(|fault| failed("listing objects", fault))?;
        let mut objects: Vec<_> = listed.iter().map(|meta| self.info(meta)).collect();
        objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    fn info(&self, meta: &delta_kernel::object_store::ObjectMeta) -> ObjectInfo {
        let nanos = i128::from(meta.last_modified.timestamp_millis()) * 1_000_000;
        let modified_at = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        ObjectInfo { key: self.key(&meta.location), bytes: meta.size, modified_at }
    }

    /// Deletes the objects; one that is gone already is fine.
    pub(crate) async fn delete(&self, keys: &[String]) -> Result<(), LakeFault> {
        let paths = keys.iter().map(|key| self.path(key)).collect::<Result<Vec<_>, _>>()?;
        let store = self.store.clone();
        let deleted = self.runtime.run(async move {
            let delete = async |path: Path| match store.delete(&path).await {
                Err(StoreError::NotFound { .. }) | Ok(()) => Ok(()),
                Err(fault) => Err(fault),
            };
            futures_util::stream::iter(paths.into_iter().map(delete))
                .buffer_unordered(AT_ONCE)
                .try_collect::<()>()
                .await
        });
        deleted.await?.map_err(|fault| failed("deleting objects", fault))
    }
}

async fn send(file: &mut tokio::fs::File, parts: &mut WriteMultipart) -> Result<(), StoreError> {
    loop {
        let mut piece = Vec::with_capacity(PART_BYTES);
        let read = file.take(PART_BYTES as u64).read_to_end(&mut piece).await.map_err(local)?;
        if read == 0 {
            return Ok(());
        }
        parts.wait_for_capacity(PARTS_AT_ONCE).await?;
        parts.put(piece.into());
    }
}

/// A failure of this machine's disk.
fn local(fault: std::io::Error) -> StoreError {
    StoreError::Generic { store: "file", source: Box::new(fault) }
}

/// Sorts what the store said into what may pass and what will not.
pub(crate) fn failed(operation: &'static str, fault: StoreError) -> LakeFault {
    match fault {
        StoreError::InvalidPath { .. }
        | StoreError::NotSupported { .. }
        | StoreError::NotImplemented { .. }
        | StoreError::PermissionDenied { .. }
        | StoreError::Unauthenticated { .. }
        | StoreError::UnknownConfigurationKey { .. } => LakeFault::broken(operation, fault),
        other => LakeFault::unavailable(operation, other),
    }
}
