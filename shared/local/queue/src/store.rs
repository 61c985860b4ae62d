//! One SQLite file: a single writer thread commits whatever waits in one durable transaction.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::oneshot;

/// How many writes share one commit at most: bounds the memory and the latency of a transaction.
const COMMIT_TOGETHER: usize = 512;

/// Why the data file could not answer. Nothing was acknowledged.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open `{path}`")]
    Open {
        path: PathBuf,
        #[source]
        source: Arc<rusqlite::Error>,
    },
    #[error("cannot start the writer thread")]
    Thread(#[source] Arc<std::io::Error>),
    #[error("the data file refused a statement")]
    Statement(#[source] Arc<rusqlite::Error>),
    #[error("the data file is closed")]
    Closed,
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Statement(Arc::new(error))
    }
}

/// Told, once the commit is done, whether the work is durable.
type Completion = Box<dyn FnOnce(Result<(), StoreError>)>;
type Job = Box<dyn FnOnce(Result<&mut Transaction<'_>, StoreError>) -> Completion + Send>;

/// The file. Dropping it finishes the writes that wait and closes it.
#[derive(Debug)]
pub(crate) struct Store {
    jobs: Option<Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    reader: Mutex<Connection>,
}

impl Store {
    /// Opens or creates the file and applies `schema`, which must be safe to repeat.
    pub(crate) fn open(path: &Path, schema: &str) -> Result<Self, StoreError> {
        let connect = || -> Result<Connection, rusqlite::Error> {
            let connection = Connection::open(path)?;
            connection.busy_timeout(Duration::from_secs(30))?;
            connection.execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
                 PRAGMA journal_size_limit = 67108864; PRAGMA temp_store = MEMORY;",
            )?;
            connection.set_prepared_statement_cache_capacity(64);
            Ok(connection)
        };
        let open = || {
            let mut connection = connect()?;
            let creation = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            creation.execute_batch(schema)?;
            creation.commit()?;
            Ok((connection, connect()?))
        };
        let (writing, reading) = open()
            .map_err(|source: rusqlite::Error| StoreError::Open { path: path.into(), source: Arc::new(source) })?;
        let (jobs, waiting) = mpsc::channel();
        let writer = thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || write_until_closed(writing, &waiting))
            .map_err(|error| StoreError::Thread(Arc::new(error)))?;
        Ok(Self { jobs: Some(jobs), writer: Some(writer), reader: Mutex::new(reading) })
    }

    /// Runs `work` in a transaction and answers once it is durable. An error of `work` undoes `work` alone.
    /// Work whose caller has gone away before its turn does not run.
    pub(crate) async fn write<T, E>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        self.submit(Box::new(move |transaction| {
            if reply.is_closed() {
                return Box::new(|_| ());
            }
            let outcome = attempt(transaction, work);
            // A caller that has left by now finds its work done, as after a lost answer.
            Box::new(move |committed| drop(reply.send(committed.map_err(E::from).and(outcome))))
        }))?;
        answer.await.unwrap_or_else(|_| Err(StoreError::Closed.into()))
    }

    /// As [`Store::write`], blocking the calling thread: for the few calls made while a process starts.
    pub(crate) fn write_blocking<T, E>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (reply, answer) = mpsc::sync_channel(1);
        self.submit(Box::new(move |transaction| {
            let outcome = attempt(transaction, work);
            Box::new(move |committed| drop(reply.send(committed.map_err(E::from).and(outcome))))
        }))?;
        answer.recv().unwrap_or_else(|_| Err(StoreError::Closed.into()))
    }

    /// Reads what is committed, without waiting for the writer.
    pub(crate) fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<T, StoreError> {
        Ok(query(&self.reader.lock().unwrap_or_else(PoisonError::into_inner))?)
    }

    fn submit(&self, job: Job) -> Result<(), StoreError> {
        self.jobs.as_ref().and_then(|jobs| jobs.send(job).ok()).ok_or(StoreError::Closed)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the writer thread of a data file panicked");
        }
    }
}

fn attempt<T, E: From<StoreError>>(
    transaction: Result<&mut Transaction<'_>, StoreError>,
    work: impl FnOnce(&Connection) -> Result<T, E>,
) -> Result<T, E> {
    let savepoint = transaction?.savepoint().map_err(StoreError::from)?;
    let value = work(&savepoint)?;
    savepoint.commit().map_err(StoreError::from)?;
    Ok(value)
}

fn write_until_closed(mut connection: Connection, waiting: &Receiver<Job>) {
    while let Ok(first) = waiting.recv() {
        let mut completions = Vec::new();
        let committed = match connection.transaction_with_behavior(TransactionBehavior::Immediate) {
            Ok(mut transaction) => {
                let others = std::iter::from_fn(|| waiting.try_recv().ok());
                for job in std::iter::once(first).chain(others).take(COMMIT_TOGETHER) {
                    completions.push(job(Ok(&mut transaction)));
                }
                transaction.commit().map_err(StoreError::from)
            }
            Err(error) => {
                let error = StoreError::from(error);
                completions.push(first(Err(error.clone())));
                Err(error)
            }
        };
        for complete in completions {
            complete(committed.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS notes (text TEXT NOT NULL)";

    fn texts(store: &Store) -> Vec<String> {
        store
            .read(|connection| connection.prepare("SELECT text FROM notes")?.query_map([], |row| row.get(0))?.collect())
            .unwrap()
    }

    #[tokio::test]
    async fn a_failing_write_undoes_itself_and_not_its_neighbours() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("notes.db"), SCHEMA).unwrap();
        let insert = |text: &'static str, then: Result<(), StoreError>| {
            store.write(move |connection| {
                connection.execute("INSERT INTO notes VALUES (?1)", [text])?;
                then
            })
        };
        let (kept, failed, also_kept) =
            tokio::join!(insert("one", Ok(())), insert("two", Err(StoreError::Closed)), insert("three", Ok(())));
        assert!(kept.is_ok() && failed.is_err() && also_kept.is_ok());
        assert_eq!(texts(&store), ["one", "three"]);
    }

    #[tokio::test]
    async fn a_write_whose_caller_left_while_it_waited_does_not_run() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("notes.db"), SCHEMA).unwrap();
        let (open_gate, gate) = mpsc::channel::<()>();
        let blocked = store.write(move |_| {
            let _ = gate.recv();
            Ok::<_, StoreError>(())
        });
        let mut blocked = Box::pin(blocked);
        assert!(poll_once(&mut blocked).await.is_none());
        let mut abandoned = Box::pin(store.write(|connection| {
            connection.execute("INSERT INTO notes VALUES ('abandoned')", [])?;
            Ok::<_, StoreError>(())
        }));
        assert!(poll_once(&mut abandoned).await.is_none());
        drop(abandoned);
        drop(open_gate);
        blocked.await.unwrap();
        assert_eq!(texts(&store), [""; 0]);
    }

    async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(context) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
