//! Rules that template.yaml keeps and no linter knows. Each is run over the template, which must keep it, and over mutants of it,
//! which must not pass.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests fail the test")]

mod functions;
mod mappings;
mod mutant;
mod queues;
mod read;
mod rights;
mod state;
mod watch;

use serde_json::Value;
use skylark_tests::{workspace, yaml};

use crate::mutant::Mutant;

/// What breaks a rule, each sentence beginning with the logical id.
type Rule = fn(&Value) -> Vec<String>;

/// A rule with templates that break it.
struct Checked {
    name: &'static str,
    rule: Rule,
    mutants: &'static [Mutant],
}

const RULES: [&[Checked]; 6] =
    [queues::RULES, mappings::RULES, functions::RULES, rights::RULES, state::RULES, watch::RULES];

fn template() -> Value {
    yaml::parse(&workspace::text("template.yaml").unwrap()).unwrap()
}

fn rules() -> impl Iterator<Item = &'static Checked> {
    RULES.into_iter().flatten()
}

#[test]
fn the_template_keeps_every_rule() {
    let template = template();
    let broken = rules().flat_map(|checked| {
        let violations = (checked.rule)(&template);
        violations.into_iter().map(|violation| format!("{}: {violation}", checked.name))
    });
    let broken: Vec<_> = broken.collect();
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn every_rule_catches_its_mutants_and_names_the_resource() {
    let template = template();
    for checked in rules() {
        assert!(!checked.mutants.is_empty(), "`{}` has no mutant", checked.name);
        for mutant in checked.mutants {
            let violations = (checked.rule)(&mutant.of(&template));
            let culprit = format!("{} ", mutant.culprit);
            let caught = violations.iter().any(|violation| violation.starts_with(&culprit));
            assert!(caught, "`{}` missed: {}; it said {violations:?}", checked.name, mutant.what);
        }
    }
}
