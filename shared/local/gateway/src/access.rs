//! One access log line per request, and the hook that counts them.

use std::{sync::Arc, time::Duration};

/// One request that the gateway has answered, as in API Gateway's access logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRecord {
    pub api_id: String,
    pub request_id: String,
    /// Absent when no route was chosen: 404, 413, 431, a preflight, `@connections`.
    pub route_key: Option<String>,
    pub status: u16,
    pub latency: Duration,
}

/// Called once for each request, after the answer is known and before it is sent. It must not block.
pub type Observer = Arc<dyn Fn(&AccessRecord) + Send + Sync>;

pub(crate) fn report(observer: Option<&Observer>, record: &AccessRecord) {
    let AccessRecord { api_id, request_id, route_key, status, latency } = record;
    let route = route_key.as_deref().unwrap_or("-");
    let latency_ms = latency.as_millis();
    tracing::info!(
        api.id = %api_id,
        request.id = %request_id,
        route.key = %route,
        http.status = *status,
        latency_ms = latency_ms as u64,
        "`{route}` answered {status} in {latency_ms} ms"
    );
    if let Some(observer) = observer {
        observer(record);
    }
}
