//! What a resource is called on this machine: physical names, ARNs, and what `Ref` and `GetAtt` answer.

use crate::document::{Resource, SERVERLESS_FUNCTION, SERVERLESS_HTTP_API};
use crate::fault::{Fault, Result};
use crate::scope::Scope;

pub(crate) const QUEUE: &str = "AWS::SQS::Queue";
pub(crate) const TABLE: &str = "AWS::DynamoDB::Table";
pub(crate) const BUCKET: &str = "AWS::S3::Bucket";
pub(crate) const EVENT_BUS: &str = "AWS::Events::EventBus";
pub(crate) const RULE: &str = "AWS::Events::Rule";
pub(crate) const SCHEDULE: &str = "AWS::Scheduler::Schedule";
pub(crate) const SCHEDULE_GROUP: &str = "AWS::Scheduler::ScheduleGroup";
pub(crate) const KEY: &str = "AWS::KMS::Key";
pub(crate) const KEY_ALIAS: &str = "AWS::KMS::Alias";
pub(crate) const WEBSOCKET_API: &str = "AWS::ApiGatewayV2::Api";
pub(crate) const WEBSOCKET_STAGE: &str = "AWS::ApiGatewayV2::Stage";
pub(crate) const EVENT_SOURCE_MAPPING: &str = "AWS::Lambda::EventSourceMapping";
const LOG_GROUP: &str = "AWS::Logs::LogGroup";

pub(crate) const FIFO_SUFFIX: &str = ".fifo";

/// Which property names a resource, and what the service accepts.
struct Naming {
    property: &'static str,
    min: usize,
    max: usize,
    extra: &'static str,
    case: Case,
}

#[derive(PartialEq)]
enum Case {
    Any,
    Lower,
}

fn naming(type_name: &str) -> Naming {
    let (property, min, max, extra, case) = match type_name {
        SERVERLESS_FUNCTION => ("FunctionName", 1, 64, "-_", Case::Any),
        QUEUE => ("QueueName", 1, 80, "-_", Case::Any),
        TABLE => ("TableName", 3, 255, "-_.", Case::Any),
        BUCKET => ("BucketName", 3, 63, "-.", Case::Lower),
        EVENT_BUS => ("Name", 1, 256, "-_./", Case::Any),
        RULE | SCHEDULE | SCHEDULE_GROUP => ("Name", 1, 64, "-_.", Case::Any),
        LOG_GROUP => ("LogGroupName", 1, 512, "-_./#", Case::Any),
        KEY_ALIAS => ("AliasName", 1, 256, "-_/:", Case::Any),
        "AWS::IAM::Role" => ("RoleName", 1, 64, "-_+=,.@", Case::Any),
        WEBSOCKET_STAGE => ("StageName", 1, 128, "-_$", Case::Any),
        _ => ("", 1, 255, "-_", Case::Any),
    };
    Naming { property, min, max, extra, case }
}

impl Naming {
    fn allows(&self, c: char) -> bool {
        let letter = match self.case {
            Case::Any => c.is_ascii_alphanumeric(),
            Case::Lower => c.is_ascii_lowercase() || c.is_ascii_digit(),
        };
        letter || self.extra.contains(c)
    }

    fn generate(&self, scope: &Scope<'_>, logical_id: &str, reserved: usize) -> String {
        let full = format!("{}-{logical_id}", scope.place.stack_name);
        let full = if self.case == Case::Lower { full.to_lowercase() } else { full };
        let valid: String = full.chars().map(|c| if self.allows(c) { c } else { '-' }).collect();
        // Cut at the front: what tells two resources apart is at the end.
        let start = valid.len().saturating_sub(self.max.saturating_sub(reserved));
        valid.get(start..).unwrap_or(&valid).trim_start_matches('-').to_owned()
    }
}

/// The declared name, else `{stack}-{LogicalId}` made valid for the service.
pub(crate) fn physical_name(scope: &Scope<'_>, resource: &Resource) -> Result<String> {
    let naming = naming(&resource.type_name);
    let is_fifo = resource.type_name == QUEUE && is_fifo(scope, resource)?;
    let suffix = if is_fifo { FIFO_SUFFIX } else { "" };
    if let Some(property) = resource.property(naming.property)
        && let Some(declared) = scope.resolve(property)?
    {
        let must = |what: String| {
            let message = format!("`{}` of `{}` must {what}", naming.property, resource.logical_id);
            Fault::new(property.line, message)
        };
        let name = declared.as_text().ok_or_else(|| must("be text".to_owned()))?;
        let stem = match name.strip_suffix(FIFO_SUFFIX) {
            Some(stem) if is_fifo => stem,
            None if is_fifo => return Err(must(format!("end in `.fifo`, not be `{name}`"))),
            Some(_) if resource.type_name == QUEUE => {
                return Err(must(format!("not end in `.fifo` without `FifoQueue: true`: `{name}`")));
            }
            _ => name,
        };
        if !stem.chars().all(|c| naming.allows(c)) {
            let case = if naming.case == Case::Lower { "lower-case letters" } else { "letters" };
            return Err(must(format!("be {case}, digits and any of `{}`, not `{name}`", naming.extra)));
        }
        if !(naming.min..=naming.max).contains(&name.len()) || stem.is_empty() {
            return Err(must(format!("have {} to {} characters: `{name}`", naming.min, naming.max)));
        }
        return Ok(name.to_owned());
    }
    Ok(format!("{}{suffix}", naming.generate(scope, &resource.logical_id, suffix.len())))
}

/// The name of the rule or schedule that SAM makes for a function's event.
pub(crate) fn name_of_event(scope: &Scope<'_>, id: &str) -> String {
    naming(RULE).generate(scope, id, 0)
}

fn is_fifo(scope: &Scope<'_>, queue: &Resource) -> Result<bool> {
    let Some(node) = queue.property("FifoQueue") else { return Ok(false) };
    let resolved = scope.resolve(node)?;
    Ok(resolved.as_ref().and_then(|node| node.as_text()).is_some_and(|text| text.eq_ignore_ascii_case("true")))
}

/// What API Gateway's generated ids look like: letters and digits, lower-case.
pub(crate) fn generated_id(logical_id: &str) -> String {
    logical_id.to_ascii_lowercase()
}

/// What `Ref` answers.
pub(crate) fn reference(scope: &Scope<'_>, resource: &Resource, line: usize) -> Result<String> {
    Ok(match resource.type_name.as_str() {
        QUEUE => {
            format!("{}/{}/{}", scope.place.aws_endpoint, scope.place.account_id, scope.name_of(resource)?)
        }
        RULE => rule_id(scope, resource)?.replacen('/', "|", 1),
        KEY | KEY_ALIAS => local_key(scope, resource, line)?,
        SERVERLESS_HTTP_API | EVENT_SOURCE_MAPPING => generated_id(&resource.logical_id),
        WEBSOCKET_STAGE => scope.name_of(resource)?,
        type_name if type_name.starts_with("AWS::ApiGatewayV2::") => generated_id(&resource.logical_id),
        _ => scope.name_of(resource)?,
    })
}

/// What `GetAtt` answers; the resource types that run locally know their attributes, others only ARNs and their name.
pub(crate) fn attribute(scope: &Scope<'_>, resource: &Resource, attribute: &str, line: usize) -> Result<Attribute> {
    let place = scope.place;
    let type_name = resource.type_name.as_str();
    let unknown = || {
        let message = format!("`{}` ({type_name}) has no attribute `{attribute}`", resource.logical_id);
        Err(Fault::new(line, message))
    };
    if attribute == "Arn" && !type_name.starts_with("AWS::ApiGatewayV2::") && type_name != SERVERLESS_HTTP_API {
        return arn(scope, resource, line).map(Attribute::Known);
    }
    Ok(Attribute::Known(match (type_name, attribute) {
        (SERVERLESS_FUNCTION, _) => return unknown(),
        (QUEUE, "QueueName") => scope.name_of(resource)?,
        (QUEUE, "QueueUrl") => reference(scope, resource, line)?,
        (QUEUE, _) => return unknown(),
        (TABLE, "StreamArn") => {
            if resource.property("StreamSpecification").is_none() {
                let message = format!("table `{}` has no stream: it needs `StreamSpecification`", resource.logical_id);
                return Err(Fault::new(line, message));
            }
            format!("{}{STREAM_LABEL}", arn(scope, resource, line)?)
        }
        (TABLE, _) => return unknown(),
        (BUCKET, "DomainName" | "RegionalDomainName" | "DualStackDomainName") => {
            let host = place.aws_endpoint.split_once("://").map_or(place.aws_endpoint.as_str(), |(_, host)| host);
            format!("{host}/{}", scope.name_of(resource)?)
        }
        (BUCKET, "WebsiteURL") => format!("{}/{}", place.aws_endpoint, scope.name_of(resource)?),
        (BUCKET, _) => return unknown(),
        (EVENT_BUS, "Name") => scope.name_of(resource)?,
        (EVENT_BUS, _) => return unknown(),
        (KEY, "KeyId") => local_key(scope, resource, line)?,
        (KEY | KEY_ALIAS, _) => return unknown(),
        (SERVERLESS_HTTP_API, "ApiEndpoint") => place.http_endpoint.clone(),
        (WEBSOCKET_API, "ApiEndpoint") => place.websocket_endpoint.clone(),
        (SERVERLESS_HTTP_API | WEBSOCKET_API, "ApiId")
        | ("AWS::ApiGatewayV2::Integration", "IntegrationId")
        | ("AWS::ApiGatewayV2::Route", "RouteId")
        | ("AWS::ApiGatewayV2::Authorizer", "AuthorizerId")
        | ("AWS::ApiGatewayV2::Deployment", "DeploymentId")
        | (EVENT_SOURCE_MAPPING, "Id") => generated_id(&resource.logical_id),
        (RULE | SCHEDULE | SERVERLESS_HTTP_API | EVENT_SOURCE_MAPPING, _) => return unknown(),
        (type_name, _) if type_name.starts_with("AWS::ApiGatewayV2::") => return unknown(),
        (_, attribute) if attribute.ends_with("Arn") => arn(scope, resource, line)?,
        _ => return scope.name_of(resource).map(Attribute::StandIn),
    }))
}

pub(crate) enum Attribute {
    Known(String),
    /// The name of a resource of which only the name is known.
    StandIn(String),
}

/// Streams are told apart by the time they were made; here each table has one.
const STREAM_LABEL: &str = "/stream/2020-01-01T00:00:00.000";

/// The table whose stream `arn` names.
pub(crate) fn table_of_stream(arn: &str) -> Option<&str> {
    arn.strip_suffix(STREAM_LABEL)
}

pub(crate) fn arn(scope: &Scope<'_>, resource: &Resource, line: usize) -> Result<String> {
    let place = scope.place;
    let name = scope.name_of(resource)?;
    let (service, rest) = match resource.type_name.as_str() {
        SERVERLESS_FUNCTION => ("lambda", format!("function:{name}")),
        QUEUE => ("sqs", name),
        TABLE => ("dynamodb", format!("table/{name}")),
        BUCKET => return Ok(format!("arn:{}:s3:::{name}", place.partition())),
        EVENT_BUS => ("events", format!("event-bus/{name}")),
        RULE => ("events", format!("rule/{}", rule_id(scope, resource)?)),
        SCHEDULE => ("scheduler", format!("schedule/{}/{name}", schedule_group(scope, resource)?)),
        SCHEDULE_GROUP => ("scheduler", format!("schedule-group/{name}")),
        LOG_GROUP => ("logs", format!("log-group:{name}:*")),
        KEY | KEY_ALIAS => return local_key(scope, resource, line),
        type_name if type_name.starts_with("AWS::IAM::") => {
            let kind = type_name.rsplit("::").next().unwrap_or_default().to_ascii_lowercase();
            return Ok(format!("arn:{}:iam::{}:{kind}/{name}", place.partition(), place.account_id));
        }
        type_name => (service_of(type_name), name),
    };
    Ok(place.arn(&service.to_ascii_lowercase(), &rest))
}

/// `SNS` of `AWS::SNS::Topic`.
fn service_of(type_name: &str) -> &str {
    type_name.split("::").nth(1).unwrap_or("custom")
}

/// The vault's local form of a key. One that signs is no use for sealing: it has a file of its own beside the one for all others.
fn local_key(scope: &Scope<'_>, key: &Resource, line: usize) -> Result<String> {
    let usage = match key.property("KeyUsage") {
        Some(node) => scope.resolve(node)?.and_then(|node| node.as_text().map(str::to_owned)),
        None => None,
    };
    let file = &scope.place.key_file;
    let file = match usage.as_deref() {
        Some("SIGN_VERIFY") => &file.with_file_name(format!("{}.key", key.logical_id)),
        _ => file,
    };
    match file.to_str() {
        Some(path) => Ok(format!("file:{path}")),
        None => Err(Fault::new(line, "the path of the key file is not UTF-8")),
    }
}

/// `{rule}` on the default bus, `{bus}/{rule}` on any other.
fn rule_id(scope: &Scope<'_>, rule: &Resource) -> Result<String> {
    let name = scope.name_of(rule)?;
    let bus = match rule.property("EventBusName") {
        Some(node) => scope.resolve(node)?.and_then(|node| node.as_text().map(bus_name)),
        None => None,
    };
    Ok(match bus {
        Some(bus) if bus != DEFAULT_BUS => format!("{bus}/{name}"),
        _ => name,
    })
}

pub(crate) const DEFAULT_BUS: &str = "default";

/// A bus is referred to by name or by ARN.
pub(crate) fn bus_name(name_or_arn: &str) -> String {
    match name_or_arn.split_once(":event-bus/") {
        Some((_, name)) => name.to_owned(),
        None => name_or_arn.to_owned(),
    }
}

pub(crate) fn schedule_group(scope: &Scope<'_>, schedule: &Resource) -> Result<String> {
    let group = match schedule.property("GroupName") {
        Some(node) => scope.resolve(node)?.and_then(|node| node.as_text().map(str::to_owned)),
        None => None,
    };
    Ok(group.unwrap_or_else(|| "default".to_owned()))
}
