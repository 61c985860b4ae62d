//! Event source mappings: `SQS` and `DynamoDB` events of functions, and AWS::Lambda::EventSourceMapping.

use super::{Reader, target};
use crate::document::Resource;
use crate::fault::Result;
use crate::identity::{QUEUE, TABLE, generated_id, table_of_stream};
use crate::model::{Mapping, Source, StartingPosition, StreamSource};
use crate::props::Props;
use crate::scope::Scope;

impl Reader<'_> {
    pub(super) fn event_source_mapping(&mut self, resource: &Resource) -> Result<()> {
        let mut props = self.props(resource);
        let function = target::function(self.scope, &mut props, "FunctionName")?;
        let id = generated_id(&resource.logical_id);
        self.mapping(props, "EventSourceArn", id, function)
    }

    /// `source_key` holds the ARN of a queue or of a table's stream.
    pub(super) fn mapping(
        &mut self,
        mut props: Props<'_>,
        source_key: &str,
        id: String,
        function: String,
    ) -> Result<()> {
        let line = props.line();
        let arn_line = props.line_of(source_key);
        let arn = props.required(source_key)?;
        let table = table_of_stream(&arn).and_then(|table_arn| self.scope.by_arn(table_arn));
        let queue = self.scope.by_arn(&arn).filter(|resource| resource.type_name == QUEUE);
        let (source, default_batch_size) = match (queue, table.filter(|resource| resource.type_name == TABLE)) {
            (Some(queue), _) => (queue_source(self.scope.name_of(queue)?, &mut props)?, 10),
            (None, Some(table)) => (stream_source(self.scope, self.scope.name_of(table)?, &mut props)?, 100),
            (None, None) => {
                let what = format!("names no queue and no stream of this template: `{arn}`");
                return Err(props.fault(arn_line, source_key, what));
            }
        };
        let types = props.line_of("FunctionResponseTypes");
        let response_types = props.texts("FunctionResponseTypes")?;
        if let Some(other) = response_types.iter().find(|name| *name != "ReportBatchItemFailures") {
            return Err(props.fault(
                types,
                "FunctionResponseTypes",
                format!("can be `ReportBatchItemFailures`, not `{other}`"),
            ));
        }
        self.bundle.mappings.push(Mapping {
            id,
            function,
            enabled: props.flag("Enabled")?.unwrap_or(true),
            batch_size: props.number("BatchSize", 1..=10_000)?.unwrap_or(default_batch_size),
            batching_window_secs: props.number("MaximumBatchingWindowInSeconds", 0..=300)?.unwrap_or(0),
            filters: filters(&mut props)?,
            reports_batch_item_failures: !response_types.is_empty(),
            source,
            line,
        });
        props.without_effect(&["KmsKeyArn", "LoggingConfig", "MetricsConfig", "ProvisionedPollerConfig", "Tags"]);
        props.finish();
        Ok(())
    }
}

fn queue_source(queue: String, props: &mut Props<'_>) -> Result<Source> {
    let maximum_concurrency = match props.child("ScalingConfig")? {
        None => None,
        Some(mut scaling) => {
            let maximum = scaling.number("MaximumConcurrency", 2..=1000)?;
            scaling.finish();
            maximum
        }
    };
    Ok(Source::Queue { queue, maximum_concurrency })
}

fn stream_source(scope: &Scope<'_>, table: String, props: &mut Props<'_>) -> Result<Source> {
    if props.has("TumblingWindowInSeconds") {
        let line = props.line_of("TumblingWindowInSeconds");
        return Err(props.fault(
            line,
            "TumblingWindowInSeconds",
            "is not run locally, and no batch would be right without",
        ));
    }
    let positions = [("TRIM_HORIZON", StartingPosition::TrimHorizon), ("LATEST", StartingPosition::Latest)];
    let missing = props.missing("StartingPosition");
    let starting_position = props.choice("StartingPosition", &positions)?.ok_or(missing)?;
    let line = props.line_of("MaximumRecordAgeInSeconds");
    // -1 is AWS's word for no limit.
    let unlimited = |number: Option<i64>| number.and_then(|number| u32::try_from(number).ok());
    let maximum_retry_attempts = unlimited(props.number("MaximumRetryAttempts", -1..=10_000)?);
    let maximum_record_age_secs = unlimited(props.number("MaximumRecordAgeInSeconds", -1..=604_800)?);
    if maximum_record_age_secs.is_some_and(|age| age < 60) {
        return Err(props.fault(line, "MaximumRecordAgeInSeconds", "must be -1, or from 60 to 604800"));
    }
    let on_failure = match props.child("DestinationConfig")? {
        None => None,
        Some(mut config) => {
            let on_failure = target::destination(scope, &mut config, "OnFailure")?;
            config.finish();
            on_failure
        }
    };
    Ok(Source::Stream(StreamSource {
        table,
        starting_position,
        parallelization_factor: props.number("ParallelizationFactor", 1..=10)?.unwrap_or(1),
        bisects_batch_on_error: props.flag("BisectBatchOnFunctionError")?.unwrap_or(false),
        maximum_retry_attempts,
        maximum_record_age_secs,
        on_failure,
    }))
}

/// `FilterCriteria`: each pattern as JSON text.
fn filters(props: &mut Props<'_>) -> Result<Vec<String>> {
    let mut patterns = Vec::new();
    if let Some(mut criteria) = props.child("FilterCriteria")? {
        for mut filter in criteria.children("Filters")? {
            let missing = filter.missing("Pattern");
            patterns.push(filter.json_object("Pattern")?.ok_or(missing)?);
            filter.finish();
        }
        criteria.finish();
    }
    Ok(patterns)
}
