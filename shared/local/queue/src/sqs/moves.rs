//! Message move tasks: what `StartMessageMoveTask` begins, to bring dead letters back.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::messages::redrive;
use super::{Queue, QueueError, Queues, Shared};
use crate::store::StoreError;
use crate::wire::{chain, new_id};

/// How many messages one transaction moves.
const STEP: u32 = 100;

/// A task as `ListMessageMoveTasks` reports it.
#[derive(Debug, Clone)]
pub(super) struct Move {
    pub(super) handle: String,
    pub(super) source_arn: String,
    /// Without it every message goes back to the queue it was dead-lettered from.
    pub(super) destination_arn: Option<String>,
    pub(super) per_second: Option<u32>,
    /// Younger messages stay, so that a task ends even if its messages fail again.
    last_id: i64,
    pub(super) moved: i64,
    pub(super) to_move: i64,
    pub(super) status: String,
    pub(super) failure: Option<String>,
    pub(super) started_ms: i64,
}

const MOVE: &str = "handle, source, destination, per_second, last_id, moved, to_move, status, failure, started_ms";

fn read_move(row: &Row<'_>) -> Result<Move, rusqlite::Error> {
    Ok(Move {
        handle: row.get(0)?,
        source_arn: row.get(1)?,
        destination_arn: row.get(2)?,
        per_second: row.get(3)?,
        last_id: row.get(4)?,
        moved: row.get(5)?,
        to_move: row.get(6)?,
        status: row.get(7)?,
        failure: row.get(8)?,
        started_ms: row.get(9)?,
    })
}

impl Queues {
    /// Moves what a dead-letter queue holds now, in the background and across restarts, to `destination_arn` or back
    /// to where each message came from. Returns the task handle. Moved messages get new ids, as on AWS.
    pub async fn start_move(
        &self,
        source_arn: &str,
        destination_arn: Option<&str>,
        per_second: Option<u32>,
    ) -> Result<String, QueueError> {
        if per_second.is_some_and(|rate| !(1..=500).contains(&rate)) {
            return Err(QueueError::invalid("MaxNumberOfMessagesPerSecond", "Must be between 1 and 500."));
        }
        let source = self.find_move_queue(source_arn)?;
        if self.sources_of(source_arn).is_empty() {
            return Err(QueueError::invalid("SourceArn", "Source queue must be configured as a Dead Letter Queue."));
        }
        if let Some(destination_arn) = destination_arn {
            let destination = self.find_move_queue(destination_arn)?;
            if destination.id == source.id {
                return Err(QueueError::invalid("DestinationArn", "Source queue and destination queue are the same."));
            }
            if destination.attributes.fifo != source.attributes.fifo {
                return Err(QueueError::invalid("DestinationArn", "Both queues must be of the same type."));
            }
        }
        let task = Move {
            handle: new_id(),
            source_arn: source_arn.into(),
            destination_arn: destination_arn.map(Into::into),
            per_second,
            last_id: 0,
            moved: 0,
            to_move: 0,
            status: "RUNNING".into(),
            failure: None,
            started_ms: self.now(),
        };
        let handle = task.handle.clone();
        let task = self.0.store.write(move |connection| begin(connection, &source, task)).await?;
        self.spawn_move(task)?;
        Ok(handle)
    }

    /// The latest tasks of a source queue, newest first.
    pub(super) fn moves(&self, source_arn: &str, limit: u32) -> Result<Vec<Move>, QueueError> {
        self.find_move_queue(source_arn)?;
        Ok(self.0.store.read(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT {MOVE} FROM message_moves WHERE source = ?1 ORDER BY started_ms DESC, rowid DESC LIMIT ?2"
                ))?
                .query_map(params![source_arn, limit], read_move)?
                .collect()
        })?)
    }

    /// Stops a running task where it is and returns how many messages it has moved.
    pub(super) async fn cancel_move(&self, handle: String) -> Result<i64, QueueError> {
        self.0
            .store
            .write(move |connection| {
                connection
                    .query_row(
                        "UPDATE message_moves SET status = 'CANCELLED' WHERE handle = ?1 AND status = 'RUNNING'
                         RETURNING moved",
                        [&handle],
                        |row| row.get(0),
                    )
                    .optional()?
                    .ok_or_else(|| QueueError::ResourceNotFound("Task does not exist or is not running.".into()))
            })
            .await
    }

    /// Goes on with the tasks that were running when the file was last closed.
    pub(super) fn resume_moves(&self) -> Result<(), QueueError> {
        let running = self.0.store.read(|connection| {
            connection
                .prepare(&format!("SELECT {MOVE} FROM message_moves WHERE status = 'RUNNING'"))?
                .query_map([], read_move)?
                .collect::<Result<Vec<_>, _>>()
        })?;
        running.into_iter().try_for_each(|task| self.spawn_move(task))
    }

    fn find_move_queue(&self, arn: &str) -> Result<Arc<Queue>, QueueError> {
        self.find_by_arn(arn).ok_or_else(|| {
            QueueError::ResourceNotFound(format!("The resource `{arn}` that you specified does not exist."))
        })
    }

    /// A thread of its own, because a task may pause between its steps and outlives the call that started it.
    fn spawn_move(&self, task: Move) -> Result<(), QueueError> {
        let shared = Arc::downgrade(&self.0);
        thread::Builder::new()
            .name("message-move".into())
            .spawn(move || run(&shared, &task))
            .map(drop)
            .map_err(|error| QueueError::Store(StoreError::Thread(Arc::new(error))))
    }

    /// Moves some messages; `None` once the task has ended.
    fn step(&self, task: &Move) -> Result<Option<u32>, QueueError> {
        let limit = task.per_second.map_or(STEP, |rate| rate.min(STEP));
        let (queues, task, now) = (self.clone(), task.clone(), self.now());
        let (touched, moved) = self.0.store.write_blocking(move |connection| {
            let status: String = connection
                .prepare_cached("SELECT status FROM message_moves WHERE handle = ?1")?
                .query_row([&task.handle], |row| row.get(0))?;
            if status == "RUNNING" { move_some(connection, &queues, &task, limit, now) } else { Ok((Vec::new(), None)) }
        })?;
        for queue in touched {
            queue.arrivals.notify_waiters();
        }
        Ok(moved)
    }
}

fn begin(connection: &Connection, source: &Queue, mut task: Move) -> Result<Move, QueueError> {
    let is_running = connection
        .prepare("SELECT 1 FROM message_moves WHERE source = ?1 AND status = 'RUNNING'")?
        .exists([&task.source_arn])?;
    if is_running {
        return Err(QueueError::UnsupportedOperation(
            "There is already a task running. Only one active task is allowed for a source queue arn at a given time."
                .into(),
        ));
    }
    (task.to_move, task.last_id) = connection.query_row(
        "SELECT COUNT(*), COALESCE(MAX(id), 0) FROM messages WHERE queue = ?1 AND visible_ms <= ?2",
        params![source.id, task.started_ms],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    connection.execute(
        &format!("INSERT INTO message_moves ({MOVE}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"),
        params![
            task.handle,
            task.source_arn,
            task.destination_arn,
            task.per_second,
            task.last_id,
            task.moved,
            task.to_move,
            task.status,
            task.failure,
            task.started_ms
        ],
    )?;
    Ok(task)
}

/// Steps until the task ends or every [`Queues`] is dropped; a later open goes on.
fn run(shared: &Weak<Shared>, task: &Move) {
    while let Some(queues) = shared.upgrade().map(Queues) {
        match queues.step(task) {
            Ok(None) => return,
            Ok(Some(moved)) => {
                drop(queues);
                if let Some(rate) = task.per_second {
                    thread::sleep(Duration::from_secs(1) * moved / rate);
                }
            }
            Err(error) => {
                tracing::error!(error = %chain(&error), task.handle, "message move task stopped; it goes on at the next start");
                return;
            }
        }
    }
}

fn move_some(
    connection: &Connection,
    queues: &Queues,
    task: &Move,
    limit: u32,
    now: i64,
) -> Result<(Vec<Arc<Queue>>, Option<u32>), QueueError> {
    let finish = |status: &str, failure: Option<&str>| {
        connection.execute(
            "UPDATE message_moves SET status = ?2, failure = ?3 WHERE handle = ?1",
            params![task.handle, status, failure],
        )
    };
    let Some(source) = queues.find_by_arn(&task.source_arn) else {
        finish("FAILED", Some("AWS.SimpleQueueService.NonExistentQueue"))?;
        return Ok((Vec::new(), None));
    };
    let messages = connection
        .prepare_cached(
            "SELECT id, source FROM messages WHERE queue = ?1 AND id <= ?2 AND visible_ms <= ?3 ORDER BY id LIMIT ?4",
        )?
        .query_map(params![source.id, task.last_id, now, limit], |row| {
            Ok((row.get(0)?, row.get::<_, Option<String>>(1)?))
        })?
        .collect::<Result<Vec<_>, _>>()?;
    if messages.is_empty() {
        finish("COMPLETED", None)?;
        return Ok((Vec::new(), None));
    }
    let (mut touched, mut moved) = (Vec::new(), 0);
    let mut failure = None;
    for (id, from) in messages {
        let Some(arn) = task.destination_arn.as_ref().or(from.as_ref()) else {
            failure = Some("CouldNotDetermineMessageSource");
            break;
        };
        let Some(destination) = queues.find_by_arn(arn) else {
            failure = Some("AWS.SimpleQueueService.NonExistentQueue");
            break;
        };
        redrive(connection, id, &destination, now)?;
        touched.push(destination);
        moved += 1;
    }
    connection.execute("UPDATE message_moves SET moved = moved + ?2 WHERE handle = ?1", params![task.handle, moved])?;
    if let Some(failure) = failure {
        finish("FAILED", Some(failure))?;
        return Ok((touched, None));
    }
    Ok((touched, Some(moved)))
}
