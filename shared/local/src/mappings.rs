//! The template's event source mappings.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dynoxide::Database;
use local_lambda::Invoker;
use local_mapping::Shutdown;
use local_mapping::queue::{SqsMapping, SqsPoller};
use local_mapping::stream::{Checkpoints, StartingPosition, StreamMapping, StreamPoller};
use local_queue::pattern::Pattern;
use local_queue::sqs::Queues;
use local_template::{Bundle, Mapping, Source, StreamSource};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::delivery::Delivery;
use crate::lambda::destination_arn;
use crate::{StartError, arn, part};

/// What mappings read from and call.
pub(crate) struct Parts<'a> {
    pub(crate) database: Database,
    pub(crate) queues: Queues,
    pub(crate) invoker: Arc<dyn Invoker>,
    pub(crate) delivery: Arc<Delivery>,
    pub(crate) data: &'a Path,
}

pub(crate) async fn spawn(
    tasks: &mut JoinSet<()>,
    bundle: &Bundle,
    parts: Parts<'_>,
    shutdown: &Shutdown,
) -> Result<(), StartError> {
    let checkpoints = Checkpoints::open(&parts.data.join("checkpoint.db")).map_err(part("stream checkpoints"))?;
    for mapping in &bundle.mappings {
        let filters = mapping.filters.iter().map(|filter| Pattern::parse(filter)).collect::<Result<Vec<_>, _>>();
        let filters = filters.map_err(part("event source mapping's filter"))?;
        match &mapping.source {
            Source::Queue { queue, maximum_concurrency } => {
                // Whoever held these messages died with the runner before this one.
                parts.queues.return_in_flight(queue).await.map_err(part("queue mapping"))?;
                let poller = queue_poller(bundle, mapping, queue, *maximum_concurrency, filters, &parts)?;
                tasks.spawn(poller.run(shutdown.clone()));
            }
            Source::Stream(source) => {
                let mapping = stream_mapping(mapping, source, filters, &parts.database)?;
                let poller = StreamPoller::create(
                    mapping,
                    parts.database.clone(),
                    checkpoints.clone(),
                    parts.invoker.clone(),
                    parts.delivery.clone(),
                );
                tasks.spawn(poller.map_err(part("stream mapping"))?.run(shutdown.clone()));
            }
        }
    }
    Ok(())
}

fn queue_poller(
    bundle: &Bundle,
    mapping: &Mapping,
    name: &str,
    maximum_concurrency: Option<u32>,
    filters: Vec<Pattern>,
    parts: &Parts<'_>,
) -> Result<SqsPoller, StartError> {
    let queue = bundle.queues.iter().find(|queue| queue.name == name);
    let queue = queue.ok_or_else(|| StartError::Part {
        part: "queue mapping",
        cause: format!("the template declares no queue `{name}`").into(),
    })?;
    let mapping = SqsMapping {
        function: mapping.function.clone(),
        queue: name.to_owned(),
        queue_arn: arn::queue(name),
        batch_size: mapping.batch_size as usize,
        batching_window: Duration::from_secs(mapping.batching_window_secs.into()),
        report_batch_item_failures: mapping.reports_batch_item_failures,
        maximum_concurrency,
        filters,
        fifo: queue.fifo.is_some(),
        visibility_timeout: Duration::from_secs(queue.visibility_timeout_secs.into()),
        enabled: mapping.enabled,
    };
    SqsPoller::create(mapping, parts.queues.clone(), parts.invoker.clone()).map_err(part("queue mapping"))
}

fn stream_mapping(
    mapping: &Mapping,
    source: &StreamSource,
    filters: Vec<Pattern>,
    database: &Database,
) -> Result<StreamMapping, StartError> {
    Ok(StreamMapping {
        function: mapping.function.clone(),
        table: source.table.clone(),
        stream_arn: stream_arn(database, &source.table)?,
        batch_size: mapping.batch_size as usize,
        batching_window: Duration::from_secs(mapping.batching_window_secs.into()),
        starting_position: match source.starting_position {
            local_template::StartingPosition::TrimHorizon => StartingPosition::TrimHorizon,
            local_template::StartingPosition::Latest => StartingPosition::Latest,
        },
        parallelization_factor: source.parallelization_factor,
        bisect: source.bisects_batch_on_error,
        retries: source.maximum_retry_attempts,
        max_age: source.maximum_record_age_secs.map(|secs| Duration::from_secs(secs.into())),
        report_batch_item_failures: mapping.reports_batch_item_failures,
        on_failure: source.on_failure.as_ref().map(destination_arn),
        filters,
        enabled: mapping.enabled,
    })
}

/// The engine labels a stream when it is made, so only the engine knows its ARN.
fn stream_arn(database: &Database, table: &str) -> Result<String, StartError> {
    let request = serde_json::from_value(json!({ "TableName": table })).map_err(part("stream"))?;
    let described = database.describe_table(request).map_err(part("stream"))?;
    let described = serde_json::to_value(described).map_err(part("stream"))?;
    let arn = described.pointer("/Table/LatestStreamArn").and_then(Value::as_str);
    arn.map(str::to_owned).ok_or_else(|| StartError::Part {
        part: "stream mapping",
        cause: format!("table `{table}` has no stream").into(),
    })
}
