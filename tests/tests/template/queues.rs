//! Queues.

use serde_json::{Value, json};

use crate::Checked;
use crate::mutant::Edit::{Remove, Set};
use crate::mutant::Mutant;
use crate::read::{QUEUE, is_watched, listed, mappings, of_type, properties, resources, setting, target};

/// Queues that need no redrive policy, because what is on them was given up on already.
const END_OF_THE_LINE: [(&str, &str); 1] =
    [("ParkedQueue", "people read it; whatever takes a message off it is done with it")];

/// What SQS keeps a message for if nothing is said, in seconds.
const DEFAULT_RETENTION: u64 = 345_600;

pub(crate) const RULES: &[Checked] = &[
    Checked {
        name: "a large batch from a standard queue has a window",
        rule: large_batches_have_a_window,
        mutants: &[Mutant {
            what: "100 messages at once from a standard queue, without a window",
            culprit: "LarkWorkFunction",
            edits: &[
                Set(
                    "/Resources/LarkWorkFunction/Properties/Events/Work/Properties/Queue",
                    r#"{"Fn::GetAtt": ["ParkedQueue", "Arn"]}"#,
                ),
                Set("/Resources/LarkWorkFunction/Properties/Events/Work/Properties/BatchSize", "100"),
            ],
        }],
    },
    Checked {
        name: "high throughput of a FIFO queue is whole",
        rule: high_throughput_is_whole,
        mutants: &[
            Mutant {
                what: "throughput per group, deduplication per queue",
                culprit: "LarkWorkQueue",
                edits: &[Remove("/Resources/LarkWorkQueue/Properties/DeduplicationScope")],
            },
            Mutant {
                what: "deduplication per group, throughput per queue",
                culprit: "LarkWorkQueue",
                edits: &[Set("/Resources/LarkWorkQueue/Properties/FifoThroughputLimit", r#""perQueue""#)],
            },
        ],
    },
    Checked {
        name: "what a queue gives up on goes somewhere",
        rule: queues_redrive,
        mutants: &[
            Mutant {
                what: "no redrive policy",
                culprit: "LarkWorkQueue",
                edits: &[Remove("/Resources/LarkWorkQueue/Properties/RedrivePolicy")],
            },
            Mutant {
                what: "a redrive policy to a queue of somebody else",
                culprit: "LarkWorkQueue",
                edits: &[Set(
                    "/Resources/LarkWorkQueue/Properties/RedrivePolicy/deadLetterTargetArn",
                    r#""arn:aws:sqs:us-east-1:123456789012:dead""#,
                )],
            },
            Mutant {
                what: "a queue that nobody thought about",
                culprit: "NewQueue",
                edits: &[Set("/Resources/NewQueue", r#"{"Type": "AWS::SQS::Queue", "Properties": {}}"#)],
            },
            Mutant {
                what: "an exception for a queue that is gone",
                culprit: "ParkedQueue",
                edits: &[Remove("/Resources/ParkedQueue")],
            },
        ],
    },
    Checked {
        name: "a dead letter outlives its queue's messages",
        rule: dead_letters_are_kept_longest,
        mutants: &[Mutant {
            what: "dead letters that are gone after a day",
            culprit: "LarkWorkDeadLetters",
            edits: &[Set("/Resources/LarkWorkDeadLetters/Properties/MessageRetentionPeriod", "86400")],
        }],
    },
    Checked {
        name: "dead letters and parked messages raise an alarm",
        rule: last_stops_are_watched,
        mutants: &[
            Mutant {
                what: "no alarm on a dead-letter queue",
                culprit: "LarkWorkDeadLetters",
                edits: &[Remove("/Resources/LarkWorkDeadLettersDepth")],
            },
            Mutant {
                what: "an alarm on the URL where the name belongs, which never fires",
                culprit: "ParkedQueue",
                edits: &[Set("/Resources/ParkedQueueDepth/Properties/Dimensions/0/Value", r#"{"Ref": "ParkedQueue"}"#)],
            },
            Mutant {
                what: "an alarm from the eleventh message",
                culprit: "AppEventsDeadLetters",
                edits: &[Set("/Resources/AppEventsDeadLettersDepth/Properties/Threshold", "10")],
            },
        ],
    },
    Checked {
        name: "a message stays hidden for six time-outs of its function",
        rule: messages_stay_hidden_long_enough,
        mutants: &[
            Mutant {
                what: "visibility of five time-outs",
                culprit: "LarkWorkQueue",
                edits: &[Set("/Resources/LarkWorkQueue/Properties/VisibilityTimeout", "179")],
            },
            Mutant {
                what: "the default visibility",
                culprit: "LarkWorkQueue",
                edits: &[Remove("/Resources/LarkWorkQueue/Properties/VisibilityTimeout")],
            },
            Mutant {
                what: "a longer time-out of the function",
                culprit: "LarkWorkQueue",
                edits: &[Set("/Resources/LarkWorkFunction/Properties/Timeout", "60")],
            },
        ],
    },
    Checked {
        name: "a service that sends to a queue may do so",
        rule: senders_are_let_in,
        mutants: &[
            Mutant {
                what: "a rule whose events the queue refuses",
                culprit: "AppEventsQueue",
                edits: &[Remove("/Resources/AppEventsQueuePolicy")],
            },
            Mutant {
                what: "a rule whose dead letters the queue refuses",
                culprit: "AppEventsDeadLetters",
                edits: &[Set("/Resources/AppEventsQueuePolicy/Properties/Queues", r#"[{"Ref": "AppEventsQueue"}]"#)],
            },
            Mutant {
                what: "bucket notifications that the queue takes from another service only",
                culprit: "ParkedQueue",
                edits: &[Set(
                    "/Resources/ParkedQueuePolicy/Properties/PolicyDocument/Statement/0/Principal",
                    r#"{"Service": "sns.amazonaws.com"}"#,
                )],
            },
        ],
    },
];

/// AWS refuses more than ten at once without a window, at deployment.
fn large_batches_have_a_window(template: &Value) -> Vec<String> {
    let large = mappings(template).filter(|mapping| {
        let queue = target(&mapping.properties["Queue"]).and_then(|id| properties(template, QUEUE, id));
        queue.is_some_and(|queue| queue["FifoQueue"] != true)
            && mapping.properties["BatchSize"].as_u64().is_some_and(|size| size > 10)
            && mapping.properties["MaximumBatchingWindowInSeconds"].as_u64().unwrap_or(0) == 0
    });
    large
        .map(|mapping| format!("{} takes more than 10 messages without a batching window", mapping.function_id))
        .collect()
}

fn high_throughput_is_whole(template: &Value) -> Vec<String> {
    let halves = of_type(template, QUEUE).filter(|(_, queue)| {
        let queue = &queue["Properties"];
        (queue["FifoThroughputLimit"] == "perMessageGroupId") != (queue["DeduplicationScope"] == "messageGroup")
    });
    halves
        .map(|(id, _)| format!("{id} has one half of high throughput, which needs limit and scope per group"))
        .collect()
}

/// The dead-letter queues that something sends to: a queue, a rule's target or a schedule.
fn dead_letter_queues(template: &Value) -> Vec<&str> {
    let of_queues =
        of_type(template, QUEUE).map(|(_, queue)| &queue["Properties"]["RedrivePolicy"]["deadLetterTargetArn"]);
    let of_rules = rule_targets(template).map(|rule_target| &rule_target["DeadLetterConfig"]["Arn"]);
    of_queues.chain(of_rules).filter_map(target).collect()
}

fn rule_targets(template: &Value) -> impl Iterator<Item = &Value> {
    of_type(template, "AWS::Events::Rule").flat_map(|(_, rule)| listed(&rule["Properties"]["Targets"]))
}

fn queues_redrive(template: &Value) -> Vec<String> {
    let last = dead_letter_queues(template);
    let mut violations = Vec::new();
    for (id, queue) in of_type(template, QUEUE) {
        if last.contains(&id) || END_OF_THE_LINE.iter().any(|(name, _)| *name == id) {
            continue;
        }
        let redrive = &queue["Properties"]["RedrivePolicy"];
        let known = target(&redrive["deadLetterTargetArn"]).and_then(|dead| properties(template, QUEUE, dead));
        if known.is_none() || redrive["maxReceiveCount"].as_u64().is_none() {
            violations.push(format!("{id} has no redrive policy to a queue of this template and is no last stop"));
        }
    }
    let gone = END_OF_THE_LINE.iter().filter(|(id, _)| properties(template, QUEUE, id).is_none());
    violations.extend(gone.map(|(id, _)| format!("{id} is excepted here but not declared")));
    violations
}

fn dead_letters_are_kept_longest(template: &Value) -> Vec<String> {
    let retention = |queue: &Value| queue["MessageRetentionPeriod"].as_u64().unwrap_or(DEFAULT_RETENTION);
    let pairs = of_type(template, QUEUE).filter_map(|(id, queue)| {
        let dead = target(&queue["Properties"]["RedrivePolicy"]["deadLetterTargetArn"])?;
        let kept = retention(properties(template, QUEUE, dead)?);
        (kept < retention(&queue["Properties"]))
            .then(|| format!("{dead} forgets sooner than {id}, whose letters it gets"))
    });
    pairs.collect()
}

fn last_stops_are_watched(template: &Value) -> Vec<String> {
    let stops = dead_letter_queues(template).into_iter().chain(END_OF_THE_LINE.map(|(id, _)| id));
    let unwatched = stops.filter(|id| {
        let name = json!({ "Fn::GetAtt": [id, "QueueName"] });
        !is_watched(template, ["AWS/SQS", "ApproximateNumberOfMessagesVisible"], "QueueName", &name, 0.0)
    });
    unwatched.map(|id| format!("{id} has no alarm on its first message")).collect()
}

/// AWS's advice: enough for the batch to be throttled and retried without being handed out twice.
fn messages_stay_hidden_long_enough(template: &Value) -> Vec<String> {
    let short = mappings(template).filter_map(|mapping| {
        let id = target(&mapping.properties["Queue"])?;
        let hidden = properties(template, QUEUE, id)?["VisibilityTimeout"].as_u64().unwrap_or(30);
        let timeout = setting(template, mapping.function, "Timeout").as_u64().unwrap_or(3);
        (hidden < 6 * timeout)
            .then(|| format!("{id} hides a message for {hidden} s; {} runs for up to {timeout} s", mapping.function_id))
    });
    short.collect()
}

/// EventBridge and S3 drop what a queue's own policy refuses, and say so nowhere.
fn senders_are_let_in(template: &Value) -> Vec<String> {
    let from_rules = rule_targets(template)
        .flat_map(|rule_target| [&rule_target["Arn"], &rule_target["DeadLetterConfig"]["Arn"]])
        .map(|queue| ("events.amazonaws.com", queue));
    let from_buckets = resources(template)
        .flat_map(|(_, bucket)| listed(&bucket["Properties"]["NotificationConfiguration"]["QueueConfigurations"]))
        .map(|notification| ("s3.amazonaws.com", &notification["Queue"]));
    let refused = from_rules.chain(from_buckets).filter_map(|(service, queue)| {
        let id = target(queue).filter(|id| properties(template, QUEUE, id).is_some())?;
        (!lets_in(template, id, service)).then(|| format!("{id} does not let {service} send to it"))
    });
    refused.collect()
}

fn lets_in(template: &Value, queue: &str, service: &str) -> bool {
    of_type(template, "AWS::SQS::QueuePolicy").any(|(_, policy)| {
        let policy = &policy["Properties"];
        listed(&policy["Queues"]).iter().any(|id| target(id) == Some(queue))
            && listed(&policy["PolicyDocument"]["Statement"]).iter().any(|statement| {
                statement["Effect"] == "Allow"
                    && statement["Action"] == "sqs:SendMessage"
                    && statement["Principal"]["Service"] == service
                    && listed(&statement["Resource"]).iter().any(|arn| target(arn) == Some(queue))
            })
    })
}
