//! What must hold between resources: AWS would refuse the deployment, so a local run does too.

use std::collections::BTreeMap;

use crate::fault::{Fault, Result};
use crate::model::{Bundle, Mapping, Source};
use crate::scope::Scope;

/// More than this many messages are gathered only over a window, and never from a FIFO queue.
const MAX_UNBATCHED: u32 = 10;

pub(super) fn bundle(scope: &Scope<'_>, bundle: &Bundle) -> Result<()> {
    names(bundle)?;
    routes(bundle)?;
    let mut sources = BTreeMap::new();
    for mapping in &bundle.mappings {
        match &mapping.source {
            Source::Queue { queue, maximum_concurrency } => {
                queue_mapping(bundle, mapping, queue)?;
                let function = bundle.functions.iter().find(|function| function.name == mapping.function);
                let reserved = function.and_then(|function| function.reserved_concurrency);
                if let (Some(maximum), Some(reserved)) = (maximum_concurrency, reserved)
                    && *maximum > reserved
                {
                    let message = format!(
                        "`MaximumConcurrency` {maximum} is above the function's reserved concurrency {reserved}"
                    );
                    scope.warn(mapping.line, message);
                }
            }
            Source::Stream(_) => {}
        }
        let source = match &mapping.source {
            Source::Queue { queue, .. } => ("queue", queue),
            Source::Stream(stream) => ("table", &stream.table),
        };
        if let Some(first) = sources.insert((&mapping.function, source), mapping.line) {
            let message =
                format!("function `{}` reads {} `{}` twice; see line {first}", mapping.function, source.0, source.1);
            return Err(Fault::new(mapping.line, message));
        }
    }
    Ok(())
}

fn queue_mapping(bundle: &Bundle, mapping: &Mapping, queue: &str) -> Result<()> {
    let fault = |message: String| Err(Fault::new(mapping.line, message));
    let Some(queue) = bundle.queues.iter().find(|other| other.name == queue) else { return Ok(()) };
    let function = bundle.functions.iter().find(|function| function.name == mapping.function);
    let Mapping { batch_size, batching_window_secs, .. } = mapping;
    if queue.fifo.is_some() && *batch_size > MAX_UNBATCHED {
        return fault(format!(
            "`BatchSize` {batch_size} is above {MAX_UNBATCHED}, the most of FIFO queue `{}`",
            queue.name
        ));
    }
    if queue.fifo.is_some() && *batching_window_secs > 0 {
        return fault(format!("FIFO queue `{}` takes no `MaximumBatchingWindowInSeconds`", queue.name));
    }
    if *batch_size > MAX_UNBATCHED && *batching_window_secs == 0 {
        let message =
            format!("`BatchSize` {batch_size} is above {MAX_UNBATCHED} and needs `MaximumBatchingWindowInSeconds`");
        return fault(message);
    }
    if let Some(function) = function
        && queue.visibility_timeout_secs < function.timeout_secs
    {
        return fault(format!(
            "queue `{}` has a visibility timeout of {} s, below the {} s that function `{}` may take",
            queue.logical_id, queue.visibility_timeout_secs, function.timeout_secs, function.logical_id
        ));
    }
    Ok(())
}

fn names(bundle: &Bundle) -> Result<()> {
    unique("function", bundle.functions.iter().map(|it| (it.name.clone(), it.line)))?;
    unique("table", bundle.tables.iter().map(|it| (it.name.clone(), it.line)))?;
    unique("queue", bundle.queues.iter().map(|it| (it.name.clone(), it.line)))?;
    unique("bucket", bundle.buckets.iter().map(|it| (it.name.clone(), it.line)))?;
    unique("event bus", bundle.buses.iter().map(|it| (it.name.clone(), it.line)))?;
    unique("rule", bundle.rules.iter().map(|it| (it.arn.clone(), it.line)))?;
    // A rule with several targets is several schedules of one line.
    let mut schedules: Vec<_> = bundle.schedules.iter().map(|it| (it.arn.clone(), it.line)).collect();
    schedules.dedup();
    unique("schedule", schedules.into_iter())
}

fn routes(bundle: &Bundle) -> Result<()> {
    let routes = bundle.http_api.iter().flat_map(|api| &api.routes);
    unique("route", routes.map(|route| (shape(&route.route_key), route.line)))?;
    let routes = bundle.websocket_api.iter().flat_map(|api| &api.routes);
    unique("route", routes.map(|route| (route.route_key.clone(), route.line)))
}

/// `/a/{b}` and `/a/{c}` are the same path.
fn shape(route_key: &str) -> String {
    let shaped = route_key.split('/').map(|segment| match (segment.starts_with('{'), segment.ends_with("+}")) {
        (true, true) => "{+}",
        (true, false) => "{}",
        (false, _) => segment,
    });
    shaped.collect::<Vec<_>>().join("/")
}

fn unique(kind: &str, things: impl Iterator<Item = (String, usize)>) -> Result<()> {
    let mut seen = BTreeMap::new();
    for (name, line) in things {
        if let Some(first) = seen.insert(name.clone(), line) {
            return Err(Fault::new(line, format!("{kind} `{name}` is declared twice; see line {first}")));
        }
    }
    Ok(())
}
