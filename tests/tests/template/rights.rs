//! Who may do what.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::Checked;
use crate::mutant::Edit::{Remove, Set};
use crate::mutant::Mutant;
use crate::read::{FUNCTION, listed, of_type, target};

/// What each function's adapters call, and on which resource. What Lambda itself needs for mappings and logs, SAM adds.
const CALLS: &[(&str, &[(&str, &str)])] = &[
    (
        "LarkCallbackFunction",
        &[
            ("dynamodb:GetItem", "LarkTable"),
            ("dynamodb:PutItem", "LarkTable"),
            ("kms:Decrypt", "VaultKey"),
            ("sqs:SendMessage", "LarkWorkQueue"),
        ],
    ),
    (
        "LarkOauthFunction",
        &[
            ("dynamodb:DeleteItem", "LarkTable"),
            ("dynamodb:GetItem", "LarkTable"),
            ("dynamodb:PutItem", "LarkTable"),
            ("dynamodb:UpdateItem", "LarkTable"),
            ("kms:Decrypt", "VaultKey"),
            ("kms:GenerateDataKey", "VaultKey"),
            ("sqs:SendMessage", "LarkWorkQueue"),
        ],
    ),
    (
        "LarkWorkFunction",
        &[
            ("dynamodb:GetItem", "ChatTable"),
            ("dynamodb:GetItem", "LarkTable"),
            ("dynamodb:PutItem", "ChatTable"),
            ("dynamodb:PutItem", "LarkTable"),
            ("dynamodb:Query", "ChatTable"),
            ("dynamodb:UpdateItem", "ChatTable"),
            ("dynamodb:UpdateItem", "LarkTable"),
            ("events:PutEvents", "EventBus"),
            ("kms:Decrypt", "VaultKey"),
            ("kms:GenerateDataKey", "VaultKey"),
            ("sqs:ChangeMessageVisibility", "LarkWorkQueue"),
            ("sqs:SendMessage", "LakeQueue"),
            ("sqs:SendMessage", "LarkWorkQueue"),
            ("sqs:SendMessage", "ParkedQueue"),
            ("sqs:SendMessage", "PushQueue"),
        ],
    ),
    (
        "ChannelDeliverFunction",
        &[
            ("dynamodb:GetItem", "ChatTable"),
            ("dynamodb:GetItem", "FilesTable"),
            ("dynamodb:GetItem", "LarkTable"),
            ("dynamodb:PutItem", "ChatTable"),
            ("dynamodb:PutItem", "LarkTable"),
            ("dynamodb:Query", "ChatTable"),
            ("dynamodb:UpdateItem", "ChatTable"),
            ("dynamodb:UpdateItem", "LarkTable"),
            ("kms:Decrypt", "VaultKey"),
            ("kms:GenerateDataKey", "VaultKey"),
            ("sqs:ChangeMessageVisibility", "ChannelQueue"),
            ("sqs:SendMessage", "ChannelQueue"),
            ("sqs:SendMessage", "ParkedQueue"),
            ("sqs:SendMessage", "PushQueue"),
        ],
    ),
    (
        "OutboxRelayFunction",
        &[
            ("events:PutEvents", "EventBus"),
            // The mapping keeps what it gave up on with the function's own rights.
            ("s3:ListBucket", "EvidenceBucket"),
            ("s3:PutObject", "EvidenceBucket"),
            ("sqs:SendMessage", "ChannelQueue"),
            ("sqs:SendMessage", "LakeQueue"),
            ("sqs:SendMessage", "LarkWorkQueue"),
            ("sqs:SendMessage", "ParkedQueue"),
            ("sqs:SendMessage", "PushQueue"),
        ],
    ),
    (
        "TokenExpiryFunction",
        &[
            ("dynamodb:BatchGetItem", "LarkTable"),
            ("dynamodb:DeleteItem", "LarkTable"),
            ("dynamodb:GetItem", "LarkTable"),
            ("dynamodb:PutItem", "ChatTable"),
            ("dynamodb:PutItem", "LarkTable"),
            ("dynamodb:Query", "ChatTable"),
            ("dynamodb:Query", "LarkTable"),
            ("dynamodb:UpdateItem", "LarkTable"),
            ("kms:Decrypt", "VaultKey"),
            ("kms:GenerateDataKey", "VaultKey"),
            ("sqs:SendMessage", "LarkWorkQueue"),
            // Lambda sends a failed invocation there with the function's own rights.
            ("sqs:SendMessage", "ParkedQueue"),
        ],
    ),
    (
        "LarkApiFunction",
        &[
            ("dynamodb:DeleteItem", "LarkTable"),
            ("dynamodb:GetItem", "LarkTable"),
            ("dynamodb:PutItem", "LarkTable"),
            ("dynamodb:UpdateItem", "LarkTable"),
            ("kms:Decrypt", "VaultKey"),
            ("kms:GenerateDataKey", "VaultKey"),
            ("kms:GetPublicKey", "SigningKey"),
            ("sqs:SendMessage", "LarkWorkQueue"),
        ],
    ),
    (
        "ChatApiFunction",
        &[
            ("dynamodb:BatchGetItem", "ChatTable"),
            ("dynamodb:GetItem", "ChatTable"),
            ("dynamodb:GetItem", "FilesTable"),
            ("dynamodb:PutItem", "ChatTable"),
            ("dynamodb:Query", "ChatTable"),
            ("dynamodb:UpdateItem", "ChatTable"),
            ("kms:GetPublicKey", "SigningKey"),
            ("sqs:SendMessage", "PushQueue"),
        ],
    ),
    (
        "AuthTokenFunction",
        &[
            ("dynamodb:GetItem", "AuthTable"),
            ("dynamodb:PutItem", "AuthTable"),
            ("dynamodb:UpdateItem", "AuthTable"),
            ("kms:GetPublicKey", "SigningKey"),
            ("kms:Sign", "SigningKey"),
            ("sqs:SendMessage", "PushQueue"),
        ],
    ),
    (
        "SocketGatewayFunction",
        &[
            ("dynamodb:BatchGetItem", "ChatTable"),
            ("dynamodb:DeleteItem", "ChatTable"),
            ("dynamodb:GetItem", "ChatTable"),
            ("dynamodb:PutItem", "ChatTable"),
            ("dynamodb:Query", "ChatTable"),
            ("dynamodb:UpdateItem", "ChatTable"),
            ("execute-api:ManageConnections", "SocketApi"),
            ("kms:GetPublicKey", "SigningKey"),
            ("sqs:SendMessage", "PushQueue"),
        ],
    ),
    (
        "MessagePushFunction",
        &[
            ("dynamodb:BatchGetItem", "ChatTable"),
            ("dynamodb:DeleteItem", "ChatTable"),
            ("dynamodb:GetItem", "ChatTable"),
            ("dynamodb:PutItem", "ChatTable"),
            ("dynamodb:Query", "ChatTable"),
            ("dynamodb:UpdateItem", "ChatTable"),
            ("execute-api:ManageConnections", "SocketApi"),
            ("sqs:ChangeMessageVisibility", "PushQueue"),
            ("sqs:SendMessage", "ParkedQueue"),
            ("sqs:SendMessage", "PushQueue"),
        ],
    ),
    (
        "OutboxSweepFunction",
        &[
            ("dynamodb:GetItem", "ChatTable"),
            ("dynamodb:PutItem", "ChatTable"),
            ("dynamodb:Query", "ChatTable"),
            // Lambda sends a failed invocation there with the function's own rights.
            ("sqs:SendMessage", "ParkedQueue"),
            ("sqs:SendMessage", "PushQueue"),
        ],
    ),
    (
        "LakeCompactFunction",
        &[
            ("s3:AbortMultipartUpload", "LakeBucket"),
            ("s3:DeleteObject", "LakeBucket"),
            ("s3:GetObject", "LakeBucket"),
            ("s3:ListBucket", "LakeBucket"),
            ("s3:PutObject", "LakeBucket"),
            ("sqs:ChangeMessageVisibility", "CompactQueue"),
            ("sqs:SendMessage", "CompactQueue"),
            ("sqs:SendMessage", "ParkedQueue"),
        ],
    ),
    (
        "LakeMaintainFunction",
        &[
            ("dynamodb:GetItem", "LakeTable"),
            ("s3:AbortMultipartUpload", "LakeBucket"),
            ("s3:DeleteObject", "LakeBucket"),
            ("s3:GetObject", "LakeBucket"),
            ("s3:ListBucket", "LakeBucket"),
            ("s3:PutObject", "LakeBucket"),
            ("sqs:SendMessage", "CompactQueue"),
            ("sqs:SendMessage", "LakeQueue"),
            // Lambda sends a failed invocation there with the function's own rights.
            ("sqs:SendMessage", "ParkedQueue"),
        ],
    ),
    (
        "UploadApiFunction",
        &[
            ("dynamodb:DeleteItem", "FilesTable"),
            ("dynamodb:GetItem", "ChatTable"),
            ("dynamodb:GetItem", "FilesTable"),
            ("dynamodb:PutItem", "FilesTable"),
            ("dynamodb:UpdateItem", "FilesTable"),
            ("kms:GetPublicKey", "SigningKey"),
            ("s3:AbortMultipartUpload", "FilesBucket"),
            ("s3:DeleteObject", "FilesBucket"),
            ("s3:GetObject", "FilesBucket"),
            ("s3:ListMultipartUploadParts", "FilesBucket"),
            ("s3:PutObject", "FilesBucket"),
            ("sqs:SendMessage", "MergeQueue"),
        ],
    ),
    (
        "UploadMergeFunction",
        &[
            ("dynamodb:DeleteItem", "FilesTable"),
            ("dynamodb:GetItem", "FilesTable"),
            ("dynamodb:PutItem", "FilesTable"),
            ("dynamodb:UpdateItem", "FilesTable"),
            ("events:PutEvents", "EventBus"),
            ("s3:AbortMultipartUpload", "FilesBucket"),
            ("s3:DeleteObject", "FilesBucket"),
            ("s3:GetObject", "FilesBucket"),
            ("s3:ListBucket", "FilesBucket"),
            ("s3:ListMultipartUploadParts", "FilesBucket"),
            ("s3:PutObject", "FilesBucket"),
            ("sqs:ChangeMessageVisibility", "MergeQueue"),
            ("sqs:SendMessage", "ParkedQueue"),
            ("sqs:SendMessage", "PushQueue"),
        ],
    ),
    (
        "UploadSweepFunction",
        &[
            ("dynamodb:DeleteItem", "FilesTable"),
            ("dynamodb:GetItem", "FilesTable"),
            ("dynamodb:PutItem", "FilesTable"),
            ("dynamodb:Query", "FilesTable"),
            ("dynamodb:UpdateItem", "FilesTable"),
            ("s3:AbortMultipartUpload", "FilesBucket"),
            ("s3:DeleteObject", "FilesBucket"),
            ("s3:ListBucketMultipartUploads", "FilesBucket"),
            ("sqs:SendMessage", "MergeQueue"),
            // Lambda sends a failed invocation there with the function's own rights.
            ("sqs:SendMessage", "ParkedQueue"),
        ],
    ),
    (
        "WebhookIntakeFunction",
        &[("dynamodb:GetItem", "LakeTable"), ("s3:PutObject", "LakeBucket"), ("sqs:SendMessage", "LakeQueue")],
    ),
    (
        "LakeAppendFunction",
        &[
            ("dynamodb:GetItem", "LakeTable"),
            // Claims are transactions of such.
            ("dynamodb:PutItem", "LakeTable"),
            ("s3:DeleteObject", "LakeBucket"),
            ("s3:GetObject", "LakeBucket"),
            ("s3:ListBucket", "LakeBucket"),
            ("s3:PutObject", "LakeBucket"),
            ("sqs:ChangeMessageVisibility", "LakeQueue"),
            ("sqs:SendMessage", "CompactQueue"),
            ("sqs:SendMessage", "ParkedQueue"),
        ],
    ),
    (
        "LakeQueryFunction",
        &[
            ("dynamodb:UpdateItem", "LakeTable"),
            ("kms:GetPublicKey", "SigningKey"),
            ("s3:GetObject", "LakeBucket"),
            ("s3:ListBucket", "LakeBucket"),
        ],
    ),
    ("HealthCheckFunction", &[("dynamodb:GetItem", "LarkTable"), ("sqs:GetQueueAttributes", "LarkWorkQueue")]),
];

pub(crate) const RULES: &[Checked] = &[
    Checked {
        name: "rights are spelled out",
        rule: rights_are_spelled_out,
        mutants: &[
            Mutant {
                what: "every action",
                culprit: "HealthCheckFunction",
                edits: &[Set("/Resources/HealthCheckFunction/Properties/Policies/0/Statement/0/Action", r#""*""#)],
            },
            Mutant {
                what: "every action of a service",
                culprit: "HealthCheckFunction",
                edits: &[Set(
                    "/Resources/HealthCheckFunction/Properties/Policies/0/Statement/0/Action",
                    r#"["dynamodb:*"]"#,
                )],
            },
            Mutant {
                what: "every resource",
                culprit: "HealthCheckFunction",
                edits: &[Set("/Resources/HealthCheckFunction/Properties/Policies/0/Statement/0/Resource", r#""*""#)],
            },
            Mutant {
                what: "every table of the account",
                culprit: "HealthCheckFunction",
                edits: &[Set(
                    "/Resources/HealthCheckFunction/Properties/Policies/0/Statement/0/Resource",
                    r#"{"Fn::Sub": "arn:aws:dynamodb:*:${AWS::AccountId}:table/*"}"#,
                )],
            },
            Mutant {
                what: "every API of the account",
                culprit: "MessagePushFunction",
                edits: &[Set(
                    "/Resources/MessagePushFunction/Properties/Policies/0/Statement/7/Resource",
                    r#"{"Fn::Sub": "arn:${AWS::Partition}:execute-api:${AWS::Region}:${AWS::AccountId}:*/live/*/@connections/*"}"#,
                )],
            },
            Mutant {
                what: "every key, if a parameter says so",
                culprit: "LarkCallbackFunction",
                edits: &[Set(
                    "/Resources/LarkCallbackFunction/Properties/Policies/0/Statement/3/Resource",
                    r#"{"Fn::If": ["HasNewerVaultKeys", "*", {"Fn::GetAtt": ["VaultKey", "Arn"]}]}"#,
                )],
            },
            Mutant {
                what: "all actions but one",
                culprit: "HealthCheckFunction",
                edits: &[Set(
                    "/Resources/HealthCheckFunction/Properties/Policies/0/Statement/0/NotAction",
                    r#""iam:PassRole""#,
                )],
            },
            Mutant {
                what: "a managed policy",
                culprit: "HealthCheckFunction",
                edits: &[Set("/Resources/HealthCheckFunction/Properties/Policies", r#"["AdministratorAccess"]"#)],
            },
            Mutant {
                what: "a policy for all",
                culprit: "Globals",
                edits: &[Set("/Globals/Function/Policies", r#"["AmazonDynamoDBFullAccess"]"#)],
            },
        ],
    },
    Checked {
        name: "who writes what must be new may look whether it is there",
        rule: writers_may_look,
        mutants: &[Mutant {
            what: "a quarantine that is written blindly",
            culprit: "LakeAppendFunction",
            edits: &[Set(
                "/Resources/LakeAppendFunction/Properties/Policies/0/Statement/1/Resource/4",
                r#"{"Fn::Sub": "${LakeBucket.Arn}/maintain/*"}"#,
            )],
        }],
    },
    Checked {
        name: "a function may do what its adapters call, and nothing else",
        rule: rights_match_calls,
        mutants: &[
            Mutant {
                what: "a right that is not used",
                culprit: "HealthCheckFunction",
                edits: &[Set(
                    "/Resources/HealthCheckFunction/Properties/Policies/0/Statement/0/Action",
                    r#"["dynamodb:GetItem", "dynamodb:DeleteItem"]"#,
                )],
            },
            Mutant {
                what: "a right on another resource",
                culprit: "HealthCheckFunction",
                edits: &[Set(
                    "/Resources/HealthCheckFunction/Properties/Policies/0/Statement/1/Resource",
                    r#"{"Fn::GetAtt": ["ParkedQueue", "Arn"]}"#,
                )],
            },
            Mutant {
                what: "no right to do the work",
                culprit: "LarkWorkFunction",
                edits: &[Remove("/Resources/LarkWorkFunction/Properties/Policies")],
            },
            Mutant {
                what: "a right that is denied again",
                culprit: "HealthCheckFunction",
                edits: &[Set("/Resources/HealthCheckFunction/Properties/Policies/0/Statement/1/Effect", r#""Deny""#)],
            },
            Mutant {
                what: "a function that nobody thought about",
                culprit: "NewFunction",
                edits: &[Set("/Resources/NewFunction", r#"{"Type": "AWS::Serverless::Function", "Properties": {}}"#)],
            },
        ],
    },
];

/// A write that is refused because the object is there is followed by a look at it: S3 calls that `GetObject`. Who reads nothing of a bucket writes
/// under names that are there only if it wrote them.
fn writers_may_look(template: &Value) -> Vec<String> {
    let mut violations = Vec::new();
    for (id, function) in of_type(template, FUNCTION) {
        let of = |action: &str| {
            let allowed = statements(function).filter(|it| listed(&it["Action"]).iter().any(|one| one == action));
            let resources = allowed.flat_map(|it| listed(&it["Resource"])).map(Value::to_string);
            resources.filter(|resource| resource.contains("${LakeBucket.Arn}/")).collect::<BTreeSet<_>>()
        };
        let (written, read) = (of("s3:PutObject"), of("s3:GetObject"));
        if !read.is_empty() {
            violations.extend(written.difference(&read).map(|it| format!("{id} may write {it}, and not look at it")));
        }
    }
    violations
}

fn statements(function: &Value) -> impl Iterator<Item = &Value> {
    listed(&function["Properties"]["Policies"]).iter().flat_map(|policy| listed(&policy["Statement"]))
}

/// No action has a `*`, and every resource is one of this template, possibly with a path below it.
fn rights_are_spelled_out(template: &Value) -> Vec<String> {
    let mut violations = Vec::new();
    if !template["Globals"]["Function"]["Policies"].is_null() {
        violations.push("Globals gives rights to every function".to_owned());
    }
    for (id, function) in of_type(template, FUNCTION) {
        if listed(&function["Properties"]["Policies"]).iter().any(|policy| policy["Statement"].is_null()) {
            violations.push(format!("{id} has a policy that is written elsewhere"));
        }
        for statement in statements(function) {
            if listed(&statement["Action"])
                .iter()
                .any(|action| action.as_str().is_none_or(|action| action.contains('*')))
            {
                violations.push(format!("{id} has a wildcard for an action: {}", statement["Action"]));
            }
            let foreign = |arn: &Value| !is_declared(template, arn);
            if statement["Resource"].is_null() || listed(&statement["Resource"]).iter().any(foreign) {
                violations
                    .push(format!("{id} has rights on what this template does not declare: {}", statement["Resource"]));
            }
            if !statement["NotAction"].is_null() || !statement["NotResource"].is_null() {
                violations.push(format!("{id} has rights that are stated by what they leave out"));
            }
        }
    }
    violations
}

/// A resource of the template; or that with others of its kind before it, where whoever deploys names some in a parameter.
fn is_declared(template: &Value, arn: &Value) -> bool {
    let Some(id) = target(arn).filter(|id| !template["Resources"][id].is_null()) else { return false };
    let Some([_, named, _]) = arn["Fn::If"].as_array().map(Vec::as_slice) else { return true };
    let mut parameters = template["Parameters"].as_object().into_iter().flatten();
    parameters.any(|(name, _)| named["Fn::Split"] == json!([",", { "Fn::Sub": format!("${{{name}}},${{{id}.Arn}}") }]))
}

fn rights_match_calls(template: &Value) -> Vec<String> {
    let mut violations = Vec::new();
    for (id, function) in of_type(template, FUNCTION) {
        let Some((_, calls)) = CALLS.iter().find(|(name, _)| *name == id) else {
            violations.push(format!("{id} has no entry in this table of calls"));
            continue;
        };
        let needed: BTreeSet<_> = calls.iter().copied().collect();
        let granted: BTreeSet<_> = statements(function)
            .filter(|statement| statement["Effect"] == "Allow")
            .flat_map(|statement| {
                let resources = listed(&statement["Resource"]);
                listed(&statement["Action"]).iter().flat_map(move |action| {
                    resources.iter().map(move |arn| (action.as_str().unwrap_or("?"), target(arn).unwrap_or("?")))
                })
            })
            .collect();
        violations.extend(granted.difference(&needed).map(|(action, on)| format!("{id} never calls {action} on {on}")));
        violations.extend(
            needed.difference(&granted).map(|(action, on)| format!("{id} calls {action} on {on} without a right")),
        );
    }
    violations
}
