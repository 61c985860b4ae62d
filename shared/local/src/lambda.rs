//! The template's functions as Lambda runs them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use local_lambda::{FunctionConfig, Functions, LogSink, Settings};
use local_template::{Bundle, Destination, Function, Target};

use crate::arn::{self, REGION};
use crate::clock::{self, Offset};
use crate::delivery::Delivery;
use crate::{SECRET_KEY, StartError, part};

pub(crate) fn functions(
    bundle: &Bundle,
    binaries: &BTreeMap<String, PathBuf>,
    data: &Path,
    aws_endpoint: &str,
    offset: Offset,
    delivery: Arc<Delivery>,
    log: Arc<dyn LogSink>,
) -> Result<Functions, StartError> {
    let configs = bundle.functions.iter().filter_map(|function| {
        let binary = binaries.get(&function.binary)?;
        Some(config(function, binary, aws_endpoint, offset))
    });
    let mut settings = Settings::new(REGION, data.join("lambda"), log, delivery);
    settings.log_dir = data.join("logs");
    Functions::new(configs.collect(), settings).map_err(part("functions"))
}

fn config(function: &Function, binary: &Path, aws_endpoint: &str, offset: Offset) -> FunctionConfig {
    let asynchronous = &function.asynchronous;
    let mut config = FunctionConfig::new(&function.name, &function.arn, binary);
    config.environment.clone_from(&function.environment);
    let own = [
        ("AWS_ENDPOINT_URL", aws_endpoint),
        // The key id is the function's name: that is how its requests are counted.
        ("AWS_ACCESS_KEY_ID", &function.name),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
        // People read these logs: plain text, whatever format the template gives CloudWatch.
        ("AWS_LAMBDA_LOG_FORMAT", "Text"),
        ("NO_COLOR", "1"),
    ];
    config.environment.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
    config.environment.insert(clock::VARIABLE.to_owned(), offset.ahead_secs.to_string());
    if let Some(level) = &function.logging.application_level {
        config.environment.insert("AWS_LAMBDA_LOG_LEVEL".to_owned(), level.clone());
    }
    config.timeout = Duration::from_secs(function.timeout_secs.into());
    config.memory_mb = function.memory_mb;
    config.reserved_concurrency = function.reserved_concurrency;
    config.async_retries = u8::try_from(asynchronous.maximum_retry_attempts).unwrap_or(2);
    config.async_max_age = Duration::from_secs(asynchronous.maximum_event_age_secs.into());
    config.on_success = asynchronous.on_success.as_ref().map(destination_arn);
    config.on_failure = asynchronous.on_failure.as_ref().map(destination_arn);
    config.dead_letter = asynchronous.dead_letter_queue.as_deref().map(arn::queue);
    config
}

pub(crate) fn destination_arn(destination: &Destination) -> String {
    match destination {
        Destination::Queue(name) => arn::queue(name),
        Destination::Function(name) => arn::function(name),
        Destination::Bus(name) => arn::bus(name),
        Destination::Bucket(name) => arn::bucket(name),
    }
}

/// Takes every other function out, and whatever would call it.
pub(crate) fn keep_only(bundle: &mut Bundle, kept: &[String]) {
    let is_kept = |name: &String| kept.contains(name);
    let reaches = |target: &Target| !matches!(target, Target::Function(name) if !is_kept(name));
    bundle.functions.retain(|function| is_kept(&function.name));
    bundle.mappings.retain(|mapping| is_kept(&mapping.function));
    bundle.schedules.retain(|schedule| reaches(&schedule.target));
    for rule in &mut bundle.rules {
        rule.targets.retain(|target| reaches(&target.target));
    }
    for bucket in &mut bundle.buckets {
        bucket.notifications.retain(|notification| reaches(&notification.target));
    }
    if let Some(api) = &mut bundle.http_api {
        api.routes.retain(|route| is_kept(&route.function));
    }
    if let Some(api) = &mut bundle.websocket_api {
        api.routes.retain(|route| is_kept(&route.function));
        if api.authorizer.as_ref().is_some_and(|authorizer| !is_kept(&authorizer.function)) {
            api.authorizer = None;
        }
    }
}
