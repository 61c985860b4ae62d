//! DynamoDB stream mapping: records of a table's stream become batches, in order, at least once.

mod checkpoint;
mod failure;
mod index;
mod lane;
mod progress;
mod shard;
mod source;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dynoxide::Database;
use local_lambda::Invoker;
use local_queue::pattern::Pattern;
use tokio::task::JoinSet;

pub use self::checkpoint::{CheckpointError, Checkpoints};
use self::failure::Destination;
pub use self::index::{IndexError, index_records};
use self::source::Source;
pub use self::source::SourceError;
use crate::{Backoff, Counters, Shutdown};

/// An `AWS::Lambda::EventSourceMapping` on a DynamoDB stream.
#[derive(Debug, Clone)]
pub struct StreamMapping {
    pub function: String,
    pub table: String,
    /// What records carry as `eventSourceARN`; with the function it identifies the mapping, so that a new stream
    /// starts anew.
    pub stream_arn: String,
    /// 1 to 10,000 records.
    pub batch_size: usize,
    /// Up to 300 s to gather a full batch, counted from its first record.
    pub batching_window: Duration,
    pub starting_position: StartingPosition,
    /// 1 to 10 batches of a shard at once; records of one item keep their order.
    pub parallelization_factor: u32,
    /// `BisectBatchOnFunctionError`.
    pub bisect: bool,
    /// `MaximumRetryAttempts`; `None` retries for ever.
    pub retries: Option<u32>,
    /// `MaximumRecordAgeInSeconds`; `None` keeps records however old they are.
    pub max_age: Option<Duration>,
    pub report_batch_item_failures: bool,
    /// The ARN of a queue or a bucket.
    pub on_failure: Option<String>,
    /// A record passes if it matches any of them, or if there are none.
    pub filters: Vec<Pattern>,
    pub enabled: bool,
}

/// Where a mapping that has no checkpoint yet begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartingPosition {
    /// With the oldest record of the stream.
    TrimHorizon,
    /// With the first record written after the mapping was created.
    Latest,
}

/// How often a shard is read and how long a failure waits; the default is Lambda's base rate of four reads a second.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub poll: Duration,
    pub backoff: Backoff,
}

impl Default for Pace {
    fn default() -> Self {
        Self { poll: Duration::from_millis(250), backoff: Backoff::default() }
    }
}

/// Where discarded records go.
#[async_trait]
pub trait Destinations: Send + Sync {
    /// Stores an object. Called again with the same key and body if it fails.
    async fn put_object(&self, bucket: &str, key: &str, body: Bytes) -> Result<(), DestinationError>;
    /// Sends a message. Called again with the same body if it fails.
    async fn send_message(&self, queue_arn: &str, body: String) -> Result<(), DestinationError>;
}

/// Why a destination did not take a record.
#[derive(Debug, thiserror::Error)]
#[error("`{destination}` did not take the record")]
pub struct DestinationError {
    pub destination: String,
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Why a mapping cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("`{field}` is {value}; it must be {allowed}")]
    OutOfRange { field: &'static str, value: u64, allowed: &'static str },
    #[error("`OnFailure` destination `{0}` is neither a queue nor a bucket")]
    UnknownDestination(String),
    #[error("the stream of table `{table}` cannot be read")]
    Source {
        table: String,
        #[source]
        source: SourceError,
    },
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// Reads one stream and calls one function.
pub struct StreamPoller {
    mapping: StreamMapping,
    /// The mapping's own id, kept with its checkpoints.
    uuid: String,
    source: Source,
    checkpoints: Checkpoints,
    invoker: Arc<dyn Invoker>,
    destination: Option<Destination>,
    destinations: Arc<dyn Destinations>,
    counters: Arc<Counters>,
    pace: Pace,
}

impl std::fmt::Debug for StreamPoller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamPoller").field("mapping", &self.mapping).field("uuid", &self.uuid).finish_non_exhaustive()
    }
}

impl StreamPoller {
    /// Creates the mapping, or finds it again with its checkpoints. The table must exist with its stream enabled.
    ///
    /// A mapping that starts at [`StartingPosition::Latest`] covers what is written from the first time on that this
    /// returned, whether or not it runs then. Blocks for a few milliseconds.
    pub fn create(
        mapping: StreamMapping,
        database: Database,
        checkpoints: Checkpoints,
        invoker: Arc<dyn Invoker>,
        destinations: Arc<dyn Destinations>,
    ) -> Result<Self, StreamError> {
        check(&mapping)?;
        let destination = mapping.on_failure.as_deref().map(Destination::parse).transpose()?;
        let source = Source::new(database, mapping.stream_arn.clone());
        let shards = source.shards().map_err(|source| StreamError::Source { table: mapping.table.clone(), source })?;
        let starts = match mapping.starting_position {
            StartingPosition::TrimHorizon => Vec::new(),
            StartingPosition::Latest => {
                shards.into_iter().filter_map(|shard| Some((shard.id, shard.last_sequence_number?))).collect()
            }
        };
        let uuid = checkpoints.register(&mapping.function, &mapping.stream_arn, &starts)?;
        Ok(Self {
            mapping,
            uuid,
            source,
            checkpoints,
            invoker,
            destination,
            destinations,
            counters: Arc::default(),
            pace: Pace::default(),
        })
    }

    /// Reads and retries at another pace than Lambda's.
    #[must_use]
    pub fn with_pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Runs until the signal; a batch that is with the function is waited for and checkpointed. Whatever was not
    /// checkpointed is delivered again by the next run.
    pub async fn run(self, mut shutdown: Shutdown) {
        if !self.mapping.enabled {
            return;
        }
        let poller = Arc::new(self);
        let Some(shards) = shard::list(&poller, &mut shutdown).await else { return };
        let mut readers = JoinSet::new();
        for shard in shards {
            readers.spawn(shard::read(Arc::clone(&poller), shard.id, shutdown.clone()));
        }
        while readers.join_next().await.is_some() {}
    }
}

fn check(mapping: &StreamMapping) -> Result<(), StreamError> {
    let in_range = |field, value: u64, range: std::ops::RangeInclusive<u64>, allowed| {
        if range.contains(&value) { Ok(()) } else { Err(StreamError::OutOfRange { field, value, allowed }) }
    };
    let batch_size = u64::try_from(mapping.batch_size).unwrap_or(u64::MAX);
    in_range("BatchSize", batch_size, 1..=10_000, "1 to 10000")?;
    in_range("MaximumBatchingWindowInSeconds", mapping.batching_window.as_secs(), 0..=300, "0 to 300")?;
    in_range("ParallelizationFactor", mapping.parallelization_factor.into(), 1..=10, "1 to 10")?;
    if let Some(retries) = mapping.retries {
        in_range("MaximumRetryAttempts", retries.into(), 0..=10_000, "-1 to 10000")?;
    }
    if let Some(age) = mapping.max_age {
        in_range("MaximumRecordAgeInSeconds", age.as_secs(), 60..=604_800, "-1 or 60 to 604800")?;
    }
    Ok(())
}
