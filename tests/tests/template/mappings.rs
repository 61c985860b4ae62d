//! Event source mappings and other triggers.

use local_queue::pattern::Pattern;
use serde_json::{Value, json};

use crate::Checked;
use crate::mutant::Edit::{Remove, Set};
use crate::mutant::Mutant;
use crate::read::{
    FUNCTION, QUEUE, TABLE, is_watched, listed, mappings, of_type, properties, resources, sources, stream_mappings,
    target,
};

/// How long DynamoDB keeps a stream record, in seconds.
const STREAM_RETENTION: u64 = 86_400;

/// How far behind a stream may be read before somebody is told, in milliseconds.
const STREAM_LAG: f64 = 60_000.0;

pub(crate) const RULES: &[Checked] = &[
    Checked {
        name: "a batch can fail in part",
        rule: batches_fail_in_part,
        mutants: &[
            Mutant {
                what: "a queue whose whole batch comes again",
                culprit: "LarkWorkFunction",
                edits: &[Remove("/Resources/LarkWorkFunction/Properties/Events/Work/Properties/FunctionResponseTypes")],
            },
            Mutant {
                what: "a stream whose whole batch comes again",
                culprit: "OutboxRelayFunction",
                edits: &[Set(
                    "/Resources/OutboxRelayFunction/Properties/Events/Table/Properties/FunctionResponseTypes",
                    "[]",
                )],
            },
        ],
    },
    Checked {
        name: "a poison record does not stop its shard, and is kept",
        rule: streams_give_up,
        mutants: &[
            Mutant {
                what: "endless retries",
                culprit: "OutboxRelayFunction",
                edits: &[Set(
                    "/Resources/OutboxRelayFunction/Properties/Events/Table/Properties/MaximumRetryAttempts",
                    "-1",
                )],
            },
            Mutant {
                what: "retries as long as the stream lasts",
                culprit: "OutboxRelayFunction",
                edits: &[Remove(
                    "/Resources/OutboxRelayFunction/Properties/Events/Table/Properties/MaximumRecordAgeInSeconds",
                )],
            },
            Mutant {
                what: "records that nobody keeps",
                culprit: "OutboxRelayFunction",
                edits: &[Remove("/Resources/OutboxRelayFunction/Properties/Events/Table/Properties/DestinationConfig")],
            },
            Mutant {
                what: "a destination that is not declared",
                culprit: "OutboxRelayFunction",
                edits: &[Set(
                    "/Resources/OutboxRelayFunction/Properties/Events/Table/Properties/DestinationConfig/OnFailure/Destination",
                    r#"{"Fn::GetAtt": ["Nowhere", "Arn"]}"#,
                )],
            },
        ],
    },
    Checked {
        name: "a stream that is read late raises an alarm",
        rule: lag_is_watched,
        mutants: &[
            Mutant { what: "no alarm", culprit: "OutboxRelayFunction", edits: &[Remove("/Resources/OutboxRelayLag")] },
            Mutant {
                what: "an alarm on another function's lag",
                culprit: "OutboxRelayFunction",
                edits: &[Set(
                    "/Resources/OutboxRelayLag/Properties/Dimensions/0/Value",
                    r#"{"Ref": "LarkWorkFunction"}"#,
                )],
            },
        ],
    },
    Checked {
        name: "a table that is listened to has a stream",
        rule: streams_exist,
        mutants: &[
            Mutant {
                what: "no stream",
                culprit: "OutboxRelayFunction",
                edits: &[Remove("/Resources/LarkTable/Properties/StreamSpecification")],
            },
            Mutant {
                what: "the table's ARN where the stream's belongs",
                culprit: "OutboxRelayFunction",
                edits: &[Set(
                    "/Resources/OutboxRelayFunction/Properties/Events/Table/Properties/Stream",
                    r#"{"Fn::GetAtt": ["LarkTable", "Arn"]}"#,
                )],
            },
        ],
    },
    Checked {
        name: "no failure is sent to a FIFO queue, which Lambda cannot do",
        rule: destinations_are_not_fifo,
        mutants: &[
            Mutant {
                what: "stream records to a FIFO queue",
                culprit: "OutboxRelayFunction",
                edits: &[Set(
                    "/Resources/OutboxRelayFunction/Properties/Events/Table/Properties/DestinationConfig/OnFailure",
                    r#"{"Type": "SQS", "Destination": {"Fn::GetAtt": ["LarkWorkDeadLetters", "Arn"]}}"#,
                )],
            },
            Mutant {
                what: "failed invocations to a FIFO queue",
                culprit: "TokenExpiryFunction",
                edits: &[Set(
                    "/Resources/TokenExpiryFunction/Properties/EventInvokeConfig/DestinationConfig/OnFailure/Destination",
                    r#"{"Fn::GetAtt": ["LarkWorkDeadLetters", "Arn"]}"#,
                )],
            },
        ],
    },
    Checked {
        name: "a filter is a pattern",
        rule: filters_parse,
        mutants: &[
            Mutant {
                what: "broken JSON",
                culprit: "OutboxRelayFunction",
                edits: &[Set(
                    "/Resources/OutboxRelayFunction/Properties/Events/Table/Properties/FilterCriteria/Filters/0/Pattern",
                    r#""{\"eventName\": [\"INSERT\"}""#,
                )],
            },
            Mutant {
                what: "JSON that is no pattern: a value outside a list matches nothing",
                culprit: "OutboxRelayFunction",
                edits: &[Set(
                    "/Resources/OutboxRelayFunction/Properties/Events/Table/Properties/FilterCriteria/Filters/0/Pattern",
                    r#""{\"eventName\": \"INSERT\"}""#,
                )],
            },
        ],
    },
    Checked {
        name: "what fails after an asynchronous invocation is kept",
        rule: asynchronous_failures_are_kept,
        mutants: &[Mutant {
            what: "a scheduled job that fails into nothing",
            culprit: "TokenExpiryFunction",
            edits: &[Remove("/Resources/TokenExpiryFunction/Properties/EventInvokeConfig/DestinationConfig")],
        }],
    },
    Checked {
        name: "a schedule's input is JSON",
        rule: schedule_inputs_parse,
        mutants: &[Mutant {
            what: "an input that no function can read",
            culprit: "TokenExpiryFunction",
            edits: &[Set(
                "/Resources/TokenExpiryFunction/Properties/Events/Sessions/Properties/Input",
                r#""{job: expire}""#,
            )],
        }],
    },
    Checked {
        name: "nobody opens a WebSocket unseen",
        rule: sockets_are_authorized,
        mutants: &[
            Mutant {
                what: "$connect without an authorizer, to a function that verifies nobody",
                culprit: "ConnectRoute",
                edits: &[Set(
                    "/Resources/SocketIntegration/Properties/IntegrationUri",
                    r#"{"Fn::Sub": "arn:${AWS::Partition}:apigateway:${AWS::Region}:lambda:path/2015-03-31/functions/${HealthCheckFunction.Arn}/invocations"}"#,
                )],
            },
            Mutant {
                what: "$connect to a function that has nothing to verify callers with",
                culprit: "ConnectRoute",
                edits: &[Remove("/Resources/SocketGatewayFunction/Properties/Environment/Variables/SIGNING_KEY")],
            },
            Mutant {
                what: "$connect to nothing at all, which accepts everybody",
                culprit: "ConnectRoute",
                edits: &[Remove("/Resources/ConnectRoute/Properties/Target")],
            },
            Mutant {
                what: "no $connect, which accepts everybody",
                culprit: "SocketApi",
                edits: &[Remove("/Resources/ConnectRoute")],
            },
            Mutant {
                what: "$connect that says nothing, which means NONE",
                culprit: "ConnectRoute",
                edits: &[Set(
                    "/Resources/ConnectRoute",
                    r#"{"Type": "AWS::ApiGatewayV2::Route", "Properties": {"RouteKey": "$connect"}}"#,
                )],
            },
            Mutant {
                what: "an authorizer that is not declared",
                culprit: "ConnectRoute",
                edits: &[Set(
                    "/Resources/ConnectRoute",
                    r#"{"Type": "AWS::ApiGatewayV2::Route", "Properties": {"RouteKey": "$connect", "AuthorizationType": "CUSTOM"}}"#,
                )],
            },
        ],
    },
    Checked {
        name: "functions, mappings and roles are declared where these rules look",
        rule: nothing_escapes,
        mutants: &[
            Mutant {
                what: "a mapping of its own",
                culprit: "Mapping",
                edits: &[Set("/Resources/Mapping", r#"{"Type": "AWS::Lambda::EventSourceMapping", "Properties": {}}"#)],
            },
            Mutant {
                what: "a policy of its own",
                culprit: "Rights",
                edits: &[Set("/Resources/Rights", r#"{"Type": "AWS::IAM::ManagedPolicy", "Properties": {}}"#)],
            },
            Mutant {
                what: "a role from elsewhere",
                culprit: "LarkWorkFunction",
                edits: &[Set(
                    "/Resources/LarkWorkFunction/Properties/Role",
                    r#""arn:aws:iam::123456789012:role/admin""#,
                )],
            },
        ],
    },
];

fn batches_fail_in_part(template: &Value) -> Vec<String> {
    let whole = mappings(template).filter(|mapping| {
        !listed(&mapping.properties["FunctionResponseTypes"]).contains(&json!("ReportBatchItemFailures"))
    });
    whole.map(|mapping| format!("{} does not report which items failed", mapping.function_id)).collect()
}

fn streams_give_up(template: &Value) -> Vec<String> {
    let mut violations = Vec::new();
    for mapping in stream_mappings(template) {
        let id = mapping.function_id;
        if mapping.properties["MaximumRetryAttempts"].as_u64().is_none() {
            violations.push(format!("{id} retries without end"));
        }
        if mapping.properties["MaximumRecordAgeInSeconds"].as_u64().is_none_or(|age| age >= STREAM_RETENTION) {
            violations.push(format!("{id} keeps a record until the stream loses it"));
        }
        let destination = target(&mapping.properties["DestinationConfig"]["OnFailure"]["Destination"]);
        if destination.is_none_or(|id| template["Resources"][id].is_null()) {
            violations.push(format!("{id} keeps nowhere what it gave up on"));
        }
    }
    violations
}

fn lag_is_watched(template: &Value) -> Vec<String> {
    let unwatched = stream_mappings(template).filter(|mapping| {
        let name = json!({ "Ref": mapping.function_id });
        !is_watched(template, ["AWS/Lambda", "IteratorAge"], "FunctionName", &name, STREAM_LAG)
    });
    unwatched.map(|mapping| format!("{} has no alarm on its iterator age", mapping.function_id)).collect()
}

fn streams_exist(template: &Value) -> Vec<String> {
    let dry = sources(template).filter(|source| source.kind == "DynamoDB").filter(|mapping| {
        let stream = &mapping.properties["Stream"]["Fn::GetAtt"];
        let table = stream[0].as_str().and_then(|id| properties(template, TABLE, id));
        stream[1] != "StreamArn" || table.is_none_or(|table| table["StreamSpecification"]["StreamViewType"].is_null())
    });
    dry.map(|mapping| format!("{} listens to a table without a stream", mapping.function_id)).collect()
}

fn destinations_are_not_fifo(template: &Value) -> Vec<String> {
    let of_streams = stream_mappings(template).map(|mapping| (mapping.function_id, mapping.properties));
    let of_functions =
        of_type(template, FUNCTION).map(|(id, function)| (id, &function["Properties"]["EventInvokeConfig"]));
    let fifo = of_streams.chain(of_functions).filter(|(_, config)| {
        let queue = target(&config["DestinationConfig"]["OnFailure"]["Destination"]);
        queue.and_then(|id| properties(template, QUEUE, id)).is_some_and(|queue| queue["FifoQueue"] == true)
    });
    fifo.map(|(id, _)| format!("{id} sends failures to a FIFO queue")).collect()
}

fn filters_parse(template: &Value) -> Vec<String> {
    let mut violations = Vec::new();
    for mapping in mappings(template) {
        for filter in listed(&mapping.properties["FilterCriteria"]["Filters"]) {
            if let Err(error) = Pattern::parse(filter["Pattern"].as_str().unwrap_or_default()) {
                violations.push(format!("{} has a filter that matches nothing: {error}", mapping.function_id));
            }
        }
    }
    violations
}

fn asynchronous_failures_are_kept(template: &Value) -> Vec<String> {
    let asynchronous = |kind: &str| matches!(kind, "ScheduleV2" | "Schedule" | "EventBridgeRule" | "S3" | "SNS");
    let lost = sources(template).filter(|source| {
        let config = &source.function["Properties"]["EventInvokeConfig"]["DestinationConfig"]["OnFailure"];
        asynchronous(source.kind) && target(&config["Destination"]).is_none_or(|id| template["Resources"][id].is_null())
    });
    lost.map(|source| format!("{} is invoked asynchronously and its failures go nowhere", source.function_id)).collect()
}

fn schedule_inputs_parse(template: &Value) -> Vec<String> {
    let broken = sources(template).filter(|source| {
        let input = source.properties["Input"].as_str().unwrap_or_default();
        source.kind.starts_with("Schedule") && serde_json::from_str::<Value>(input).is_err()
    });
    broken.map(|source| format!("{} has a schedule whose input is not JSON", source.function_id)).collect()
}

/// Functions that let sockets in themselves: they take a ticket or a token, and refuse everybody else.
const DOORS: [&str; 1] = ["SocketGatewayFunction"];

/// Whether the route leads to a function that verifies callers.
fn leads_to_a_door(template: &Value, route: &Value) -> bool {
    let integration = route["Target"]["Fn::Sub"].as_str().and_then(|target| target.strip_prefix("integrations/${"));
    let integration =
        integration.and_then(|id| id.strip_suffix('}')).map(|id| &template["Resources"][id]["Properties"]);
    let uri = integration.and_then(|integration| integration["IntegrationUri"]["Fn::Sub"].as_str()).unwrap_or_default();
    DOORS.iter().any(|door| {
        let verifies = &template["Resources"][door]["Properties"]["Environment"]["Variables"]["SIGNING_KEY"];
        uri.contains(&format!("/functions/${{{door}.Arn}}/invocations")) && !verifies.is_null()
    })
}

fn sockets_are_authorized(template: &Value) -> Vec<String> {
    let apis = of_type(template, "AWS::ApiGatewayV2::Api").filter(|(id, api)| {
        let mut routes = of_type(template, "AWS::ApiGatewayV2::Route");
        api["Properties"]["ProtocolType"] == "WEBSOCKET"
            && !routes.any(|(_, it)| {
                it["Properties"]["RouteKey"] == "$connect" && target(&it["Properties"]["ApiId"]) == Some(*id)
            })
    });
    let unguarded = apis.map(|(id, _)| format!("{id} has no $connect, so that everybody gets in"));
    let open = of_type(template, "AWS::ApiGatewayV2::Route").filter(|(_, route)| {
        let route = &route["Properties"];
        let authorizer = target(&route["AuthorizerId"]).map(|id| &template["Resources"][id]["Type"]);
        let authorized = match route["AuthorizationType"].as_str() {
            Some("AWS_IAM") => true,
            Some("CUSTOM") => authorizer.is_some_and(|kind| kind == "AWS::ApiGatewayV2::Authorizer"),
            _ => leads_to_a_door(template, route),
        };
        route["RouteKey"] == "$connect" && !authorized
    });
    unguarded.chain(open.map(|(id, _)| format!("{id} opens sockets for anybody"))).collect()
}

fn nothing_escapes(template: &Value) -> Vec<String> {
    let elsewhere = |kind: &str| {
        matches!(kind, "AWS::Lambda::Function" | "AWS::Lambda::EventSourceMapping" | "AWS::Serverless::SimpleTable")
            || matches!(kind, "AWS::DynamoDB::GlobalTable" | "AWS::Events::EventBusPolicy" | "AWS::Scheduler::Schedule")
            || kind.starts_with("AWS::IAM::")
    };
    let escaped = resources(template).filter_map(|(id, resource)| {
        let kind = resource["Type"].as_str().unwrap_or_default();
        elsewhere(kind).then(|| format!("{id} is of type {kind}, which no rule looks at"))
    });
    let roles = of_type(template, FUNCTION).filter(|(_, function)| !function["Properties"]["Role"].is_null());
    escaped.chain(roles.map(|(id, _)| format!("{id} has a role that is not made here"))).collect()
}
