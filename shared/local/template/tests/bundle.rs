//! One template with every kind of resource, resolved whole; and the bundle's own template.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use local_template::*;

fn place() -> Place {
    Place {
        region: "eu-central-1".to_owned(),
        account_id: "000000000000".to_owned(),
        stack_name: "shop".to_owned(),
        aws_endpoint: "http://127.0.0.1:4566".to_owned(),
        http_endpoint: "http://127.0.0.1:3000".to_owned(),
        websocket_endpoint: "ws://127.0.0.1:3001".to_owned(),
        key_file: PathBuf::from("/data/密钥"),
        parameters: BTreeMap::new(),
    }
}

fn bundle_with(parameters: &[(&str, &str)]) -> Bundle {
    let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundle.yaml");
    load(&path, &Place { parameters, ..place() }).unwrap()
}

fn bundle() -> Bundle {
    bundle_with(&[])
}

fn queue(name: &str) -> Destination {
    Destination::Queue(name.to_owned())
}

#[test]
fn nothing_in_the_template_is_left_undone() {
    assert_eq!(bundle().warnings, []);
}

#[test]
fn functions_carry_their_own_settings_and_the_inherited_ones() {
    let bundle = bundle();
    let seen: Vec<_> = bundle
        .functions
        .iter()
        .map(|it| (it.name.as_str(), it.package.as_str(), it.binary.as_str(), it.timeout_secs, it.memory_mb))
        .collect();
    assert_eq!(
        seen,
        [
            ("shop-OrderApiFunction", "order-api", "order-api-v2", 5, 256),
            ("shop-OrderWorkFunction", "order-work", "order-work", 10, 256),
            ("shop-SocketFunction", "socket-gateway", "socket-gateway", 10, 256),
            ("authorize-dev", "authorize", "authorize", 10, 256),
        ]
    );
    let api = &bundle.functions[0];
    assert_eq!(api.reserved_concurrency, Some(5));
    assert_eq!(
        api.logging,
        Logging {
            format: LogFormat::Json,
            application_level: Some("DEBUG".to_owned()),
            group: Some("shop-Logs".to_owned())
        }
    );
    assert_eq!(api.asynchronous, Asynchronous::default());
    assert_eq!(
        bundle.functions[1].asynchronous,
        Asynchronous {
            maximum_retry_attempts: 1,
            maximum_event_age_secs: 300,
            on_success: Some(Destination::Bus("shop".to_owned())),
            on_failure: Some(queue("shop-Parked")),
            dead_letter_queue: Some("shop-Parked".to_owned()),
        }
    );
}

#[test]
fn environments_are_resolved_to_what_answers_on_this_machine() {
    let environment = bundle().functions[0].environment.clone();
    let seen: Vec<_> = environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        seen,
        [
            ("BASE_URL", "http://127.0.0.1:3000/orders"),
            ("CONNECTIONS_URL", "http://127.0.0.1:4566/@connections"),
            ("FIRST_ORIGIN", "https://a.example"),
            ("GREETING", "你好 👋"),
            ("HAS_ALARMS", "no"),
            ("HOST", "b.example"),
            ("KEY", "file:/data/Key.key"),
            ("LITERAL", "${Literal} &&"),
            ("QUEUE_URL", "http://127.0.0.1:4566/000000000000/shop-OrderQueue.fifo"),
            ("RUST_LOG", "debug"),
            ("SOCKET_URL", "ws://127.0.0.1:3001"),
            ("STAGE", "dev"),
        ]
    );
}

#[test]
fn a_parameter_decides_what_is_there() {
    let bundle = bundle_with(&[("Stage", "prod"), ("AlarmTopicArn", "arn:aws:sns:eu-central-1:000000000000:alarms")]);
    assert!(bundle.functions.iter().any(|function| function.logical_id == "ProdOnlyFunction"));
    assert_eq!(bundle.functions[0].reserved_concurrency, Some(50));
    assert_eq!(bundle.functions[0].environment["HAS_ALARMS"], "yes");
    assert_eq!(bundle.functions[0].environment["ABSENT"], "prod-only");
    assert_eq!(bundle.outputs["ProdOnly"], "shop-ProdOnlyFunction");
}

#[test]
fn mappings_know_their_queue_or_table() {
    let mappings = bundle().mappings;
    let expected = [
        Mapping {
            id: "OrderWorkFunctionQueue".to_owned(),
            function: "shop-OrderWorkFunction".to_owned(),
            enabled: true,
            batch_size: 10,
            batching_window_secs: 0,
            filters: vec![r#"{"body":{"kind":["order"]}}"#.to_owned()],
            reports_batch_item_failures: true,
            source: Source::Queue { queue: "shop-OrderQueue.fifo".to_owned(), maximum_concurrency: Some(4) },
            line: mappings[0].line,
        },
        Mapping {
            id: "OrderWorkFunctionTable".to_owned(),
            function: "shop-OrderWorkFunction".to_owned(),
            enabled: true,
            batch_size: 100,
            batching_window_secs: 1,
            filters: vec![],
            reports_batch_item_failures: false,
            source: Source::Stream(StreamSource {
                table: "shop-Orders".to_owned(),
                starting_position: StartingPosition::TrimHorizon,
                parallelization_factor: 4,
                bisects_batch_on_error: true,
                maximum_retry_attempts: None,
                maximum_record_age_secs: Some(3600),
                on_failure: Some(Destination::Bucket("shop-files".to_owned())),
            }),
            line: mappings[1].line,
        },
    ];
    assert_eq!(mappings, expected);
}

#[test]
fn the_http_api_has_the_routes_of_its_functions() {
    let api = bundle().http_api.unwrap();
    assert_eq!((api.id.as_str(), api.stage.as_str()), ("httpapi", "v1"));
    let routes: Vec<_> = api
        .routes
        .iter()
        .map(|it| (it.route_key.as_str(), it.function.as_str(), it.timeout_ms, it.authorizer.as_deref()))
        .collect();
    assert_eq!(
        routes,
        [
            ("POST /orders/{order_id}", "shop-OrderApiFunction", 30_000, Some("Token")),
            ("GET /health", "shop-OrderApiFunction", 30_000, None),
            ("ANY /{proxy+}", "shop-OrderApiFunction", 5_000, Some("Token")),
        ]
    );
    let cors = api.cors.unwrap();
    assert_eq!(cors.allow_origins, ["https://a.example", "https://b.example"]);
    assert_eq!(cors.allow_methods, ["GET", "POST"], "lists of Globals come first");
    assert_eq!(cors.max_age_secs, Some(600));
    assert_eq!(
        api.authorizers,
        [HttpAuthorizer {
            name: "Token".to_owned(),
            kind: HttpAuthorizerKind::Lambda {
                function: "authorize-dev".to_owned(),
                identity_sources: vec!["$request.header.Authorization".to_owned()],
                ttl_secs: 60,
                simple_responses: true,
            },
        }]
    );
}

#[test]
fn the_websocket_api_is_joined_from_its_parts() {
    let api = bundle().websocket_api.unwrap();
    assert_eq!((api.id.as_str(), api.stage.as_str()), ("socket", "live"));
    assert_eq!(api.route_selection_expression, "$request.body.type");
    assert_eq!(api.stage_variables["tier"], "gold");
    let routes: Vec<_> =
        api.routes.iter().map(|it| (it.route_key.as_str(), it.function.as_str(), it.responds)).collect();
    assert_eq!(routes, [("$connect", "shop-SocketFunction", false), ("$default", "shop-SocketFunction", true)]);
    assert_eq!(
        api.authorizer,
        Some(SocketAuthorizer {
            name: "ticket".to_owned(),
            function: "authorize-dev".to_owned(),
            identity_sources: vec!["route.request.querystring.ticket".to_owned()],
        })
    );
}

#[test]
fn queues_and_their_dead_letters() {
    let queues = bundle().queues;
    let names: Vec<_> = queues.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["shop-OrderQueue.fifo", "shop-dead.fifo", "shop-Parked"]);
    let fifo =
        Fifo { content_based_deduplication: true, deduplicates_per_group: true, limits_throughput_per_group: true };
    assert_eq!(queues[0].fifo, Some(fifo));
    assert_eq!(queues[0].visibility_timeout_secs, 60);
    assert_eq!(
        queues[0].redrive,
        Some(Redrive { dead_letter_queue: "shop-dead.fifo".to_owned(), maximum_receive_count: 5 })
    );
    let parked = &queues[2];
    assert_eq!(parked.fifo, None);
    assert_eq!((parked.retention_secs, parked.receive_wait_secs, parked.delay_secs), (1_209_600, 20, 1));
    assert_eq!(parked.url, "http://127.0.0.1:4566/000000000000/shop-Parked");
    assert_eq!(parked.arn, "arn:aws:sqs:eu-central-1:000000000000:shop-Parked");
}

#[test]
fn tables_have_keys_indexes_stream_and_ttl() {
    let table = bundle().tables.remove(0);
    assert_eq!(table.name, "shop-Orders");
    assert_eq!(table.key, KeySchema { hash: "pk".to_owned(), range: Some("sk".to_owned()) });
    assert_eq!(table.attributes[2], ("due_at".to_owned(), AttributeType::Number));
    assert_eq!(
        table.global_indexes,
        [Index {
            name: "due".to_owned(),
            key: KeySchema { hash: "sk".to_owned(), range: Some("due_at".to_owned()) },
            projection: Projection::Include(vec!["state".to_owned()]),
        }]
    );
    assert_eq!(table.stream, Some(StreamView::NewAndOldImages));
    assert_eq!(table.ttl_attribute.as_deref(), Some("ttl"));
}

#[test]
fn buckets_notify_their_own_targets_and_those_of_functions() {
    let bucket = bundle().buckets.remove(0);
    assert_eq!(bucket.name, "shop-files");
    assert!(!bucket.is_versioned);
    assert_eq!(
        bucket.notifications,
        [
            Notification {
                events: vec!["s3:ObjectRemoved:*".to_owned()],
                prefix: String::new(),
                suffix: String::new(),
                target: Target::Queue { name: "shop-Parked".to_owned(), message_group_id: None },
            },
            Notification {
                events: vec!["s3:ObjectCreated:*".to_owned()],
                prefix: "in/".to_owned(),
                suffix: ".json".to_owned(),
                target: Target::Function("shop-OrderWorkFunction".to_owned()),
            },
        ]
    );
    assert_eq!(bucket.lifecycle.len(), 1, "a disabled rule is left out");
    assert_eq!(bucket.lifecycle[0].expiration_days, Some(7));
    assert_eq!(bucket.lifecycle[0].abort_incomplete_upload_days, Some(2));
    assert_eq!(bucket.cors[0].exposed_headers, ["ETag"]);
}

#[test]
fn rules_come_from_events_and_from_rules() {
    let rules = bundle().rules;
    let published = &rules[0];
    assert_eq!(published.arn, "arn:aws:events:eu-central-1:000000000000:rule/shop/shop-OrderWorkFunctionPublished");
    assert_eq!(published.bus, "shop");
    assert_eq!(
        published.pattern,
        r#"{"detail":{"amount":[{"numeric":[">",100]}],"urgent":[true]},"source":["skylark.orders"]}"#
    );
    assert_eq!(published.targets[0].input, Input::Path("$.detail".to_owned()));
    assert_eq!(
        published.targets[0].delivery,
        Delivery {
            maximum_retry_attempts: 3,
            maximum_event_age_secs: 600,
            dead_letter_queue: Some("shop-Parked".to_owned())
        }
    );
    let targets: Vec<_> = rules[1].targets.iter().map(|it| (&it.target, &it.input)).collect();
    let paths = BTreeMap::from([("id".to_owned(), "$.id".to_owned())]);
    assert_eq!(
        targets,
        [
            (
                &Target::Queue { name: "shop-OrderQueue.fifo".to_owned(), message_group_id: Some("events".to_owned()) },
                &Input::Transformer { paths, template: r#"{"id": <id>}"#.to_owned() }
            ),
            (&Target::Function("shop-OrderWorkFunction".to_owned()), &Input::Constant(r#"{"a": 1}"#.to_owned())),
        ]
    );
}

#[test]
fn schedules_come_from_events_and_from_schedules() {
    let schedules = bundle().schedules;
    let seen: Vec<_> = schedules
        .iter()
        .map(|it| (it.logical_id.as_str(), it.expression.as_str(), it.timezone.as_str(), it.enabled, it.source))
        .collect();
    assert_eq!(
        seen,
        [
            ("OrderWorkFunctionNightly", "cron(0 2 * * ? *)", "Asia/Shanghai", true, ScheduleSource::Scheduler),
            ("OrderWorkFunctionOften", "rate(5 minutes)", "UTC", false, ScheduleSource::Rule),
            ("Weekly", "at(2027-01-01T00:00:00)", "UTC", false, ScheduleSource::Scheduler),
        ]
    );
    assert_eq!(schedules[0].input, Input::Constant(r#"{"job": "seal"}"#.to_owned()));
    assert_eq!(schedules[1].input, Input::Event);
}

#[test]
fn keys_outputs_and_what_is_left_out() {
    let bundle = bundle();
    assert_eq!(bundle.keys[0].value, "file:/data/Key.key", "a key that signs has a file of its own");
    assert_eq!(bundle.keys[0].usage, KeyUsage::SignVerify);
    let outputs: Vec<_> = bundle.outputs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(outputs, [("HttpApiUrl", "http://127.0.0.1:3000"), ("SocketUrl", "ws://127.0.0.1:3001")]);
    let left_out: Vec<_> = bundle.left_out.iter().map(|it| it.logical_id.as_str()).collect();
    assert_eq!(left_out[..3], ["SocketPermission", "Logs", "Errors"]);
}

#[test]
fn the_template_of_this_bundle_runs_without_a_warning() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../template.yaml");
    let bundle = load(&path, &Place { stack_name: "skylark".to_owned(), ..place() }).unwrap();
    assert_eq!(bundle.warnings, []);
    assert!(!bundle.functions.is_empty());
}

#[test]
fn the_parameters_are_known_before_there_is_a_place() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundle.yaml");
    assert_eq!(parameters(&path).unwrap(), ["Stage", "Origins", "AlarmTopicArn"]);
}

#[test]
fn a_template_that_is_not_there_is_named() {
    let error = load(Path::new("/nowhere/template.yaml"), &place()).unwrap_err();
    assert_eq!(error.to_string(), "cannot read `/nowhere/template.yaml`");
}
