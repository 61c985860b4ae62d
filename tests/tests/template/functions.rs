//! Functions, their packages, logs and environment.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skylark_tests::workspace;

use crate::Checked;
use crate::mutant::Edit::{Remove, Set};
use crate::mutant::Mutant;
use crate::read::{FUNCTION, LOG_GROUP, is_watched, listed, of_type, properties, setting, sources, target};

/// Variables that Lambda's runtime or logging reads, and no `config.rs`.
const OF_THE_RUNTIME: [&str; 1] = ["RUST_LOG"];

/// Words that a name holds when its value is a secret. `KEY` alone may also be the name of a KMS key.
const SECRET_WORDS: [&str; 9] =
    ["SECRET", "SECRETS", "PASSWORD", "PASSWD", "TOKEN", "TOKENS", "CREDENTIAL", "CREDENTIALS", "PRIVATE"];

pub(crate) const RULES: &[Checked] = &[
    Checked {
        name: "one folder, one package, one function",
        rule: folders_and_resources_agree,
        mutants: &[
            Mutant {
                what: "code of another function",
                culprit: "HealthCheckFunction",
                edits: &[Set("/Resources/HealthCheckFunction/Properties/CodeUri", r#""./functions/lark-work""#)],
            },
            Mutant {
                what: "a folder that does not run",
                culprit: "HealthCheckFunction",
                edits: &[Remove("/Resources/HealthCheckFunction")],
            },
            Mutant {
                what: "a function without a folder",
                culprit: "SkyLarkFunction",
                edits: &[Set(
                    "/Resources/SkyLarkFunction",
                    r#"{"Type": "AWS::Serverless::Function", "Properties": {"CodeUri": "./functions/sky-lark"}}"#,
                )],
            },
        ],
    },
    Checked {
        name: "a function is built by cargo-lambda for Graviton",
        rule: functions_are_built_alike,
        mutants: &[
            Mutant {
                what: "another processor",
                culprit: "LarkWorkFunction",
                edits: &[Set("/Resources/LarkWorkFunction/Properties/Architectures", r#"["x86_64"]"#)],
            },
            Mutant {
                what: "another runtime for all",
                culprit: "LarkCallbackFunction",
                edits: &[Set("/Globals/Function/Runtime", r#""provided.al2""#)],
            },
            Mutant {
                what: "no build method",
                culprit: "LarkWorkFunction",
                edits: &[Remove("/Resources/LarkWorkFunction/Metadata")],
            },
        ],
    },
    Checked {
        name: "a function logs JSON to a group of its own",
        rule: functions_log_to_their_group,
        mutants: &[
            Mutant {
                what: "the implicit group, which never expires",
                culprit: "LarkWorkFunction",
                edits: &[Remove("/Resources/LarkWorkFunction/Properties/LoggingConfig")],
            },
            Mutant {
                what: "a group that is not declared",
                culprit: "LarkWorkFunction",
                edits: &[Remove("/Resources/LarkWorkLogs")],
            },
            Mutant {
                what: "another function's group",
                culprit: "LarkWorkFunction",
                edits: &[Set(
                    "/Resources/LarkWorkFunction/Properties/LoggingConfig/LogGroup",
                    r#"{"Ref": "LarkOauthLogs"}"#,
                )],
            },
        ],
    },
    Checked {
        name: "logs are forgotten in time",
        rule: logs_expire,
        mutants: &[Mutant {
            what: "logs for ever",
            culprit: "HttpApiLogs",
            edits: &[Remove("/Resources/HttpApiLogs/Properties/RetentionInDays")],
        }],
    },
    Checked {
        name: "a function that fails raises an alarm",
        rule: errors_are_watched,
        mutants: &[
            Mutant {
                what: "no alarm",
                culprit: "TokenExpiryFunction",
                edits: &[Remove("/Resources/TokenExpiryErrors")],
            },
            Mutant {
                what: "an alarm on something else",
                culprit: "TokenExpiryFunction",
                edits: &[Set("/Resources/TokenExpiryErrors/Properties/MetricName", r#""Invocations""#)],
            },
        ],
    },
    Checked {
        name: "a function gets the variables that it reads, and no others",
        rule: variables_agree,
        mutants: &[
            Mutant {
                what: "a variable that is read and not set",
                culprit: "LarkWorkFunction",
                edits: &[Remove("/Resources/LarkWorkFunction/Properties/Environment/Variables/EVENT_BUS")],
            },
            Mutant {
                what: "a variable that is set and not read",
                culprit: "HealthCheckFunction",
                edits: &[Set(
                    "/Resources/HealthCheckFunction/Properties/Environment/Variables/EVENT_BUS",
                    r#""skylark""#,
                )],
            },
            Mutant {
                what: "a variable for all that one does not read",
                culprit: "HealthCheckFunction",
                edits: &[Set("/Globals/Function/Environment/Variables/LARK_BASE_URL", r#""""#)],
            },
        ],
    },
    Checked {
        name: "no secret is in the environment",
        rule: variables_hold_no_secrets,
        mutants: &[
            Mutant {
                what: "a token",
                culprit: "LarkCallbackFunction",
                edits: &[Set(
                    "/Resources/LarkCallbackFunction/Properties/Environment/Variables/VERIFICATION_TOKEN",
                    r#""v""#,
                )],
            },
            Mutant {
                what: "a key itself, not the name of a KMS key",
                culprit: "LarkCallbackFunction",
                edits: &[Set(
                    "/Resources/LarkCallbackFunction/Properties/Environment/Variables/VAULT_KEY",
                    r#""c2VjcmV0""#,
                )],
            },
            Mutant {
                what: "a secret for all",
                culprit: "HealthCheckFunction",
                edits: &[Set("/Globals/Function/Environment/Variables/LARK_APP_SECRET", r#"{"Ref": "Secret"}"#)],
            },
        ],
    },
    Checked {
        name: "one vault, one list of keys",
        rule: vault_keys_agree,
        mutants: &[
            Mutant {
                what: "a function that no rotation reaches",
                culprit: "LarkApiFunction",
                edits: &[Set(
                    "/Resources/LarkApiFunction/Properties/Environment/Variables/VAULT_KEY",
                    r#"{"Fn::GetAtt": ["VaultKey", "Arn"]}"#,
                )],
            },
            Mutant {
                what: "a key that is named, and may not be used",
                culprit: "LarkApiFunction",
                edits: &[Set(
                    "/Resources/LarkApiFunction/Properties/Policies",
                    r#"[{"Statement": [{"Effect": "Allow", "Action": ["kms:Decrypt"], "Resource": {"Fn::GetAtt": ["VaultKey", "Arn"]}}]}]"#,
                )],
            },
        ],
    },
    Checked {
        name: "two stacks can be in one account",
        rule: schedules_have_no_fixed_name,
        mutants: &[Mutant {
            what: "a schedule that SAM names after the function",
            culprit: "TokenExpiryFunction",
            edits: &[Remove("/Resources/TokenExpiryFunction/Properties/Events/Sessions/Properties/OmitName")],
        }],
    },
    Checked {
        name: "a claim on an inbox entry outlives its worker",
        rule: claims_outlive_workers,
        mutants: &[Mutant {
            what: "a worker that may still run when its claim has ended",
            culprit: "LarkWorkFunction",
            edits: &[Set("/Resources/LarkWorkFunction/Properties/Timeout", "40")],
        }],
    },
];

/// `lark-work` is declared as `LarkWorkFunction`.
fn logical_name(folder: &str) -> String {
    let capital =
        |word: &str| word.get(..1).unwrap_or_default().to_ascii_uppercase() + word.get(1..).unwrap_or_default();
    folder.split('-').map(capital).collect()
}

/// The folder that a function's code is in.
fn folder(function: &Value) -> Option<&str> {
    function["Properties"]["CodeUri"].as_str()?.strip_prefix("./functions/")
}

fn folders_and_resources_agree(template: &Value) -> Vec<String> {
    let mut violations = Vec::new();
    let folders = workspace::functions().unwrap();
    for name in &folders {
        let id = format!("{}Function", logical_name(name));
        if properties(template, FUNCTION, &id).is_none() {
            violations.push(format!("{id} is not declared for functions/{name}"));
        }
        let manifest = workspace::text(format!("functions/{name}/Cargo.toml")).unwrap();
        if !manifest.lines().any(|line| line == format!("name = \"{name}\"")) {
            violations.push(format!("{id} has a package that is not called `{name}`"));
        }
    }
    for (id, function) in of_type(template, FUNCTION) {
        let own = folders.iter().find(|name| folder(function) == Some(name));
        if own.is_none_or(|name| format!("{}Function", logical_name(name)) != id) {
            violations
                .push(format!("{id} has code in {}, not in a folder of its name", function["Properties"]["CodeUri"]));
        }
    }
    violations
}

fn functions_are_built_alike(template: &Value) -> Vec<String> {
    let other = of_type(template, FUNCTION).filter(|(_, function)| {
        function["Metadata"]["BuildMethod"] != "rust-cargolambda"
            || setting(template, function, "Architectures") != &json!(["arm64"])
            || setting(template, function, "Runtime") != "provided.al2023"
            || setting(template, function, "Handler") != "bootstrap"
    });
    other.map(|(id, _)| format!("{id} is not a cargo-lambda build for arm64 on provided.al2023")).collect()
}

fn functions_log_to_their_group(template: &Value) -> Vec<String> {
    let other = of_type(template, FUNCTION).filter(|(id, function)| {
        let logging = setting(template, function, "LoggingConfig");
        let own = id.strip_suffix("Function").map(|name| format!("{name}Logs"));
        let group = target(&logging["LogGroup"]);
        group != own.as_deref()
            || group.and_then(|group| properties(template, LOG_GROUP, group)).is_none()
            || logging["LogFormat"] != "JSON"
    });
    other.map(|(id, _)| format!("{id} does not log JSON to a declared group of its own")).collect()
}

fn logs_expire(template: &Value) -> Vec<String> {
    let eternal = of_type(template, LOG_GROUP).filter(|(_, group)| group["Properties"]["RetentionInDays"].is_null());
    eternal.map(|(id, _)| format!("{id} has no retention")).collect()
}

fn errors_are_watched(template: &Value) -> Vec<String> {
    let unwatched = of_type(template, FUNCTION)
        .filter(|(id, _)| !is_watched(template, ["AWS/Lambda", "Errors"], "FunctionName", &json!({ "Ref": id }), 0.0));
    unwatched.map(|(id, _)| format!("{id} has no alarm on its first error")).collect()
}

/// The variables of a function, with those that `Globals` adds.
fn variables<'t>(template: &'t Value, function: &'t Value) -> impl Iterator<Item = (&'t str, &'t Value)> {
    let all = [&template["Globals"]["Function"], &function["Properties"]];
    let variables = all.into_iter().filter_map(|place| place["Environment"]["Variables"].as_object()).flatten();
    variables.map(|(name, value)| (name.as_str(), value))
}

/// The variables that a function's `config.rs` names.
fn variables_read(folder: &str) -> BTreeSet<String> {
    let source = workspace::text(format!("functions/{folder}/src/config.rs")).unwrap();
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    let is_name = |text: &&str| {
        text.starts_with(|c: char| c.is_ascii_uppercase())
            && text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    };
    // Every second piece between quotation marks is a text.
    code.split('"').skip(1).step_by(2).filter(is_name).map(str::to_owned).collect()
}

fn variables_agree(template: &Value) -> Vec<String> {
    let mut violations = Vec::new();
    for (id, function) in of_type(template, FUNCTION) {
        let Some(folder) = folder(function) else { continue };
        let read = variables_read(folder);
        let set = variables(template, function).map(|(name, _)| name.to_owned());
        let set: BTreeSet<String> = set.filter(|name| !OF_THE_RUNTIME.contains(&name.as_str())).collect();
        violations.extend(read.difference(&set).map(|name| format!("{id} reads {name}, which is not set")));
        violations.extend(set.difference(&read).map(|name| format!("{id} is given {name}, which it does not read")));
    }
    violations
}

fn variables_hold_no_secrets(template: &Value) -> Vec<String> {
    let mut violations = Vec::new();
    for (id, function) in of_type(template, FUNCTION) {
        for (name, value) in variables(template, function) {
            let names_a_key = target(value).is_some_and(|id| template["Resources"][id]["Type"] == "AWS::KMS::Key");
            let secret = name.split('_').any(|word| SECRET_WORDS.contains(&word) || (word == "KEY" && !names_a_key));
            if secret {
                violations.push(format!("{id} is given {name}, which sounds like a secret"));
            }
        }
    }
    violations
}

/// Otherwise two workers could carry out one entry.
/// Whoever seals or opens knows the newer keys as well, and may use them.
fn vault_keys_agree(template: &Value) -> Vec<String> {
    let newer = |value: &Value| value.to_string().contains("${NewerVaultKeys}");
    let lacking = of_type(template, FUNCTION).filter_map(|(id, function)| {
        let key = &function["Properties"]["Environment"]["Variables"]["VAULT_KEY"];
        let opening =
            listed(&function["Properties"]["Policies"]).iter().flat_map(|policy| listed(&policy["Statement"]));
        let mut opening = opening.filter(|it| listed(&it["Action"]).iter().any(|action| action == "kms:Decrypt"));
        let all = key.is_null() || newer(key) && opening.all(|statement| newer(&statement["Resource"]));
        (!all).then(|| format!("{id} does not know the newer keys of the vault"))
    });
    lacking.collect()
}

/// SAM names a schedule after its function unless it is told not to, and a name is one account's.
fn schedules_have_no_fixed_name(template: &Value) -> Vec<String> {
    let named = sources(template).filter(|it| it.kind == "ScheduleV2" && it.properties["OmitName"] != true);
    named.map(|it| format!("{} has a schedule whose name a second stack would want as well", it.function_id)).collect()
}

fn claims_outlive_workers(template: &Value) -> Vec<String> {
    let claim = domain::inbox::CLAIM.whole_seconds();
    let late = of_type(template, FUNCTION).filter(|(id, function)| {
        *id == "LarkWorkFunction"
            && setting(template, function, "Timeout").as_i64().is_none_or(|timeout| timeout >= claim)
    });
    late.map(|(id, _)| format!("{id} may run longer than its claim of {claim} s")).collect()
}
