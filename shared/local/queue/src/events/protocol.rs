//! The AWS JSON 1.1 protocol of EventBridge, for every operation the emulation knows.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Buses, EventEntry, EventError, Rule, Target, bus_name};
use crate::pattern::Pattern;
use crate::store::StoreError;
use crate::wire::{self, chain};

impl Buses {
    /// Answers one request of the JSON protocol; `operation` is what follows `AWSEvents.` in `X-Amz-Target`.
    pub async fn handle(&self, operation: &str, body: Bytes) -> Response<Bytes> {
        match self.dispatch(operation, &body).await {
            Ok(answer) => wire::answer("1.1", StatusCode::OK, &answer),
            Err(error) => refuse(operation, &error),
        }
    }

    async fn dispatch(&self, operation: &str, body: &Bytes) -> Result<Value, EventError> {
        match operation {
            "PutEvents" => {
                let answers = self.put_events(read::<PutEvents>(body)?.entries).await?;
                let failed = answers.iter().filter(|answer| answer.is_err()).count();
                let entries: Vec<_> = answers
                    .into_iter()
                    .map(|answer| match answer {
                        Ok(id) => json!({"EventId": id}),
                        Err(error) => json!({"ErrorCode": error.code, "ErrorMessage": error.message}),
                    })
                    .collect();
                Ok(json!({"FailedEntryCount": failed, "Entries": entries}))
            }
            "CreateEventBus" => {
                let request: Named = read(body)?;
                if self.has_bus(&request.name) {
                    return Err(EventError::ResourceAlreadyExists(request.name));
                }
                let arn = self.blocking(move |buses| buses.create_bus(&request.name)).await?;
                Ok(json!({"EventBusArn": arn}))
            }
            "DescribeEventBus" => {
                let request: Named = read(body)?;
                let bus = bus_name(Some(&request.name));
                self.bus_rules(bus)?;
                Ok(json!({"Name": bus, "Arn": self.bus_arn(bus)}))
            }
            "ListEventBuses" => {
                let request: List = read(body)?;
                let (names, next) = request.page(self.bus_names());
                let buses: Vec<_> =
                    names.into_iter().map(|name| json!({"Name": name, "Arn": self.bus_arn(&name)})).collect();
                Ok(with_next(json!({"EventBuses": buses}), next))
            }
            "PutRule" => self.handle_put_rule(read(body)?).await,
            "DescribeRule" => {
                let request: Named = read(body)?;
                let bus = bus_name(request.event_bus_name.as_deref());
                Ok(describe(bus, &request.name, &*self.rule(&request.name, bus)?))
            }
            "ListRules" => {
                let request: List = read(body)?;
                let bus = bus_name(request.event_bus_name.as_deref());
                let rules = self.bus_rules(bus)?;
                let (names, next) = request.page(rules.keys().cloned().collect());
                let rules: Vec<_> =
                    names.iter().filter_map(|name| rules.get(name).map(|rule| describe(bus, name, rule))).collect();
                Ok(with_next(json!({"Rules": rules}), next))
            }
            "DeleteRule" => {
                let request: Named = read(body)?;
                let change =
                    move |buses: &Self| buses.delete_rule(&request.name, bus_name(request.event_bus_name.as_deref()));
                self.blocking(change).await?;
                Ok(json!({}))
            }
            "PutTargets" => {
                let request: PutTargets = read(body)?;
                let change = move |buses: &Self| {
                    buses.put_targets(&request.rule, bus_name(request.event_bus_name.as_deref()), request.targets)
                };
                self.blocking(change).await?;
                Ok(json!({"FailedEntryCount": 0, "FailedEntries": []}))
            }
            "RemoveTargets" => {
                let request: RemoveTargets = read(body)?;
                let change = move |buses: &Self| {
                    buses.remove_targets(&request.rule, bus_name(request.event_bus_name.as_deref()), &request.ids)
                };
                self.blocking(change).await?;
                Ok(json!({"FailedEntryCount": 0, "FailedEntries": []}))
            }
            "ListTargetsByRule" => {
                let request: ListTargets = read(body)?;
                let rule = self.rule(&request.rule, bus_name(request.event_bus_name.as_deref()))?;
                Ok(json!({"Targets": rule.targets}))
            }
            "TestEventPattern" => {
                let request: TestEventPattern = read(body)?;
                let event: Value = serde_json::from_str(&request.event)
                    .map_err(|_| EventError::Validation("Parameter Event is not valid.".into()))?;
                Ok(json!({"Result": Pattern::parse(&request.event_pattern)?.matches(&event)}))
            }
            _ => Err(EventError::UnknownOperation(operation.into())),
        }
    }

    async fn handle_put_rule(&self, request: PutRule) -> Result<Value, EventError> {
        if let Some(schedule) = request.schedule_expression {
            return Err(EventError::Validation(format!(
                "Parameter ScheduleExpression is not valid. Reason: rules with a schedule (`{schedule}`) are not \
                 emulated; declare the schedule on the function in the template."
            )));
        }
        let pattern = request.event_pattern.ok_or_else(|| {
            EventError::Validation("Parameter(s) EventPattern or ScheduleExpression must be specified.".into())
        })?;
        let is_enabled = match request.state.as_deref() {
            None | Some("ENABLED" | "ENABLED_WITH_ALL_CLOUDTRAIL_MANAGEMENT_EVENTS") => true,
            Some("DISABLED") => false,
            Some(other) => return Err(EventError::Validation(format!("Parameter State is not valid: `{other}`"))),
        };
        let change = move |buses: &Self| {
            let bus = bus_name(request.event_bus_name.as_deref());
            buses.put_rule(&request.name, bus, &pattern, is_enabled)
        };
        Ok(json!({"RuleArn": self.blocking(change).await?}))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Self) -> Result<T, EventError> + Send + 'static,
    ) -> Result<T, EventError> {
        let buses = self.clone();
        let changed = tokio::task::spawn_blocking(move || change(&buses)).await;
        changed.unwrap_or(Err(EventError::Store(StoreError::Closed)))
    }
}

fn refuse(operation: &str, error: &EventError) -> Response<Bytes> {
    let code = match error {
        EventError::ResourceNotFound(_) => "ResourceNotFoundException",
        EventError::ResourceAlreadyExists(_) => "ResourceAlreadyExistsException",
        EventError::InvalidEventPattern(_) => "InvalidEventPatternException",
        EventError::Validation(_) => "ValidationException",
        EventError::LimitExceeded(_) => "LimitExceededException",
        EventError::UnknownOperation(_) => "UnknownOperationException",
        EventError::Malformed(_) => "SerializationException",
        EventError::NoRuntime | EventError::Store(_) => "InternalException",
    };
    let status = if code == "InternalException" {
        tracing::error!(error = %chain(error), operation, "EventBridge operation failed");
        StatusCode::INTERNAL_SERVER_ERROR
    } else {
        StatusCode::BAD_REQUEST
    };
    wire::answer("1.1", status, &json!({"__type": code, "message": error.to_string()}))
}

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, EventError> {
    wire::read(body).map_err(EventError::Malformed)
}

fn describe(bus: &str, name: &str, rule: &Rule) -> Value {
    json!({
        "Name": name,
        "Arn": rule.arn,
        "EventPattern": rule.pattern_text,
        "State": if rule.is_enabled { "ENABLED" } else { "DISABLED" },
        "EventBusName": bus,
    })
}

fn with_next(mut answer: Value, next: Option<String>) -> Value {
    if let (Some(next), Some(fields)) = (next, answer.as_object_mut()) {
        fields.insert("NextToken".into(), json!(next));
    }
    answer
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PutEvents {
    #[serde(default)]
    entries: Vec<EventEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Named {
    #[serde(default)]
    name: String,
    event_bus_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct List {
    name_prefix: Option<String>,
    event_bus_name: Option<String>,
    next_token: Option<String>,
    limit: Option<usize>,
}

impl List {
    /// The names of this page, and the token of the next.
    fn page(&self, mut names: Vec<String>) -> (Vec<String>, Option<String>) {
        let prefix = self.name_prefix.as_deref().unwrap_or_default();
        let after = self.next_token.as_deref().unwrap_or_default();
        names.retain(|name| name.starts_with(prefix) && name.as_str() > after);
        let limit = self.limit.unwrap_or(100).clamp(1, 100);
        let next = names.get(limit).and(names.get(limit - 1)).cloned();
        names.truncate(limit);
        (names, next)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PutRule {
    #[serde(default)]
    name: String,
    event_bus_name: Option<String>,
    event_pattern: Option<String>,
    schedule_expression: Option<String>,
    state: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PutTargets {
    #[serde(default)]
    rule: String,
    event_bus_name: Option<String>,
    #[serde(default)]
    targets: Vec<Target>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RemoveTargets {
    #[serde(default)]
    rule: String,
    event_bus_name: Option<String>,
    #[serde(default)]
    ids: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListTargets {
    #[serde(default)]
    rule: String,
    event_bus_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TestEventPattern {
    #[serde(default)]
    event_pattern: String,
    #[serde(default)]
    event: String,
}
