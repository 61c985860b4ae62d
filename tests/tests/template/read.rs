//! How rules read a template.

use serde_json::{Value, json};

pub(crate) const FUNCTION: &str = "AWS::Serverless::Function";
pub(crate) const QUEUE: &str = "AWS::SQS::Queue";
pub(crate) const TABLE: &str = "AWS::DynamoDB::Table";
pub(crate) const BUCKET: &str = "AWS::S3::Bucket";
pub(crate) const LOG_GROUP: &str = "AWS::Logs::LogGroup";
pub(crate) const ALARM: &str = "AWS::CloudWatch::Alarm";

/// What the ARN of an API begins with: it has no attribute that would give it.
const API_ARN: &str = "arn:${AWS::Partition}:execute-api:${AWS::Region}:${AWS::AccountId}:";

/// Every resource: logical id and declaration.
pub(crate) fn resources(template: &Value) -> impl Iterator<Item = (&str, &Value)> {
    template["Resources"].as_object().into_iter().flatten().map(|(id, resource)| (id.as_str(), resource))
}

/// Every resource of one type.
pub(crate) fn of_type<'t>(template: &'t Value, kind: &str) -> impl Iterator<Item = (&'t str, &'t Value)> {
    resources(template).filter(move |(_, resource)| resource["Type"] == kind)
}

/// The properties of a resource, if there is one of this type under this id.
pub(crate) fn properties<'t>(template: &'t Value, kind: &str, id: &str) -> Option<&'t Value> {
    let resource = &template["Resources"][id];
    (resource["Type"] == kind).then(|| &resource["Properties"])
}

/// The logical id that `!Ref`, `!GetAtt` or the beginning of `!Sub` points to; of an `!If`, what it is as long as no parameter is given.
pub(crate) fn target(value: &Value) -> Option<&str> {
    if let Some([_, _, otherwise]) = value["Fn::If"].as_array().map(Vec::as_slice) {
        return target(otherwise);
    }
    let substituted = || {
        let text = value["Fn::Sub"].as_str()?;
        text.strip_prefix(API_ARN).unwrap_or(text).strip_prefix("${")?.split(['.', '}']).next()
    };
    value["Ref"].as_str().or_else(|| value["Fn::GetAtt"][0].as_str()).or_else(substituted)
}

/// A property of a function, or the default that `Globals` gives it.
pub(crate) fn setting<'t>(template: &'t Value, function: &'t Value, name: &str) -> &'t Value {
    match &function["Properties"][name] {
        Value::Null => &template["Globals"]["Function"][name],
        own => own,
    }
}

/// One entry of a function's `Events`.
pub(crate) struct Source<'t> {
    pub(crate) function_id: &'t str,
    pub(crate) function: &'t Value,
    pub(crate) kind: &'t str,
    pub(crate) properties: &'t Value,
}

pub(crate) fn sources(template: &Value) -> impl Iterator<Item = Source<'_>> {
    of_type(template, FUNCTION).flat_map(|(function_id, function)| {
        let events = function["Properties"]["Events"].as_object().into_iter().flatten();
        events.map(move |(_, event)| Source {
            function_id,
            function,
            kind: event["Type"].as_str().unwrap_or_default(),
            properties: &event["Properties"],
        })
    })
}

/// Mappings, which poll a queue or a stream.
pub(crate) fn mappings(template: &Value) -> impl Iterator<Item = Source<'_>> {
    sources(template).filter(|source| matches!(source.kind, "SQS" | "DynamoDB" | "Kinesis"))
}

pub(crate) fn stream_mappings(template: &Value) -> impl Iterator<Item = Source<'_>> {
    mappings(template).filter(|source| source.kind != "SQS")
}

/// Whether an alarm watches this metric of this resource and fires above `threshold` at the latest.
pub(crate) fn is_watched(template: &Value, metric: [&str; 2], dimension: &str, value: &Value, threshold: f64) -> bool {
    let dimensions = json!([{ "Name": dimension, "Value": value }]);
    of_type(template, ALARM).any(|(_, alarm)| {
        let alarm = &alarm["Properties"];
        alarm["Namespace"] == metric[0]
            && alarm["MetricName"] == metric[1]
            && alarm["Dimensions"] == dimensions
            && alarm["ComparisonOperator"] == "GreaterThanThreshold"
            && alarm["Threshold"].as_f64().is_some_and(|limit| limit <= threshold)
    })
}

/// A value as a list: one value stands for a list of one.
pub(crate) fn listed(value: &Value) -> &[Value] {
    match value {
        Value::Null => &[],
        Value::Array(items) => items,
        one => std::slice::from_ref(one),
    }
}
