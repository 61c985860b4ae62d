//! Event patterns: the documented examples, and what must not match.

use std::collections::BTreeMap;

use local_queue::pattern::Pattern;
use local_queue::sqs::{MessageAttribute, Received};
use serde_json::{Value, json};

fn event() -> Value {
    json!({
        "version": "0",
        "id": "ddddd4-aaaa-7777-4444-345dd43cc333",
        "detail-type": "EC2 Instance State-change Notification",
        "source": "aws.ec2",
        "account": "012345679012",
        "time": "2017-10-02T16:24:49Z",
        "region": "us-east-1",
        "resources": ["arn:aws:ec2:us-east-1:123456789012:instance/i-000000aaaaaa00000", "arn:other"],
        "detail": {
            "c-count": 5, "x-limit": 301.8, "big": 9_007_199_254_740_993_u64, "negative": -2,
            "source-ip": "10.0.0.33", "source-ip6": "2001:db8::1",
            "state": "running", "empty": "", "nothing": null, "yes": true, "none": [],
            "path": "dir/sub*dir/图片.PNG", "city": "Straße",
            "nested": {"deeper": {"k": "v"}},
            "employees": [{"name": "An", "role": "dev"}, {"name": "Bo", "role": "ops", "boss": 1}],
            "matrix": [[1, 2], [3]],
        }
    })
}

#[test]
fn patterns_match_what_they_should() {
    let detail = |pattern: Value| json!({"detail": pattern});
    for (pattern, expected) in [
        (json!({"source": ["aws.ec2"]}), true),
        (json!({"source": ["aws.s3", "aws.ec2"]}), true),
        (json!({"source": ["aws.s3"]}), false),
        (json!({"source": ["AWS.ec2"]}), false),
        (json!({"missing": ["x"]}), false),
        (json!({"resources": ["arn:other"]}), true),
        (json!({"resources": ["arn:none", "arn:other"], "region": ["us-east-1"]}), true),
        (json!({"resources": ["arn:other"], "region": ["us-west-1"]}), false),
        (detail(json!({"c-count": [5]})), true),
        (detail(json!({"c-count": [5.0]})), true),
        (detail(json!({"c-count": ["5"]})), false),
        (detail(json!({"x-limit": [3.018e2]})), true),
        (detail(json!({"big": [9_007_199_254_740_993_u64]})), true),
        (detail(json!({"big": [9_007_199_254_740_992_u64]})), false),
        (detail(json!({"yes": [true]})), true),
        (detail(json!({"yes": ["true"]})), false),
        (detail(json!({"nothing": [null]})), true),
        (detail(json!({"empty": [""]})), true),
        (detail(json!({"missing": [null]})), false),
        (detail(json!({"matrix": [3]})), true),
        (detail(json!({"nested": {"deeper": {"k": ["v"]}}})), true),
        (detail(json!({"nested": {"k": ["v"]}})), false),
        (detail(json!({"state": {"deeper": ["v"]}})), false),
        // Prefix and suffix.
        (json!({"time": [{"prefix": "2017-10-02"}]}), true),
        (json!({"time": [{"prefix": "2018"}]}), false),
        (json!({"source": [{"prefix": {"equals-ignore-case": "AWS."}}]}), true),
        (detail(json!({"path": [{"suffix": ".png"}]})), false),
        (detail(json!({"path": [{"suffix": ".PNG"}]})), true),
        (detail(json!({"path": [{"suffix": {"equals-ignore-case": "片.png"}}]})), true),
        (detail(json!({"c-count": [{"prefix": "5"}]})), false),
        (json!({"source": [{"equals-ignore-case": "AWS.EC2"}]}), true),
        (detail(json!({"city": [{"equals-ignore-case": "STRASSE"}]})), false),
        // Wildcard.
        (detail(json!({"path": [{"wildcard": "dir/*.PNG"}]})), true),
        (detail(json!({"path": [{"wildcard": "dir/sub\\*dir/*"}]})), true),
        (detail(json!({"path": [{"wildcard": "dir\\*"}]})), false),
        (detail(json!({"path": [{"wildcard": "*图*片*"}]})), true),
        (detail(json!({"path": [{"wildcard": "*片*图*"}]})), false),
        (detail(json!({"path": [{"wildcard": "*"}]})), true),
        (detail(json!({"state": [{"wildcard": "run*running"}]})), false),
        (detail(json!({"state": [{"wildcard": "running"}]})), true),
        (detail(json!({"empty": [{"wildcard": "*"}]})), true),
        // Numeric.
        (detail(json!({"c-count": [{"numeric": [">", 0, "<=", 5]}]})), true),
        (detail(json!({"c-count": [{"numeric": [">", 0, "<", 5]}]})), false),
        (detail(json!({"x-limit": [{"numeric": ["=", 3.018e2]}]})), true),
        (detail(json!({"negative": [{"numeric": ["<", -1.5]}]})), true),
        (detail(json!({"state": [{"numeric": [">", 0]}]})), false),
        // Anything-but.
        (detail(json!({"state": [{"anything-but": "initializing"}]})), true),
        (detail(json!({"state": [{"anything-but": "running"}]})), false),
        (detail(json!({"state": [{"anything-but": ["stopped", "running"]}]})), false),
        (detail(json!({"x-limit": [{"anything-but": [100, 200, 300]}]})), true),
        (detail(json!({"c-count": [{"anything-but": 5}]})), false),
        (detail(json!({"state": [{"anything-but": {"prefix": "init"}}]})), true),
        (detail(json!({"state": [{"anything-but": {"prefix": ["init", "run"]}}]})), false),
        (detail(json!({"state": [{"anything-but": {"suffix": "ing"}}]})), false),
        (detail(json!({"state": [{"anything-but": {"equals-ignore-case": ["RUNNING", "x"]}}]})), false),
        (detail(json!({"path": [{"anything-but": {"wildcard": "*/lib/*"}}]})), true),
        (detail(json!({"path": [{"anything-but": {"wildcard": ["*/lib/*", "dir/*"]}}]})), false),
        (detail(json!({"missing": [{"anything-but": "x"}]})), false),
        (json!({"resources": [{"anything-but": "arn:other"}]}), true),
        // CIDR.
        (detail(json!({"source-ip": [{"cidr": "10.0.0.0/24"}]})), true),
        (detail(json!({"source-ip": [{"cidr": "10.0.1.0/24"}]})), false),
        (detail(json!({"source-ip": [{"cidr": "0.0.0.0/0"}]})), true),
        (detail(json!({"source-ip": [{"cidr": "10.0.0.33/32"}]})), true),
        (detail(json!({"source-ip6": [{"cidr": "2001:db8::/32"}]})), true),
        (detail(json!({"source-ip6": [{"cidr": "2001:db9::/32"}]})), false),
        (detail(json!({"source-ip6": [{"cidr": "0.0.0.0/0"}]})), false),
        (detail(json!({"state": [{"cidr": "0.0.0.0/0"}]})), false),
        // Exists: leaves only, and over the whole event.
        (detail(json!({"c-count": [{"exists": true}]})), true),
        (detail(json!({"nothing": [{"exists": true}]})), true),
        (detail(json!({"missing": [{"exists": true}]})), false),
        (detail(json!({"missing": [{"exists": false}]})), true),
        (detail(json!({"c-count": [{"exists": false}]})), false),
        (detail(json!({"nested": [{"exists": true}]})), false),
        (detail(json!({"nested": [{"exists": false}]})), true),
        (detail(json!({"none": [{"exists": false}]})), true),
        (detail(json!({"a": {"b": {"c": [{"exists": false}]}}})), true),
        (detail(json!({"employees": {"boss": [{"exists": false}]}})), false),
        (detail(json!({"c-count": [{"exists": false}, 5]})), true),
        // Arrays of objects: one element must match as a whole.
        (detail(json!({"employees": {"name": ["An"], "role": ["dev"]}})), true),
        (detail(json!({"employees": {"name": ["An"], "role": ["ops"]}})), false),
        // $or.
        (json!({"source": ["aws.ec2"], "$or": [{"region": ["eu"]}, {"account": [{"prefix": "0123"}]}]}), true),
        (json!({"source": ["aws.s3"], "$or": [{"region": ["eu"]}, {"account": [{"prefix": "0123"}]}]}), false),
        (detail(json!({"$or": [{"state": ["stopped"]}, {"c-count": [{"numeric": [">", 9]}]}]})), false),
        (
            detail(json!({"$or": [{"state": ["x"]}, {"c-count": [5], "$or": [{"yes": [true]}, {"yes": [false]}]}]})),
            true,
        ),
        (json!({"$or": [{"a": ["x"]}, {"detail": {"state": ["running"]}}]}), true),
    ] {
        let parsed = Pattern::parse(&pattern.to_string()).unwrap_or_else(|error| panic!("{pattern}: {error}"));
        assert_eq!(parsed.matches(&event()), expected, "{pattern}");
    }
}

#[test]
fn or_is_a_field_name_where_it_cannot_be_an_operator() {
    let pattern = Pattern::parse(r#"{"$or": {"a": ["x"]}}"#).unwrap();
    assert!(pattern.matches(&json!({"$or": {"a": "x"}})));
    let pattern = Pattern::parse(r#"{"$or": [{"prefix": "abc"}, {"suffix": "xyz"}]}"#).unwrap();
    assert!(pattern.matches(&json!({"$or": "abcd"})));
}

#[test]
fn a_broken_pattern_names_the_place() {
    for (pattern, path) in [
        ("", "$"),
        ("[]", "$"),
        ("{}", "$"),
        (r#"{"source": "aws.ec2"}"#, "source"),
        (r#"{"source": []}"#, "source"),
        (r#"{"detail": {}}"#, "detail"),
        (r#"{"detail": {"a": {"b": 5}}}"#, "detail.a.b"),
        (r#"{"detail": {"a": [["x"]]}}"#, "detail.a"),
        (r#"{"detail": {"a": [{}]}}"#, "detail.a"),
        (r#"{"detail": {"a": [{"prefix": "x", "suffix": "y"}]}}"#, "detail.a"),
        (r#"{"detail": {"a": [{"between": 5}]}}"#, "detail.a"),
        (r#"{"detail": {"a": [{"prefix": 5}]}}"#, "detail.a"),
        (r#"{"detail": {"a": [{"prefix": {"wildcard": "x"}}]}}"#, "detail.a"),
        (r#"{"detail": {"a": [{"exists": "yes"}]}}"#, "detail.a"),
        (r#"{"detail": {"a": [{"numeric": [">"]}]}}"#, "detail.a"),
        (r#"{"detail": {"a": [{"numeric": ["!", 5]}]}}"#, "detail.a"),
        (r#"{"detail": {"a": [{"numeric": [">", 5, "<", 5]}]}}"#, "detail.a"),
        (r#"{"detail": {"a": [{"numeric": ["<", 5, ">", 1]}]}}"#, "detail.a"),
        (r#"{"detail": {"a": [{"numeric": []}]}}"#, "detail.a"),
        (r#"{"detail": {"a": [{"cidr": "10.0.0.0"}]}}"#, "detail.a"),
        (r#"{"detail": {"a": [{"cidr": "10.0.0.0/33"}]}}"#, "detail.a"),
        (r#"{"detail": {"a": [{"wildcard": "a**b"}]}}"#, "detail.a"),
        (r#"{"detail": {"a": [{"wildcard": "a\\b"}]}}"#, "detail.a"),
        (r#"{"detail": {"a": [{"anything-but": []}]}}"#, "detail.a"),
        (r#"{"detail": {"a": [{"anything-but": ["x", 1]}]}}"#, "detail.a"),
        (r#"{"detail": {"a": [{"anything-but": true}]}}"#, "detail.a"),
        (r#"{"detail": {"a": [{"anything-but": {"numeric": [">", 1]}}]}}"#, "detail.a"),
        (r#"{"detail": {"$or": [{"a": ["x"]}, {}]}}"#, "detail.$or"),
    ] {
        let error = Pattern::parse(pattern).expect_err(pattern);
        assert_eq!(error.path, path, "{pattern}: {error}");
    }
}

#[test]
fn filter_criteria_see_the_body_as_json_or_as_text() {
    let message = |body: &str| Received {
        message_id: "id".into(),
        receipt_handle: "handle".into(),
        body: body.into(),
        md5_of_body: String::new(),
        attributes: BTreeMap::from([("MessageGroupId".into(), "g".into())]),
        message_attributes: BTreeMap::from([("kind".into(), MessageAttribute::string("订单"))]),
    };
    for (pattern, body, expected) in [
        (r#"{"body": {"n": [1]}}"#, r#"{"n": 1}"#, true),
        (r#"{"body": {"n": [1]}}"#, r#"{"n": 2}"#, false),
        (r#"{"body": {"n": [1]}}"#, "plain", false),
        (r#"{"body": {"n": [{"exists": false}]}}"#, "plain", false),
        (r#"{"body": ["plain"]}"#, "plain", true),
        (r#"{"body": [{"prefix": "pl"}]}"#, "plain", true),
        (r#"{"body": [{"prefix": "{"}]}"#, r#"{"n": 1}"#, false),
        (r#"{"messageAttributes": {"kind": {"stringValue": ["订单"]}}}"#, "plain", true),
        (r#"{"attributes": {"MessageGroupId": ["g"]}}"#, r#"{"n": 1}"#, true),
        (r#"{"attributes": {"MessageGroupId": ["h"]}}"#, r#"{"n": 1}"#, false),
        (r#"{"$or": [{"body": {"n": [1]}}, {"body": {"n": [2]}}]}"#, r#"{"n": 2}"#, true),
    ] {
        assert_eq!(Pattern::parse(pattern).unwrap().matches_sqs(&message(body)), expected, "{pattern} on {body}");
    }
}
