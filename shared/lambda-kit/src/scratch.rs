//! Room on disk that survives nothing.
//!
//! A run that is killed tidies nothing up, and the disk of a warm environment keeps what it left, until there is no room for the next run. So a
//! process takes a folder that a dead one had, if there is one, and empties it.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// More processes of one function than ever run on one machine; Lambda runs one.
const PROCESSES: u32 = 256;

/// A folder that is this process's own for as long as this lives.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
    /// Released by the system when the process ends, however it ends.
    _lock: File,
}

impl Scratch {
    /// Takes a folder of the function `name`, empty, below the place for temporary files.
    pub fn take(name: &str) -> io::Result<Self> {
        Self::below(&std::env::temp_dir(), name)
    }

    fn below(parent: &Path, name: &str) -> io::Result<Self> {
        for number in 0..PROCESSES {
            let folder = parent.join(format!("skylark-{name}-{number}"));
            let lock = match File::create(folder.with_extension("lock")) {
                // Of somebody else on this machine.
                Err(fault) if fault.kind() == io::ErrorKind::PermissionDenied => continue,
                lock => lock?,
            };
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(fault)) => return Err(fault),
            }
            match std::fs::remove_dir_all(&folder) {
                Err(fault) if fault.kind() != io::ErrorKind::NotFound => return Err(fault),
                _ => std::fs::create_dir(&folder)?,
            }
            return Ok(Self { folder, _lock: lock });
        }
        Err(io::Error::other(format!("{PROCESSES} processes of `{name}` have a folder in `{}`", parent.display())))
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.folder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_of_one_process_and_what_a_dead_one_left_is_gone() {
        let parent = std::env::temp_dir().join(format!("skylark-scratch-{}", std::process::id()));
        std::fs::create_dir(&parent).unwrap();
        let take = || Scratch::below(&parent, "lake-compact").unwrap();
        let entries = |scratch: &Scratch| std::fs::read_dir(scratch.path()).unwrap().count();
        let (one, other) = (take(), take());
        assert_ne!(one.path(), other.path());
        for scratch in [&one, &other] {
            std::fs::create_dir(scratch.path().join("merge")).unwrap();
            std::fs::write(scratch.path().join("merge/in-00000.parquet"), "PAR1").unwrap();
        }
        let left = one.path().to_owned();
        drop(one);
        let next = take();
        assert_eq!((next.path(), entries(&next)), (left.as_path(), 0));
        assert_eq!(entries(&other), 1, "who lives keeps what it has");
        std::fs::remove_dir_all(parent).unwrap();
    }
}
