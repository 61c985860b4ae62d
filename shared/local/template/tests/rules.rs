//! One small template for each rule: what is refused, what is warned of, what a value becomes.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "helpers of tests fail the test")]

use std::path::PathBuf;

use local_template::*;
use proptest::prelude::*;

fn place(parameters: &[(&str, &str)]) -> Place {
    Place {
        region: "cn-north-1".to_owned(),
        account_id: "000000000000".to_owned(),
        stack_name: "s".to_owned(),
        aws_endpoint: "http://127.0.0.1:4566".to_owned(),
        http_endpoint: "http://127.0.0.1:3000".to_owned(),
        websocket_endpoint: "ws://127.0.0.1:3001".to_owned(),
        key_file: PathBuf::from("/data/key"),
        parameters: parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
    }
}

fn run(text: &str) -> Result<Bundle, TemplateError> {
    resolve(text, "template.yaml", &place(&[]))
}

/// A template whose resources start at line 3.
fn with_resources(resources: &str) -> String {
    format!("Transform: AWS::Serverless-2016-10-31\nResources:\n{resources}\n")
}

/// Function `F`, with properties from line 8 on.
fn with_function(properties: &str) -> String {
    with_resources(&format!(
        "  F:\n    Type: AWS::Serverless::Function\n    Properties:\n      Runtime: provided.al2023\n      CodeUri: ./functions/f\n{}",
        indented(properties, 6)
    ))
}

/// Queue `Q`, with properties on line 5.
fn with_queue(properties: &str) -> String {
    with_resources(&format!("  Q:\n    Type: AWS::SQS::Queue\n    Properties: {{ {properties} }}"))
}

fn indented(text: &str, by: usize) -> String {
    text.lines().map(|line| format!("{:by$}{line}\n", "")).collect()
}

fn refuses(text: &str, expected: &str) {
    match run(text) {
        Ok(_) => panic!("accepted, instead of: {expected}\n{text}"),
        Err(error) => assert_eq!(error.to_string(), expected, "\n{text}"),
    }
}

fn warns(text: &str, expected: &[(usize, &str)]) {
    let bundle = run(text).unwrap();
    let warnings: Vec<_> = bundle.warnings.iter().map(|it| (it.line, it.message.as_str())).collect();
    assert_eq!(warnings, expected, "\n{text}");
}

/// What `expression` becomes in the output `O`.
fn value(sections: &str, expression: &str, parameters: &[(&str, &str)]) -> Result<String, String> {
    let text = format!(
        "{sections}\nResources: {{ Q: {{ Type: AWS::SQS::Queue }} }}\nOutputs: {{ O: {{ Value: {expression} }} }}"
    );
    let bundle = resolve(&text, "t", &place(parameters)).map_err(|error| error.to_string())?;
    Ok(bundle.outputs["O"].clone())
}

#[test]
fn broken_yaml_is_refused_with_its_line() {
    for (text, expected) in [
        ("", "template.yaml:1: the template is empty"),
        ("- a", "template.yaml:1: a template is a map of sections"),
        ("a: 1", "template.yaml:1: section `a` is not known"),
        ("Description: x", "template.yaml:1: section `Resources` is missing"),
        ("Resources: {}\nResources: {}", "template.yaml:2: key `Resources` is given twice"),
        (
            "Resources: {}\n---\nResources: {}",
            "template.yaml:2: a template is one YAML document; a second one starts here",
        ),
        ("Resources: &a {}\nOutputs: *a", "template.yaml:2: YAML aliases are not supported; write the value out"),
        ("Resources:\n  A: !Reff B", "template.yaml:2: intrinsic function `Reff` is not known"),
        ("Resources:\n  A:\n    Fn::Nope: B", "template.yaml:3: intrinsic function `Nope` is not known"),
        ("Resources:\n  A: {Fn::Sub: x, b: 1}", "template.yaml:2: `Fn::Sub` must be the only key of its map"),
        ("Resources:\n  A: !Transform {Name: m}", "template.yaml:2: macros (`Fn::Transform`) do not run locally"),
        ("Resources:\n  A: !!binary aGk=", "template.yaml:2: YAML tag `!!binary` is not supported"),
        ("Transform: My::Macro\nResources: {}", "template.yaml:1: macro `My::Macro` does not run locally"),
        ("Resources:\n  ? [a]\n  : b", "template.yaml:2: a key must be plain text"),
    ] {
        refuses(text, expected);
    }
    let deep = format!("Resources: {}{}", "[".repeat(80), "]".repeat(80));
    refuses(&deep, "template.yaml:1: nested more than 64 levels deep");
    let error = run("Resources:\n  A: \"open").unwrap_err().to_string();
    assert!(error.starts_with("template.yaml:") && error.contains("broken YAML"), "{error}");
}

#[test]
fn resources_are_refused_where_they_cannot_be_right() {
    for (resources, expected) in [
        ("  A: {}", "3: resource `A` has no `Type`"),
        ("  A: { Type: T, Nope: 1 }", "3: attribute `Nope` of resource `A` is not known"),
        ("  A-b: { Type: T }", "3: logical id `A-b` must be letters and digits"),
        ("  A: { Type: T, DependsOn: B }", "3: there is no parameter or resource `B`"),
        ("  A: { Type: T, Condition: C }", "3: there is no condition `C`"),
        (
            "  A:\n    Type: AWS::IAM::Policy\n    Properties: { X: [!Ref B] }",
            "5: there is no parameter or resource `B`",
        ),
        (
            "  A:\n    Type: AWS::IAM::Policy\n    Properties: { X: !Sub \"${B.Arn}\" }",
            "5: there is no parameter or resource `B`",
        ),
        (
            "  A:\n    Type: AWS::IAM::Policy\n    Properties: { X: !GetAtt Q.Url }\n  Q: { Type: AWS::SQS::Queue }",
            "5: `Q` (AWS::SQS::Queue) has no attribute `Url`",
        ),
        (
            "  A:\n    Type: AWS::IAM::Policy\n    Properties: { X: !GetAtt T.StreamArn }\n  T: { Type: AWS::DynamoDB::Table }",
            "5: table `T` has no stream: it needs `StreamSpecification`",
        ),
        (
            "  Q: { Type: AWS::SQS::Queue, Properties: { QueueName: !GetAtt R.QueueName } }\n  R: { Type: AWS::SQS::Queue, Properties: { QueueName: !GetAtt Q.QueueName } }",
            "3: `Q` refers to itself",
        ),
        (
            "  Q: { Type: AWS::SQS::Queue, Properties: { QueueName: a } }\n  R: { Type: AWS::SQS::Queue, Properties: { QueueName: a } }",
            "4: queue `a` is declared twice; see line 3",
        ),
        (
            "  B: { Type: AWS::S3::Bucket, Properties: { BucketName: Upper } }",
            "3: `BucketName` of `B` must be lower-case letters, digits and any of `-.`, not `Upper`",
        ),
        (
            "  T: { Type: AWS::DynamoDB::Table, Properties: { TableName: ab } }",
            "3: `TableName` of `T` must have 3 to 255 characters: `ab`",
        ),
        (
            "  A: { Type: AWS::Serverless::HttpApi }\n  B: { Type: AWS::Serverless::HttpApi }",
            "4: `B` is a second HTTP API beside `A`; one runs locally",
        ),
        (
            "  A: { Type: AWS::ApiGatewayV2::Api, Properties: { ProtocolType: HTTP } }",
            "3: property `ProtocolType` of `A` (AWS::ApiGatewayV2::Api) is `HTTP`; declare an HTTP API as `AWS::Serverless::HttpApi`",
        ),
        (
            "  A: { Type: AWS::ApiGatewayV2::Api, Properties: { ProtocolType: WEBSOCKET, RouteSelectionExpression: $request.body.a } }",
            "3: `A` has no `AWS::ApiGatewayV2::Stage`",
        ),
    ] {
        refuses(&with_resources(resources), &format!("template.yaml:{expected}"));
    }
    refuses(
        "Resources:\n  F: { Type: AWS::Serverless::Function }",
        "template.yaml:2: `F` needs `Transform: AWS::Serverless-2016-10-31`",
    );
}

#[test]
fn functions_are_refused_where_aws_would_refuse_them() {
    let of = "of `F` (AWS::Serverless::Function)";
    for (properties, expected) in [
        ("Timeout: 901", format!("8: property `Timeout` {of} must be a whole number from 1 to 900, not `901`")),
        ("Timeout: soon", format!("8: property `Timeout` {of} must be a whole number from 1 to 900, not `soon`")),
        ("Timeout:", format!("8: property `Timeout` {of} has no value")),
        ("PackageType: Image", format!("8: property `PackageType` {of} is `Image`; only `Zip` runs locally")),
        (
            "Environment: { Variables: { AWS_REGION: x } }",
            format!("8: property `Environment.Variables.AWS_REGION` {of} is reserved: Lambda sets it"),
        ),
        ("Environment: { Variables: { A: [x] } }", format!("8: property `Environment.Variables.A` {of} must be text")),
        (
            "LoggingConfig: { ApplicationLogLevel: INFO }",
            format!("8: property `LoggingConfig.ApplicationLogLevel` {of} needs `LogFormat: JSON`"),
        ),
        (
            "DeadLetterQueue: { Type: SQS, TargetArn: arn:x }",
            format!("8: property `DeadLetterQueue.TargetArn` {of} names no queue of this template: `arn:x`"),
        ),
        (
            "EventInvokeConfig: { DestinationConfig: { OnFailure: { Type: SQS } } }",
            format!(
                "8: property `EventInvokeConfig.DestinationConfig.OnFailure.Destination` {of} is missing; a queue that SAM would make is not run locally"
            ),
        ),
        (
            "EventInvokeConfig: { DestinationConfig: { OnFailure: { Type: S3, Destination: !GetAtt F.Arn } } }",
            format!(
                "8: property `EventInvokeConfig.DestinationConfig.OnFailure.Type` {of} is `S3`, but the destination is `Lambda`"
            ),
        ),
        ("Events: { E: { Type: SQS } }", format!("8: property `Events.Properties` {of} is missing")),
    ] {
        refuses(&with_function(properties), &format!("template.yaml:{expected}"));
    }
}

#[test]
fn events_are_refused_where_aws_would_refuse_them() {
    // Each is event `E` on line 9 of function `F`, beside these resources.
    let others = "  Standard: { Type: AWS::SQS::Queue }
  Fifo: { Type: AWS::SQS::Queue, Properties: { FifoQueue: true } }
  Table:
    Type: AWS::DynamoDB::Table
    Properties:
      AttributeDefinitions: [{ AttributeName: pk, AttributeType: S }]
      KeySchema: [{ AttributeName: pk, KeyType: HASH }]
      StreamSpecification: { StreamViewType: NEW_IMAGE }
";
    let of = "of `F` (AWS::Serverless::Function)";
    let at = "property `Events.Properties";
    let stream = "Stream: !GetAtt Table.StreamArn, StartingPosition: LATEST";
    for (kind, properties, expected) in [
        ("SQS", "Queue: arn:x", format!("{at}.Queue` {of} names no queue and no stream of this template: `arn:x`")),
        (
            "SQS",
            "Queue: !GetAtt Fifo.Arn, BatchSize: 11",
            "`BatchSize` 11 is above 10, the most of FIFO queue `s-Fifo.fifo`".to_owned(),
        ),
        (
            "SQS",
            "Queue: !GetAtt Fifo.Arn, MaximumBatchingWindowInSeconds: 1",
            "FIFO queue `s-Fifo.fifo` takes no `MaximumBatchingWindowInSeconds`".to_owned(),
        ),
        (
            "SQS",
            "Queue: !GetAtt Standard.Arn, BatchSize: 11",
            "`BatchSize` 11 is above 10 and needs `MaximumBatchingWindowInSeconds`".to_owned(),
        ),
        (
            "SQS",
            "Queue: !GetAtt Standard.Arn, BatchSize: 10001",
            format!("{at}.BatchSize` {of} must be a whole number from 1 to 10000, not `10001`"),
        ),
        (
            "SQS",
            "Queue: !GetAtt Standard.Arn, ScalingConfig: { MaximumConcurrency: 1 }",
            format!("{at}.ScalingConfig.MaximumConcurrency` {of} must be a whole number from 2 to 1000, not `1`"),
        ),
        (
            "SQS",
            "Queue: !GetAtt Standard.Arn, FunctionResponseTypes: [All]",
            format!("{at}.FunctionResponseTypes` {of} can be `ReportBatchItemFailures`, not `All`"),
        ),
        (
            "SQS",
            "Queue: !GetAtt Standard.Arn, FilterCriteria: { Filters: [{ Pattern: \"[1]\" }] }",
            format!("{at}.FilterCriteria.Filters.Pattern` {of} must be a JSON object"),
        ),
        ("DynamoDB", "Stream: !GetAtt Table.StreamArn", format!("{at}.StartingPosition` {of} is missing")),
        (
            "DynamoDB",
            &format!("{stream}, TumblingWindowInSeconds: 5"),
            format!("{at}.TumblingWindowInSeconds` {of} is not run locally, and no batch would be right without"),
        ),
        (
            "DynamoDB",
            &format!("{stream}, ParallelizationFactor: 11"),
            format!("{at}.ParallelizationFactor` {of} must be a whole number from 1 to 10, not `11`"),
        ),
        (
            "DynamoDB",
            &format!("{stream}, MaximumRecordAgeInSeconds: 5"),
            format!("{at}.MaximumRecordAgeInSeconds` {of} must be -1, or from 60 to 604800"),
        ),
        (
            "DynamoDB",
            &format!("{stream}, DestinationConfig: {{ OnFailure: {{ Destination: !GetAtt Fifo.Arn }} }}"),
            format!(
                "{at}.DestinationConfig.OnFailure.Destination` {of} must be a standard queue, and `s-Fifo.fifo` is FIFO"
            ),
        ),
        (
            "S3",
            "Bucket: b, Events: s3:ObjectCreated:*",
            format!("{at}.Bucket` {of} names no bucket of this template: `b`"),
        ),
        ("HttpApi", "Method: GET", format!("{at}.Path` {of} is missing")),
        ("HttpApi", "Method: FETCH, Path: /", format!("{at}.Method` {of} is no HTTP method: `FETCH`")),
        ("HttpApi", "Method: GET, Path: a", format!("{at}.Path` {of} must begin with `/`: `a`")),
        (
            "HttpApi",
            "Method: GET, Path: \"/{a+}/b\"",
            format!("{at}.Path` {of} must have its greedy parameter last: `/{{a+}}/b`"),
        ),
        (
            "HttpApi",
            "Method: GET, Path: \"/{a}/{a}\"",
            format!("{at}.Path` {of} must have parameters with names, each once: `/{{a}}/{{a}}`"),
        ),
        (
            "HttpApi",
            "Method: GET, Path: /, PayloadFormatVersion: \"1.0\"",
            format!("{at}.PayloadFormatVersion` {of} is `1.0`; only `2.0` runs locally"),
        ),
        (
            "HttpApi",
            "Method: GET, Path: /, ApiId: nope",
            "route `GET /` is on API `nope`, which is not there".to_owned(),
        ),
        (
            "HttpApi",
            "Method: GET, Path: /, Auth: { Authorizer: A }",
            "route `GET /` names no authorizer of its API: `A`".to_owned(),
        ),
        (
            "EventBridgeRule",
            "Pattern: { a: [1] }, EventBusName: b",
            format!("{at}.EventBusName` {of} names no event bus of this template: `b`"),
        ),
        (
            "EventBridgeRule",
            "Pattern: { a: [1] }, Input: \"{}\", InputPath: $.a",
            format!("{at}.InputPath` {of} cannot stand beside another input"),
        ),
        (
            "EventBridgeRule",
            "Pattern: { a: [1] }, DeadLetterConfig: { Type: SQS }",
            format!("{at}.DeadLetterConfig.Arn` {of} is missing; a queue that SAM would make is not run locally"),
        ),
        (
            "Schedule",
            "Schedule: rate(1 minutes)",
            format!(
                "{at}.Schedule` {of} must be `rate(5 minutes)` or `cron(` with six fields `)`, not `rate(1 minutes)`"
            ),
        ),
        (
            "Schedule",
            "Schedule: at(2027-01-01T00:00:00)",
            format!(
                "{at}.Schedule` {of} must be `rate(5 minutes)` or `cron(` with six fields `)`, not `at(2027-01-01T00:00:00)`"
            ),
        ),
        (
            "ScheduleV2",
            "ScheduleExpression: cron(0 2 * * *)",
            format!(
                "{at}.ScheduleExpression` {of} must be `rate(5 minutes)`, `cron(` with six fields `)` or `at(yyyy-mm-ddThh:mm:ss)`, not `cron(0 2 * * *)`"
            ),
        ),
        (
            "ScheduleV2",
            "ScheduleExpression: rate(1 hour), Input: \"{\"",
            format!("{at}.Input` {of} is not JSON: EOF while parsing an object at line 1 column 1"),
        ),
    ] {
        let event = format!("Events:\n  E: {{ Type: {kind}, Properties: {{ {properties} }} }}");
        refuses(&format!("{}{others}", with_function(&event)), &format!("template.yaml:9: {expected}"));
    }
}

#[test]
fn two_events_must_not_collide() {
    let two = |properties: [&str; 2]| {
        with_function(&format!("Events:\n  A: {{ {} }}\n  B: {{ {} }}", properties[0], properties[1]))
    };
    refuses(
        &two([
            "Type: HttpApi, Properties: { Method: GET, Path: \"/x/{a}\" }",
            "Type: HttpApi, Properties: { Method: get, Path: \"/x/{b}\" }",
        ]),
        "template.yaml:10: route `GET /x/{}` is declared twice; see line 9",
    );
    let queue = "Type: SQS, Properties: { Queue: !GetAtt Q.Arn }";
    refuses(
        &format!("{}  Q: {{ Type: AWS::SQS::Queue }}", two([queue, queue])),
        "template.yaml:10: function `s-F` reads queue `s-Q` twice; see line 9",
    );
}

#[test]
fn a_queue_must_hide_a_message_for_as_long_as_its_function_may_take() {
    let function = with_function("Timeout: 60\nEvents:\n  E: { Type: SQS, Properties: { Queue: !GetAtt Q.Arn } }");
    refuses(
        &format!("{function}  Q: {{ Type: AWS::SQS::Queue }}"),
        "template.yaml:10: queue `Q` has a visibility timeout of 30 s, below the 60 s that function `F` may take",
    );
    run(&format!("{function}  Q: {{ Type: AWS::SQS::Queue, Properties: {{ VisibilityTimeout: 60 }} }}")).unwrap();
}

#[test]
fn queues_are_refused_where_sqs_would_refuse_them() {
    let of = "of `Q` (AWS::SQS::Queue)";
    for (properties, expected) in [
        ("FifoQueue: maybe", format!("property `FifoQueue` {of} must be `true` or `false`, not `maybe`")),
        ("FifoQueue: true, QueueName: a", "`QueueName` of `Q` must end in `.fifo`, not be `a`".to_owned()),
        (
            "QueueName: a.fifo",
            "`QueueName` of `Q` must not end in `.fifo` without `FifoQueue: true`: `a.fifo`".to_owned(),
        ),
        ("DeduplicationScope: queue", format!("property `DeduplicationScope` {of} needs `FifoQueue: true`")),
        (
            "FifoQueue: true, FifoThroughputLimit: perMessageGroupId",
            format!("property `FifoThroughputLimit` {of} needs `DeduplicationScope: messageGroup`"),
        ),
        (
            "VisibilityTimeout: 43201",
            format!("property `VisibilityTimeout` {of} must be a whole number from 0 to 43200, not `43201`"),
        ),
        (
            "RedrivePolicy: { deadLetterTargetArn: arn:x, maxReceiveCount: 1 }",
            format!("property `RedrivePolicy.deadLetterTargetArn` {of} names no queue of this template: `arn:x`"),
        ),
        (
            "RedrivePolicy: { deadLetterTargetArn: !GetAtt Q.Arn, maxReceiveCount: 1 }",
            format!("property `RedrivePolicy.deadLetterTargetArn` {of} is the queue itself"),
        ),
        (
            "RedrivePolicy: { deadLetterTargetArn: !GetAtt D.Arn, maxReceiveCount: 0 }",
            format!("property `RedrivePolicy.maxReceiveCount` {of} must be a whole number from 1 to 1000, not `0`"),
        ),
        (
            "FifoQueue: true, RedrivePolicy: { deadLetterTargetArn: !GetAtt D.Arn, maxReceiveCount: 1 }",
            format!(
                "property `RedrivePolicy.deadLetterTargetArn` {of} must be FIFO, as its source is, and `s-D` is not"
            ),
        ),
    ] {
        let text = format!("{}  D: {{ Type: AWS::SQS::Queue }}", with_queue(properties));
        refuses(&text, &format!("template.yaml:5: {expected}"));
    }
}

#[test]
fn what_is_not_carried_out_is_warned_of() {
    warns(
        &with_queue("Fancy: 1, RedrivePolicy: { deadLetterTargetArn: !GetAtt D.Arn, maxReceiveCount: 1, more: 1 }")
            .replace("\n\n", "\n")
            .replacen("Resources:\n", "Resources:\n  D: { Type: AWS::SQS::Queue }\n", 1),
        &[
            (6, "property `RedrivePolicy.more` of `Q` (AWS::SQS::Queue) is not carried out locally"),
            (6, "property `Fancy` of `Q` (AWS::SQS::Queue) is not carried out locally"),
        ],
    );
    for (resources, line, message) in [
        (
            "  B: { Type: AWS::S3::Bucket, Properties: { VersioningConfiguration: { Status: Enabled } } }",
            3,
            "bucket `B` keeps no versions locally: what is overwritten is gone",
        ),
        (
            "  B: { Type: AWS::S3::Bucket, Properties: { NotificationConfiguration: { EventBridgeConfiguration: {} } } }",
            3,
            "property `NotificationConfiguration.EventBridgeConfiguration` of `B` (AWS::S3::Bucket) is not carried out locally",
        ),
        ("  T: { Type: AWS::SNS::Topic }", 3, "resource `T` (AWS::SNS::Topic) is not run locally"),
        ("  T: { Type: Custom::Thing }", 3, "resource `T` (Custom::Thing) is not run locally"),
        (
            "  B: { Type: AWS::S3::Bucket, Properties: { LifecycleConfiguration: { Rules: [{ Status: Enabled, ExpirationInDays: 1, ObjectSizeLessThan: 9 }] } } }",
            3,
            "property `LifecycleConfiguration.Rules.ObjectSizeLessThan` of `B` (AWS::S3::Bucket) is not carried out locally, and so neither is its rule",
        ),
    ] {
        warns(&with_resources(resources), &[(line, message)]);
    }
    for (properties, line, message) in [
        ("Layers: [arn:x]", 8, "property `Layers` of `F` (AWS::Serverless::Function) is not carried out locally"),
        (
            "Events:\n  E: { Type: SNS, Properties: { Topic: x } }",
            9,
            "event `E` of `F` is of type `SNS`, which is not run locally: nothing will trigger it",
        ),
        (
            "Environment: { Variables: { A: on, B: \"on\" } }",
            8,
            "`A: on` is a boolean to SAM and arrives as another text; quote it",
        ),
    ] {
        warns(&with_function(properties), &[(line, message)]);
    }
    warns(
        "Rules: {}\nResources: {}\nGlobals: { SimpleTable: {} }",
        &[
            (1, "section `Rules` is not carried out locally"),
            (3, "`Globals` of `SimpleTable` are not carried out locally"),
        ],
    );
}

#[test]
fn a_rule_whose_target_does_not_run_locally_keeps_its_other_targets() {
    let text = with_resources(
        "  T: { Type: AWS::SNS::Topic }
  Q: { Type: AWS::SQS::Queue }
  R:
    Type: AWS::Events::Rule
    Properties:
      EventPattern: { source: [a] }
      Targets: [{ Id: t, Arn: !GetAtt T.TopicArn }, { Id: q, Arn: !GetAtt Q.Arn }]",
    );
    let bundle = run(&text).unwrap();
    assert_eq!(bundle.rules[0].targets.len(), 1);
    assert_eq!(bundle.rules[0].bus, "default");
    assert!(bundle.warnings.iter().any(|warning| warning.message.contains("`T` (AWS::SNS::Topic) is not run locally")));
}

#[test]
fn a_rule_to_a_fifo_queue_needs_a_message_group() {
    refuses(
        &with_resources(
            "  Q: { Type: AWS::SQS::Queue, Properties: { FifoQueue: true } }
  R: { Type: AWS::Events::Rule, Properties: { EventPattern: { source: [a] }, Targets: [{ Id: q, Arn: !GetAtt Q.Arn }] } }",
        ),
        "template.yaml:4: property `Targets.Arn` of `R` (AWS::Events::Rule) is FIFO queue `s-Q.fifo`: it needs a `MessageGroupId`",
    );
}

#[test]
fn a_websocket_route_that_may_miss_its_deployment_is_warned_of() {
    let text = with_resources(
        "  W: { Type: AWS::ApiGatewayV2::Api, Properties: { ProtocolType: WEBSOCKET, RouteSelectionExpression: $request.body.a } }
  I:
    Type: AWS::ApiGatewayV2::Integration
    Properties:
      ApiId: !Ref W
      IntegrationType: AWS_PROXY
      IntegrationUri: !Sub \"arn:aws:apigateway:x:lambda:path/2015-03-31/functions/${F.Arn}/invocations\"
  R: { Type: AWS::ApiGatewayV2::Route, Properties: { ApiId: !Ref W, RouteKey: $default, Target: !Sub \"integrations/${I}\" } }
  D: { Type: AWS::ApiGatewayV2::Deployment, Properties: { ApiId: !Ref W } }
  S: { Type: AWS::ApiGatewayV2::Stage, Properties: { ApiId: !Ref W, StageName: live } }
  F: { Type: AWS::Serverless::Function, Properties: { Runtime: provided.al2023, CodeUri: functions/f } }",
    );
    warns(&text, &[(11, "`D` does not depend on route `R`: AWS may deploy without it")]);
    warns(&text.replace("StageName: live", "StageName: live, AutoDeploy: true"), &[]);
    refuses(
        &text.replace("integrations/${I}", "integrations/other"),
        "template.yaml:10: `R` targets no integration of its API: `other`",
    );
}

#[test]
fn sam_makes_an_http_api_for_events_that_name_none() {
    let text =
        with_function("Events:\n  A: { Type: HttpApi }\n  B: { Type: HttpApi, Properties: { Method: GET, Path: / } }");
    let api = run(&format!("{text}Outputs: {{ U: {{ Value: !Ref ServerlessHttpApi }} }}")).unwrap().http_api.unwrap();
    let routes: Vec<_> = api.routes.iter().map(|route| route.route_key.as_str()).collect();
    assert_eq!(routes, ["$default", "GET /"]);
}

#[test]
fn plain_resources_say_the_same_as_events() {
    let bundle = run(&format!(
        "{}{}",
        with_function("Timeout: 30"),
        "  Q: { Type: AWS::SQS::Queue }
  Mapping:
    Type: AWS::Lambda::EventSourceMapping
    Properties: { EventSourceArn: !GetAtt Q.Arn, FunctionName: !Ref F, BatchSize: 5, Enabled: false }
  Invoke:
    Type: AWS::Lambda::EventInvokeConfig
    Properties: { FunctionName: !GetAtt F.Arn, Qualifier: $LATEST, MaximumRetryAttempts: 0 }
  Hourly:
    Type: AWS::Events::Rule
    Properties:
      ScheduleExpression: rate(1 hour)
      Targets: [{ Id: f, Arn: !GetAtt F.Arn }, { Id: q, Arn: !GetAtt Q.Arn, Input: \"1\" }]
"
    ))
    .unwrap();
    assert_eq!(bundle.warnings, []);
    let mapping = &bundle.mappings[0];
    assert_eq!((mapping.function.as_str(), mapping.batch_size, mapping.enabled), ("s-F", 5, false));
    assert_eq!(bundle.functions[0].asynchronous.maximum_retry_attempts, 0);
    let called: Vec<_> = bundle.schedules.iter().map(|it| (it.target.clone(), it.source)).collect();
    let queue = Target::Queue { name: "s-Q".to_owned(), message_group_id: None };
    assert_eq!(called, [(Target::Function("s-F".to_owned()), ScheduleSource::Rule), (queue, ScheduleSource::Rule)]);
    assert!(bundle.rules.is_empty());
}

#[test]
fn http_apis_are_read_in_all_their_forms() {
    let api = |properties: &str| {
        let resources = format!("  A: {{ Type: AWS::Serverless::HttpApi, Properties: {{ {properties} }} }}");
        run(&with_resources(&resources)).map(|bundle| bundle.http_api.unwrap()).map_err(|error| error.to_string())
    };
    assert_eq!(api("").unwrap().cors, None);
    assert_eq!(api("CorsConfiguration: false").unwrap().cors, None);
    assert_eq!(api("CorsConfiguration: true").unwrap().cors.unwrap().allow_origins, ["*"]);
    let jwt = api("Auth: { Authorizers: { J: { JwtConfiguration: { issuer: https://i, audience: [a] } } } }").unwrap();
    assert_eq!(
        jwt.authorizers[0].kind,
        HttpAuthorizerKind::Jwt {
            identity_source: "$request.header.Authorization".to_owned(),
            issuer: "https://i".to_owned(),
            audience: vec!["a".to_owned()],
            scopes: vec![],
        }
    );
    for (properties, expected) in [
        (
            "CorsConfiguration: { AllowOrigins: [\"*\"], AllowCredentials: true }",
            "`CorsConfiguration.AllowCredentials` of `A` (AWS::Serverless::HttpApi) cannot stand beside origin `*`",
        ),
        (
            "DefinitionUri: api.yaml",
            "`DefinitionUri` of `A` (AWS::Serverless::HttpApi) is not read locally; declare routes as events of functions",
        ),
        (
            "Auth: { DefaultAuthorizer: B }",
            "`Auth.DefaultAuthorizer` of `A` (AWS::Serverless::HttpApi) names no authorizer: `B`",
        ),
    ] {
        assert_eq!(api(properties).unwrap_err(), format!("template.yaml:3: property {expected}"));
    }
}

#[test]
fn tables_are_refused_where_dynamodb_would_refuse_them() {
    let of = "of `T` (AWS::DynamoDB::Table)";
    let pk = "AttributeDefinitions: [{ AttributeName: pk, AttributeType: S }]";
    let hash = "{ AttributeName: pk, KeyType: HASH }";
    for (properties, expected) in [
        (format!("{pk}, KeySchema: []"), format!("`KeySchema` {of} has no `HASH` attribute")),
        (
            format!("{pk}, KeySchema: [{hash}, {hash}]"),
            format!("`KeySchema.KeyType` {of} is given twice; a key has one `HASH` and at most one `RANGE`"),
        ),
        (
            format!("{pk}, KeySchema: [{{ AttributeName: id, KeyType: HASH }}]"),
            format!("`AttributeDefinitions` {of} lacks `id`, which is part of a key"),
        ),
        (
            format!(
                "AttributeDefinitions: [{{ AttributeName: pk, AttributeType: S }}, {{ AttributeName: x, AttributeType: N }}], KeySchema: [{hash}]"
            ),
            format!("`AttributeDefinitions` {of} has `x`, which is part of no key; DynamoDB refuses that"),
        ),
        (
            format!("{pk}, KeySchema: [{hash}], StreamSpecification: {{ StreamViewType: ALL }}"),
            format!(
                "`StreamSpecification.StreamViewType` {of} must be `KEYS_ONLY` or `NEW_IMAGE` or `OLD_IMAGE` or `NEW_AND_OLD_IMAGES`, not `ALL`"
            ),
        ),
        (
            format!("{pk}, KeySchema: [{hash}], TimeToLiveSpecification: {{ Enabled: true }}"),
            format!("`TimeToLiveSpecification.AttributeName` {of} is missing"),
        ),
    ] {
        let text = with_resources(&format!("  T: {{ Type: AWS::DynamoDB::Table, Properties: {{ {properties} }} }}"));
        refuses(&text, &format!("template.yaml:3: property {expected}"));
    }
}

#[test]
fn a_stage_is_taken_from_the_urls_of_its_own_api_only() {
    let text = with_resources(
        "  H: { Type: AWS::Serverless::HttpApi }
  W: { Type: AWS::ApiGatewayV2::Api, Properties: { ProtocolType: WEBSOCKET, RouteSelectionExpression: $request.body.a } }
  S: { Type: AWS::ApiGatewayV2::Stage, Properties: { ApiId: !Ref W, StageName: live } }
Outputs:
  Http: { Value: !Sub \"https://${H}.execute-api.${AWS::Region}.${AWS::URLSuffix}/live/orders\" }
  Endpoint: { Value: !Sub \"${H.ApiEndpoint}/live\" }
  Socket: { Value: !Sub \"${W.ApiEndpoint}/${S}\" }
  Other: { Value: !Sub \"wss://${W}.execute-api.${AWS::Region}.${AWS::URLSuffix}/lively\" }
  Arn: { Value: !Sub \"arn:aws:execute-api:${AWS::Region}:${AWS::AccountId}:${W}/live/*\" }",
    );
    let outputs = run(&text).unwrap().outputs;
    let outputs: Vec<_> = outputs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        outputs,
        [
            ("Arn", "arn:aws:execute-api:cn-north-1:000000000000:w/live/*"),
            ("Endpoint", "http://127.0.0.1:3000/live"),
            ("Http", "http://127.0.0.1:3000/live/orders"),
            ("Other", "ws://127.0.0.1:3001/lively"),
            ("Socket", "ws://127.0.0.1:3001"),
        ]
    );
}

#[test]
fn globals_merge_maps_append_lists_and_yield_to_scalars() {
    let globals = "Globals: { Function: { Runtime: provided.al2023, CodeUri: functions/g, Timeout: 9, Environment: { Variables: { A: g, B: g } } } }\n";
    let function = |more: &str, properties: &str| {
        let resources = format!("  F: {{ Type: AWS::Serverless::Function, {more} Properties: {{ {properties} }} }}");
        run(&format!("{globals}{}", with_resources(&resources))).unwrap().functions.remove(0)
    };
    let merged = function("", "Timeout: 1, Environment: { Variables: { B: own, C: own } }");
    assert_eq!(merged.timeout_secs, 1);
    let variables: Vec<_> = merged.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(variables, [("A", "g"), ("B", "own"), ("C", "own")]);
    assert_eq!(function("IgnoreGlobals: [Timeout],", "").timeout_secs, 3, "SAM's default");
}

#[test]
fn intrinsic_functions_become_values() {
    let sections = "\
Transform: AWS::LanguageExtensions
Parameters: { P: { Type: String, Default: p }, L: { Type: CommaDelimitedList, Default: \"a, b\" } }
Mappings: { M: { p: { k: v } } }
Conditions: { Yes: !Equals [!Ref P, p], No: !Not [Condition: Yes], Either: !Or [!Condition No, !Condition Yes] }";
    for (expression, expected) in [
        ("!Ref P", "p"),
        ("{ Ref: P }", "p"),
        ("!Ref AWS::Region", "cn-north-1"),
        ("!Ref AWS::Partition", "aws-cn"),
        ("!Ref AWS::URLSuffix", "amazonaws.com.cn"),
        ("!Ref Q", "http://127.0.0.1:4566/000000000000/s-Q"),
        ("!GetAtt Q.Arn", "arn:aws-cn:sqs:cn-north-1:000000000000:s-Q"),
        ("!GetAtt [Q, QueueName]", "s-Q"),
        ("{ Fn::GetAtt: [Q, QueueName] }", "s-Q"),
        ("!Sub \"${P}-${AWS::StackName}-${Q.QueueName}-${!P}-$\"", "p-s-s-Q-${P}-$"),
        ("{ Fn::Sub: [\"${X}${P}\", { X: !Ref L0 }] }", "there is no parameter or resource `L0`"),
        ("!Sub [\"${X}${P}\", { X: !Select [1, !Ref L] }]", "bp"),
        ("!Join [\"-\", !Ref L]", "a-b"),
        ("!Join [\"-\", [x, !Ref AWS::NoValue, y]]", "x-y"),
        ("!Select [1, !Split [\"/\", a/b/c]]", "b"),
        ("!FindInMap [M, !Ref P, k]", "v"),
        ("!FindInMap [M, p, nope, { DefaultValue: d }]", "d"),
        ("!If [Yes, a, b]", "a"),
        ("!If [No, a, b]", "b"),
        ("!If [Either, a, !Ref Q]", "a"),
        ("!ToJsonString { a: [1, \"1\", true] }", "{\"a\":[1,\"1\",true]}"),
        ("!Length [a, b]", "2"),
        // What cannot be carried out says so.
        ("!Select [2, !Ref L]", "`Fn::Select` has no item `2` among 2"),
        ("!FindInMap [M, p, nope]", "mapping `M` has no value for `p`, `nope`"),
        ("!If [Maybe, a, b]", "there is no condition `Maybe`"),
        ("!If [Yes, a, !Ref Nope]", "there is no parameter or resource `Nope`"),
        ("!GetAtt P.Arn", "`P` is a parameter and has no attributes"),
        ("!GetAtt Q", "`Fn::GetAtt` takes `LogicalId.Attribute`"),
        ("!Sub \"${a b}\"", "`${a b}` in `Fn::Sub` is not a name"),
        ("!Sub \"${L}\"", "`Fn::Sub` can insert text only, no list and no `AWS::NoValue`"),
        ("!Ref L", "output `O` must be text"),
        ("!ImportValue x", "`Fn::ImportValue` has no value: no other stack runs here; use a parameter"),
        ("!Equals [a, a]", "a condition is not a value; name it in `Conditions` and use `Fn::If`"),
    ] {
        match value(sections, expression, &[]) {
            Ok(value) => assert_eq!(value, expected, "{expression}"),
            Err(error) => assert_eq!(error.split_once(": ").unwrap().1, expected, "{expression}"),
        }
    }
}

#[test]
fn conditions_are_decided_by_parameters_alone() {
    for (conditions, expected) in [
        ("{ A: !Equals [!Ref Q, x] }", "t:2: there is no parameter `Q`"),
        ("{ A: !Condition B, B: !Condition A }", "t:2: `A` refers to itself"),
        ("{ A: yes }", "t:2: a condition is one of `Fn::Equals`, `Fn::And`, `Fn::Or`, `Fn::Not`, `Condition`"),
        ("{ A: !And [!Equals [a, a]] }", "t:2: `Fn::And` and `Fn::Or` take a list of 2 to 10 conditions"),
    ] {
        assert_eq!(value(&format!("\nConditions: {conditions}"), "x", &[]).unwrap_err(), expected);
    }
    // Each condition is decided once, however often it is asked: this would take 2^30 steps otherwise.
    let chain: String = (1..30).map(|n| format!("C{n}: !And [!Condition C{0}, !Condition C{0}], ", n - 1)).collect();
    assert_eq!(value(&format!("Conditions: {{ {chain}C0: !Equals [a, a] }}"), "!If [C29, y, n]", &[]).unwrap(), "y");
}

#[test]
fn a_resource_whose_condition_is_false_is_absent() {
    let text = |reference: &str| {
        format!(
            "Conditions: {{ No: !Equals [a, b] }}
Resources:
  Q: {{ Type: AWS::SQS::Queue, Condition: No }}
  P: {{ Type: AWS::SQS::QueuePolicy, Properties: {{ Queues: {reference} }} }}"
        )
    };
    refuses(&text("[!Ref Q]"), "template.yaml:4: `Q` is not there: condition `No` is false");
    let bundle = run(&text("!If [No, [!Ref Q], []]")).unwrap();
    assert_eq!(bundle.queues, []);
}

#[test]
fn parameters_take_the_given_value_and_check_it() {
    for (declaration, given, expected) in [
        ("Type: String", Some("x"), Ok("x")),
        ("Type: String, Default: d", None, Ok("d")),
        ("Type: String, Default: \"\"", None, Ok("")),
        ("Type: String", None, Err("parameter `P` needs a value: it has no `Default`")),
        (
            "Type: AWS::SSM::Parameter::Value<String>, Default: /a",
            None,
            Err("parameter `P` needs a value: Parameter Store is not run locally"),
        ),
        ("Type: AWS::SSM::Parameter::Value<String>, Default: /a", Some("v"), Ok("v")),
        ("Type: String, AllowedValues: [a, b]", Some("c"), Err("parameter `P` must be one of a, b, not `c`")),
        ("Type: Number, AllowedValues: [1, 2], Default: 2", None, Ok("2")),
        ("Type: Number", Some("many"), Err("parameter `P` must be a number, not `many`")),
        ("Type: Number, MinValue: 3", Some("2"), Err("parameter `P` is `2`, outside `MinValue` and `MaxValue`")),
        (
            "Type: String, MaxLength: 2",
            Some("订单号"),
            Err("parameter `P` has 3 characters, outside `MinLength` and `MaxLength`"),
        ),
        ("Type: String, AllowedPattern: \"[a-z]+|x\"", Some("ab"), Ok("ab")),
        (
            "Type: String, AllowedPattern: \"[a-z]+|x\"",
            Some("ab1"),
            Err("parameter `P` must match `[a-z]+|x`, and `ab1` does not"),
        ),
        ("Default: x", None, Err("parameter `P` has no `Type`")),
        ("Type: String, Alowed: x", Some("x"), Err("`Alowed` of parameter `P` is not known")),
    ] {
        let given: Vec<_> = given.map(|given| ("P", given)).into_iter().collect();
        let value = value(&format!("Parameters: {{ P: {{ {declaration} }} }}"), "!Ref P", &given);
        let expected = expected.map(str::to_owned).map_err(|message| format!("t:1: {message}"));
        assert_eq!(value, expected, "{declaration}");
    }
    let error = resolve("Resources: {}", "t", &place(&[("Typo", "x")])).unwrap_err();
    assert_eq!(error.to_string(), "t:1: a value is given for parameter `Typo`, which is not declared");
}

#[test]
fn names_are_made_valid_for_their_service() {
    let long = "L".repeat(90);
    let text = format!(
        "Resources:\n  MyBucket: {{ Type: AWS::S3::Bucket }}\n  {long}: {{ Type: AWS::SQS::Queue, Properties: {{ FifoQueue: true }} }}"
    );
    let bundle = resolve(&text, "t", &Place { stack_name: "My_Stack".to_owned(), ..place(&[]) }).unwrap();
    assert_eq!(bundle.buckets[0].name, "my-stack-mybucket");
    assert_eq!(bundle.queues[0].name, format!("{}.fifo", "L".repeat(75)));
}

#[test]
fn long_chains_of_names_end_in_an_error_and_not_in_the_stack() {
    let queue = |n: usize| {
        format!("  Q{n}: {{ Type: AWS::SQS::Queue, Properties: {{ QueueName: !GetAtt Q{}.QueueName }} }}\n", n + 1)
    };
    let text: String = std::iter::once("Resources:\n".to_owned()).chain((0..400).map(queue)).collect();
    let error = run(&format!("{text}  Q400: {{ Type: AWS::SQS::Queue }}")).unwrap_err().to_string();
    assert!(error.contains("more than 32 names in a row"), "{error}");
}

const BUNDLE: &str = include_str!("bundle.yaml");

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        let _ = run(&text);
    }

    #[test]
    fn text_of_yaml_characters_never_panics(text in "[\\[\\]{}:,!&*#|>%@?\"' \\n\\ta-cRS$.-]{0,200}") {
        let _ = run(&text);
        let _ = run(&format!("Resources:\n{}", indented(&text, 2)));
    }

    /// A template of which any piece is replaced by any other: every reader meets what it does not expect.
    #[test]
    fn a_mangled_template_never_panics(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..3_u8), 1..6),
    ) {
        let mut words: Vec<&str> = BUNDLE.split_inclusive([' ', '\n', ',', '}']).collect();
        for (at, from, kind) in edits {
            let at = at.index(words.len());
            match kind {
                0 => words[at] = words[from.index(words.len())],
                1 => words[at] = "!Ref AWS::NoValue ",
                _ => { words.remove(at); }
            }
        }
        let _ = run(&words.concat());
    }
}
