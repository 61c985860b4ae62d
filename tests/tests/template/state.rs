//! Tables, buckets and keys: what a deployment must not lose.

use std::collections::BTreeSet;

use serde_json::Value;
use skylark_tests::workspace;

use crate::Checked;
use crate::mutant::Edit::{Remove, Set};
use crate::mutant::Mutant;
use crate::read::{BUCKET, TABLE, listed, of_type, resources};

pub(crate) const RULES: &[Checked] = &[
    Checked {
        name: "state outlives its stack",
        rule: state_is_retained,
        mutants: &[
            Mutant {
                what: "a table that goes with the stack",
                culprit: "LarkTable",
                edits: &[Remove("/Resources/LarkTable/DeletionPolicy")],
            },
            Mutant {
                what: "a key that goes when it is replaced, and every secret with it",
                culprit: "VaultKey",
                edits: &[Set("/Resources/VaultKey/UpdateReplacePolicy", r#""Delete""#)],
            },
        ],
    },
    Checked {
        name: "a table can be restored and is not deleted by mistake",
        rule: tables_are_safe,
        mutants: &[
            Mutant {
                what: "no point-in-time recovery",
                culprit: "LarkTable",
                edits: &[Set(
                    "/Resources/LarkTable/Properties/PointInTimeRecoverySpecification/PointInTimeRecoveryEnabled",
                    "false",
                )],
            },
            Mutant {
                what: "no deletion protection",
                culprit: "LarkTable",
                edits: &[Remove("/Resources/LarkTable/Properties/DeletionProtectionEnabled")],
            },
        ],
    },
    Checked {
        name: "a table forgets by the attribute that the adapter writes",
        rule: tables_forget,
        mutants: &[
            Mutant {
                what: "no time to live",
                culprit: "LarkTable",
                edits: &[Remove("/Resources/LarkTable/Properties/TimeToLiveSpecification")],
            },
            Mutant {
                what: "time to live switched off",
                culprit: "LarkTable",
                edits: &[Set("/Resources/LarkTable/Properties/TimeToLiveSpecification/Enabled", "false")],
            },
            Mutant {
                what: "an attribute that nobody writes",
                culprit: "LarkTable",
                edits: &[Set("/Resources/LarkTable/Properties/TimeToLiveSpecification/AttributeName", r#""expires""#)],
            },
        ],
    },
    Checked {
        name: "a table has the indexes that the adapter asks, and no others",
        rule: indexes_agree,
        mutants: &[Mutant {
            what: "an index of another name",
            culprit: "LarkTable",
            edits: &[Set("/Resources/LarkTable/Properties/GlobalSecondaryIndexes/0/IndexName", r#""by_date""#)],
        }],
    },
    Checked {
        name: "a bucket is closed to the public",
        rule: buckets_are_closed,
        mutants: &[
            Mutant {
                what: "no block on public access",
                culprit: "EvidenceBucket",
                edits: &[Remove("/Resources/EvidenceBucket/Properties/PublicAccessBlockConfiguration")],
            },
            Mutant {
                what: "public policies",
                culprit: "EvidenceBucket",
                edits: &[Set(
                    "/Resources/EvidenceBucket/Properties/PublicAccessBlockConfiguration/RestrictPublicBuckets",
                    "false",
                )],
            },
        ],
    },
    Checked {
        name: "a bucket does not keep abandoned uploads",
        rule: buckets_abort_uploads,
        mutants: &[
            Mutant {
                what: "no rule for them",
                culprit: "EvidenceBucket",
                edits: &[Remove(
                    "/Resources/EvidenceBucket/Properties/LifecycleConfiguration/Rules/0/AbortIncompleteMultipartUpload",
                )],
            },
            Mutant {
                what: "a rule that is off",
                culprit: "EvidenceBucket",
                edits: &[Set(
                    "/Resources/EvidenceBucket/Properties/LifecycleConfiguration/Rules/0/Status",
                    r#""Disabled""#,
                )],
            },
            Mutant {
                what: "a rule for some keys only",
                culprit: "EvidenceBucket",
                edits: &[Set(
                    "/Resources/EvidenceBucket/Properties/LifecycleConfiguration/Rules/0/Prefix",
                    r#""tmp/""#,
                )],
            },
        ],
    },
];

fn state_is_retained(template: &Value) -> Vec<String> {
    let lost = resources(template).filter(|(_, resource)| {
        let state = matches!(resource["Type"].as_str(), Some(TABLE | BUCKET | "AWS::KMS::Key"));
        state && (resource["DeletionPolicy"] != "Retain" || resource["UpdateReplacePolicy"] != "Retain")
    });
    lost.map(|(id, _)| format!("{id} is not retained")).collect()
}

fn tables_are_safe(template: &Value) -> Vec<String> {
    let unsafe_tables = of_type(template, TABLE).filter(|(_, table)| {
        let table = &table["Properties"];
        table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] != true
            || table["DeletionProtectionEnabled"] != true
    });
    unsafe_tables.map(|(id, _)| format!("{id} has no point-in-time recovery or no deletion protection")).collect()
}

/// The adapter's code without its tests.
fn adapter() -> String {
    let files = workspace::rust_files().unwrap().into_iter().filter(|file| file.starts_with("shared/table/src"));
    files.map(|file| workspace::text(file).unwrap()).collect()
}

/// DynamoDB only looks at numbers, which is what `instant` makes.
fn tables_forget(template: &Value) -> Vec<String> {
    let adapter = adapter();
    let eternal = of_type(template, TABLE).filter(|(_, table)| {
        let forget = &table["Properties"]["TimeToLiveSpecification"];
        let written = |name: &str| adapter.contains(&format!("insert(\"{name}\".to_owned(), instant("));
        forget["Enabled"] != true || !forget["AttributeName"].as_str().is_some_and(written)
    });
    eternal.map(|(id, _)| format!("{id} never forgets: no attribute that is written as a time ends an item")).collect()
}

fn indexes_agree(template: &Value) -> Vec<String> {
    let adapter = adapter();
    let pieces = adapter.split(".index_name(\"").skip(1).filter_map(|rest| rest.split('"').next());
    let asked: BTreeSet<&str> = pieces.collect();
    let other = of_type(template, TABLE).filter(|(_, table)| {
        let declared = listed(&table["Properties"]["GlobalSecondaryIndexes"]).iter();
        let declared: BTreeSet<&str> = declared.filter_map(|index| index["IndexName"].as_str()).collect();
        declared != asked
    });
    other.map(|(id, _)| format!("{id} has other indexes than {asked:?}")).collect()
}

fn buckets_are_closed(template: &Value) -> Vec<String> {
    const BLOCKS: [&str; 4] = ["BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"];
    let open = of_type(template, BUCKET).filter(|(_, bucket)| {
        let access = &bucket["Properties"]["PublicAccessBlockConfiguration"];
        BLOCKS.iter().any(|block| access[block] != true)
    });
    open.map(|(id, _)| format!("{id} may become public")).collect()
}

fn buckets_abort_uploads(template: &Value) -> Vec<String> {
    let keeping = of_type(template, BUCKET).filter(|(_, bucket)| {
        !listed(&bucket["Properties"]["LifecycleConfiguration"]["Rules"]).iter().any(|rule| {
            rule["Status"] == "Enabled"
                && rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"].as_u64().is_some()
                && ["Prefix", "Filter", "TagFilters"].iter().all(|part| rule[part].is_null())
        })
    });
    keeping.map(|(id, _)| format!("{id} keeps parts of abandoned uploads")).collect()
}
