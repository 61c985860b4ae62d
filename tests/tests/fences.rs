//! The fences between crates: who may depend on whom, and what may be reached from what is deployed.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests fail the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use skylark_tests::workspace;

/// Crates between the functions and the domain. They know the domain and not each other.
const ADAPTERS: [&str; 8] = ["bucket", "lambda-kit", "lark", "queue", "socket", "table", "vault", "webhook"];

/// Never on AWS: the local runner, its parts, the stand-in vendor, the command line, the fakes.
const NEVER_DEPLOYED: [&str; 8] =
    ["bench", "lake-bench", "lake-import", "lake-sample", "lark-sandbox", "skylark", "skylark-tests", "testkit"];

/// Emulators and servers. A function that reaches one carries it into every cold start.
const EMULATION: [&str; 6] = ["axum", "dynoxide-rs", "libsqlite3-sys", "rusqlite", "s3s", "tokio-tungstenite"];

/// The functions that call the vendor.
const CALL_THE_VENDOR: [&str; 5] = ["channel-deliver", "lark-api", "lark-oauth", "lark-work", "token-expiry"];

/// What only the functions of the lake carry: it is most of such a function.
const TABLES: [&str; 4] = ["arrow-array", "delta_kernel", "object_store", "parquet"];

/// Whether a function reads or writes the lake's tables. The client of their store is `reqwest`, as that of the vendor is.
fn holds_tables(function: &str) -> bool {
    function.starts_with("lake-")
}

/// The most lines that `main` has: it builds what the handler needs and starts it.
const MAIN_LINES: usize = 25;

/// Who depends on whom.
#[derive(Clone)]
struct Graph {
    /// Our packages, by name, with the packages that each declares: name and whether it is for tests only.
    declared: BTreeMap<String, BTreeSet<(String, bool)>>,
    /// Everything that ends up in a build of a package.
    reached: BTreeMap<String, BTreeSet<String>>,
    functions: BTreeSet<String>,
}

impl Graph {
    fn ours(&self, name: &str) -> bool {
        self.declared.contains_key(name)
    }

    fn reaches(&self, package: &str, what: impl Fn(&str) -> bool) -> Vec<&str> {
        self.reached.get(package).into_iter().flatten().map(String::as_str).filter(|name| what(name)).collect()
    }
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(workspace::root()).output().unwrap();
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn graph() -> Graph {
    let metadata = cargo(&["metadata", "--no-deps", "--offline", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let mut declared = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        let dependencies = dependencies.map(|it| (it["name"].as_str().unwrap().to_owned(), it["kind"] == "dev"));
        declared.insert(package["name"].as_str().unwrap().to_owned(), dependencies.collect());
    }
    let functions: BTreeSet<String> = workspace::functions().unwrap().into_iter().collect();
    let reached = functions.iter().map(String::as_str).chain(["domain"]).map(|package| {
        let tree =
            cargo(&["tree", "--locked", "--offline", "--edges", "normal", "--prefix", "none", "--package", package]);
        let names =
            tree.lines().filter_map(|line| line.split(' ').next()).filter(|name| *name != package && !name.is_empty());
        (package.to_owned(), names.map(str::to_owned).collect())
    });
    Graph { reached: reached.collect(), declared, functions }
}

/// What breaks a fence, as sentences that begin with the package.
fn breaches(graph: &Graph) -> Vec<String> {
    let mut breaches = Vec::new();
    let mut breach = |package: &str, what: &str, names: Vec<&str>| {
        breaches.extend(names.into_iter().map(|name| format!("{package} {what} {name}")));
    };
    for (package, dependencies) in &graph.declared {
        // A benchmark is a test that takes its time.
        let may = package == "bench";
        let for_tests_only = (!may && dependencies.contains(&("testkit".to_owned(), false))).then_some("testkit");
        breach(package, "depends, outside its tests, on", for_tests_only.into_iter().collect());

        if ADAPTERS.contains(&package.as_str()) {
            let ours = dependencies.iter().filter(|(name, dev)| !dev && graph.ours(name) && name != "domain");
            breach(package, "is an adapter and depends on", ours.map(|(name, _)| name.as_str()).collect());
        }
    }
    for function in &graph.functions {
        let forbidden = |name: &str| {
            graph.functions.contains(name)
                || NEVER_DEPLOYED.contains(&name)
                || name == "local"
                || (name.starts_with("local-") && graph.ours(name))
        };
        breach(function, "is deployed and reaches", graph.reaches(function, forbidden));
        breach(function, "is deployed and carries", graph.reaches(function, |name| EMULATION.contains(&name)));
        if holds_tables(function) {
            continue;
        }
        breach(function, "holds no table and carries", graph.reaches(function, |name| TABLES.contains(&name)));
        let client = graph.reaches(function, |name| name == "reqwest");
        match (CALL_THE_VENDOR.contains(&function.as_str()), client.is_empty()) {
            (true, true) => breach(function, "calls the vendor and does not reach", vec!["reqwest"]),
            (false, _) => breach(function, "never calls the vendor and carries", client),
            (true, false) => {}
        }
    }
    let does_io = |name: &str| {
        matches!(name, "tokio" | "hyper" | "reqwest" | "http" | "rand")
            || ["aws", "lambda", "tokio-"].iter().any(|family| name.starts_with(family))
            || (graph.ours(name) && name != "domain")
    };
    breach("domain", "is pure and reaches", graph.reaches("domain", does_io));
    breaches
}

#[test]
fn no_package_crosses_a_fence() {
    let breaches = breaches(&graph());
    assert!(breaches.is_empty(), "\n{}", breaches.join("\n"));
}

#[test]
fn every_fence_stands() {
    let graph = graph();
    let reaching = |package: &str, name: &str| {
        let mut mutant = graph.clone();
        mutant.reached.get_mut(package).unwrap().insert(name.to_owned());
        mutant
    };
    let declaring = |package: &str, name: &str| {
        let mut mutant = graph.clone();
        mutant.declared.get_mut(package).unwrap().insert((name.to_owned(), false));
        mutant
    };
    let mut silent = graph.clone();
    silent.reached.get_mut("lark-work").unwrap().remove("reqwest");
    for (mutant, expected) in [
        (reaching("lark-work", "lark-oauth"), "lark-work is deployed and reaches lark-oauth"),
        (reaching("lark-work", "local-queue"), "lark-work is deployed and reaches local-queue"),
        (reaching("lark-work", "lark-sandbox"), "lark-work is deployed and reaches lark-sandbox"),
        (reaching("lark-work", "testkit"), "lark-work is deployed and reaches testkit"),
        (reaching("health-check", "s3s"), "health-check is deployed and carries s3s"),
        (reaching("health-check", "reqwest"), "health-check never calls the vendor and carries reqwest"),
        (reaching("health-check", "parquet"), "health-check holds no table and carries parquet"),
        (reaching("lark-work", "delta_kernel"), "lark-work holds no table and carries delta_kernel"),
        (silent, "lark-work calls the vendor and does not reach reqwest"),
        (reaching("domain", "tokio"), "domain is pure and reaches tokio"),
        (reaching("domain", "aws-config"), "domain is pure and reaches aws-config"),
        (reaching("domain", "table"), "domain is pure and reaches table"),
        (declaring("table", "lambda-kit"), "table is an adapter and depends on lambda-kit"),
        (declaring("lambda-kit", "testkit"), "lambda-kit depends, outside its tests, on testkit"),
    ] {
        assert!(breaches(&mutant).iter().any(|breach| breach == expected), "missed: {expected}");
    }
}

/// The lines between the braces of `main`.
fn main_lines(source: &str) -> usize {
    let body = source.lines().skip_while(|line| !line.contains("fn main(")).skip(1);
    let code = body.take_while(|line| *line != "}").map(str::trim);
    code.filter(|line| !line.is_empty() && !line.starts_with("//")).count()
}

/// The keywords that decide or repeat something in a file: handlers do that, where it is tested.
fn decisions(source: &str) -> Vec<&str> {
    let code = source.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    let words = code.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'));
    words.filter(|word| matches!(*word, "if" | "match" | "for" | "while" | "loop")).collect()
}

#[test]
fn a_function_is_three_files_and_a_main_that_decides_nothing() {
    for function in workspace::functions().unwrap() {
        let folder = workspace::root().join("functions").join(&function);
        assert_eq!(workspace::names(&folder).unwrap(), ["Cargo.toml", "src"], "{function}");
        assert_eq!(
            workspace::names(&folder.join("src")).unwrap(),
            ["config.rs", "handler.rs", "main.rs"],
            "{function}"
        );

        let main = workspace::text(Path::new("functions").join(&function).join("src/main.rs")).unwrap();
        let lines = main_lines(&main);
        assert!((1..=MAIN_LINES).contains(&lines), "{function}: `main` has {lines} lines");
        assert!(decisions(&main).is_empty(), "{function}: main.rs decides something: {:?}", decisions(&main));
    }
}

#[test]
fn a_long_or_clever_main_is_found() {
    let main = |body: &str| format!("//! Runs if asked.\n\nfn main() {{\n{body}}}\n");
    assert_eq!(main_lines(&main(&"    start();\n".repeat(26))), 26);
    assert_eq!(main_lines(&main("    // why\n\n    start();\n")), 1);
    assert_eq!(decisions(&main("    if ready { start() }\n")), ["if"]);
    assert!(decisions(&main("    verify(config.format);\n")).is_empty());
}
