//! Alarms.

use serde_json::Value;

use crate::Checked;
use crate::mutant::Edit::{Remove, Set};
use crate::mutant::Mutant;
use crate::read::{ALARM, FUNCTION, LOG_GROUP, QUEUE, listed, of_type, properties, target};

/// Metrics that AWS publishes, with the dimension that they are published under and the resource that it names.
const METRICS: [(&str, &str, &str, &str); 9] = [
    ("AWS/Lambda", "Errors", "FunctionName", FUNCTION),
    ("AWS/Lambda", "Throttles", "FunctionName", FUNCTION),
    ("AWS/Lambda", "Duration", "FunctionName", FUNCTION),
    ("AWS/Lambda", "IteratorAge", "FunctionName", FUNCTION),
    ("AWS/Lambda", "AsyncEventsDropped", "FunctionName", FUNCTION),
    ("AWS/Lambda", "DestinationDeliveryFailures", "FunctionName", FUNCTION),
    ("AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", QUEUE),
    ("AWS/SQS", "ApproximateAgeOfOldestMessage", "QueueName", QUEUE),
    ("AWS/ApiGateway", "5xx", "ApiId", "AWS::Serverless::HttpApi"),
];

pub(crate) const RULES: &[Checked] = &[
    Checked {
        name: "an alarm watches a metric that exists, of a resource that exists",
        rule: metrics_exist,
        mutants: &[
            Mutant {
                what: "a misspelled metric",
                culprit: "LarkWorkErrors",
                edits: &[Set("/Resources/LarkWorkErrors/Properties/MetricName", r#""Error""#)],
            },
            Mutant {
                what: "a metric of another service",
                culprit: "LarkWorkQueueAge",
                edits: &[Set("/Resources/LarkWorkQueueAge/Properties/Namespace", r#""AWS/Lambda""#)],
            },
            Mutant {
                what: "a resource that is gone",
                culprit: "HealthCheckErrors",
                edits: &[Remove("/Resources/HealthCheckFunction")],
            },
            Mutant {
                what: "a metric of our own that no filter makes",
                culprit: "UnbalancedBatchesAlarm",
                edits: &[Remove("/Resources/UnbalancedBatches")],
            },
        ],
    },
    Checked {
        name: "an alarm tells somebody, and silence is not an alarm",
        rule: alarms_tell,
        mutants: &[
            Mutant {
                what: "an alarm for nobody",
                culprit: "LarkWorkErrors",
                edits: &[Remove("/Resources/LarkWorkErrors/Properties/AlarmActions")],
            },
            Mutant {
                what: "an alarm that nobody can read",
                culprit: "LarkWorkErrors",
                edits: &[Remove("/Resources/LarkWorkErrors/Properties/AlarmDescription")],
            },
            Mutant {
                what: "an alarm whenever nothing happens",
                culprit: "LarkWorkErrors",
                edits: &[Set("/Resources/LarkWorkErrors/Properties/TreatMissingData", r#""breaching""#)],
            },
        ],
    },
];

fn metrics_exist(template: &Value) -> Vec<String> {
    let unknown = of_type(template, ALARM).filter(|(_, alarm)| {
        let alarm = &alarm["Properties"];
        !is_our_own(template, alarm)
            && !METRICS.iter().any(|(namespace, metric, dimension, kind)| {
                alarm["Namespace"] == *namespace
                    && alarm["MetricName"] == *metric
                    && matches!(listed(&alarm["Dimensions"]), [only] if only["Name"] == *dimension
                    && target(&only["Value"]).is_some_and(|id| template["Resources"][id]["Type"] == *kind))
            })
    });
    unknown.map(|(id, _)| format!("{id} watches nothing that is published")).collect()
}

/// Whether a filter over a log of ours makes what the alarm watches.
fn is_our_own(template: &Value, alarm: &Value) -> bool {
    let filters = of_type(template, "AWS::Logs::MetricFilter").filter(|(_, filter)| {
        target(&filter["Properties"]["LogGroupName"]).is_some_and(|id| properties(template, LOG_GROUP, id).is_some())
    });
    filters.flat_map(|(_, filter)| listed(&filter["Properties"]["MetricTransformations"])).any(|metric| {
        metric["MetricNamespace"] == alarm["Namespace"]
            && metric["MetricName"] == alarm["MetricName"]
            && alarm["Dimensions"].is_null()
    })
}

fn alarms_tell(template: &Value) -> Vec<String> {
    let mute = of_type(template, ALARM).filter(|(_, alarm)| {
        let alarm = &alarm["Properties"];
        alarm["AlarmActions"].is_null()
            || alarm["AlarmDescription"].is_null()
            || alarm["TreatMissingData"] != "notBreaching"
    });
    mute.map(|(id, _)| format!("{id} tells nobody what is wrong, or fires when nothing happens")).collect()
}
