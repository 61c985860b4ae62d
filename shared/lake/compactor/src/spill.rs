//! Encoded pages on their way to a file: in memory while there is room, then in a file beside the outputs.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use parquet::column::page_store::{PageKey, PageStore, PageStoreArgs, PageStoreFactory};
use parquet::errors::{ParquetError, Result};

use crate::CompactError;

/// What all pages of a compaction share: the room that is left in memory, and the file for the others.
#[derive(Debug)]
pub(crate) struct Spill {
    file: File,
    room: Mutex<Room>,
}

#[derive(Debug)]
struct Room {
    in_memory: usize,
    in_file: u64,
}

impl Spill {
    /// The file is unnamed: it goes when the process does, however that ends.
    pub(crate) fn new(folder: &Path, memory_bytes: usize) -> std::result::Result<Arc<Self>, CompactError> {
        let file = unnamed(folder).map_err(|source| CompactError::Write { path: folder.to_owned(), source })?;
        Ok(Arc::new(Self { file, room: Mutex::new(Room { in_memory: memory_bytes, in_file: 0 }) }))
    }

    fn room(&self) -> std::sync::MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unnamed(folder: &Path) -> io::Result<File> {
    let path = folder.join("pages");
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}

/// Makes the stores of a compaction, one for each column chunk.
pub(crate) struct Stores(pub(crate) Arc<Spill>);

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stores").field(&self.0).finish()
    }
}

impl PageStoreFactory for Stores {
    fn create(&self, _: &PageStoreArgs<'_>) -> Result<Box<dyn PageStore>> {
        Ok(Box::new(Store { spill: Arc::clone(&self.0), pages: Vec::new() }))
    }
}

struct Store {
    spill: Arc<Spill>,
    pages: Vec<Page>,
}

enum Page {
    Held(Bytes),
    Written { start: u64, length: usize },
}

impl PageStore for Store {
    fn put(&mut self, value: Bytes) -> Result<PageKey> {
        let mut room = self.spill.room();
        let page = match room.in_memory.checked_sub(value.len()) {
            Some(left) => {
                room.in_memory = left;
                // A page may be a view into a buffer that is much larger.
                Page::Held(Bytes::copy_from_slice(&value))
            }
            None => {
                self.spill.file.write_all_at(&value, room.in_file)?;
                let page = Page::Written { start: room.in_file, length: value.len() };
                room.in_file += value.len() as u64;
                page
            }
        };
        drop(room);
        self.pages.push(page);
        Ok(PageKey::new(self.pages.len() as u64 - 1))
    }

    fn take(&mut self, key: PageKey) -> Result<Bytes> {
        let index = usize::try_from(key.get()).ok();
        let page = index.and_then(|index| self.pages.get_mut(index));
        match page {
            Some(Page::Held(bytes)) => {
                let bytes = std::mem::take(bytes);
                self.spill.room().in_memory += bytes.len();
                Ok(bytes)
            }
            Some(Page::Written { start, length }) => {
                let mut bytes = vec![0; *length];
                self.spill.file.read_exact_at(&mut bytes, *start)?;
                Ok(bytes.into())
            }
            None => Err(ParquetError::General(format!("no page has the key {}", key.get()))),
        }
    }
}
