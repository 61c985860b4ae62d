//! What every file of ours keeps.

use std::path::Path;

use skylark_tests::workspace;

/// Unfinished work. Put together here, so that this file does not hold them.
const UNFINISHED: [&str; 5] = [
    concat!("to", "do!"),
    concat!("unimple", "mented!"),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("#[ig", "nore"),
];

/// Lints that keep a program from stopping where it should answer.
const KEEPS_RUNNING: [&str; 5] =
    ["clippy::unwrap_used", "clippy::expect_used", "clippy::panic", "clippy::indexing_slicing", "warnings"];

/// Crates for tests alone, where to fail is to stop.
const FOR_TESTS: [&str; 2] = ["shared/testkit", "tests"];

/// What is wrong with one file.
fn complaints(path: &Path, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if !text.starts_with("//! ") {
        complaints.push("does not begin by saying what it is (`//!`)".to_owned());
    }
    for word in UNFINISHED {
        if text.contains(word) {
            complaints.push(format!("holds `{word}`"));
        }
    }
    let tested =
        |path: &Path| path.components().any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "examples")));
    if !FOR_TESTS.iter().any(|folder| path.starts_with(folder)) && !tested(path) {
        let attributes = text.split("#![").skip(1).filter_map(|rest| rest.split(']').next());
        let waivers = attributes.filter(|attribute| attribute.starts_with("allow") || attribute.starts_with("expect"));
        let lints = waivers.flat_map(|waiver| KEEPS_RUNNING.iter().filter(|lint| waiver.contains(*lint)));
        complaints.extend(lints.map(|lint| format!("waives `{lint}` for the whole file")));
    }
    complaints
}

#[test]
fn every_rust_file_is_finished_says_what_it_is_and_may_not_stop_the_program() {
    let files = workspace::rust_files().unwrap();
    let found = files.iter().flat_map(|path| {
        let complaints = complaints(path, &workspace::text(path).unwrap());
        complaints.into_iter().map(|complaint| format!("{} {complaint}", path.display()))
    });
    let found: Vec<_> = found.collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
    assert!(files.len() > 50, "only {} files were read", files.len());
}

#[test]
fn a_bad_file_is_found() {
    let check = |path: &str, text: &str| complaints(Path::new(path), text).len();
    let source = "functions/lark-work/src/handler.rs";
    assert_eq!(check(source, "//! Does the work.\n"), 0);
    assert_eq!(check(source, "use std::fmt;\n"), 1);
    for word in UNFINISHED {
        assert_eq!(check(source, &format!("//! Does the work.\nfn f() {{}} // {word}\n")), 1, "{word}");
    }
    let waived = "//! Does the work.\n#![allow(clippy::unwrap_used)]\n";
    assert_eq!(check(source, waived), 1);
    assert_eq!((check("shared/testkit/src/lib.rs", waived), check("shared/lark/tests/client.rs", waived)), (0, 0));
}

/// Paths below our folders that a document names. A path with a placeholder (`<function>`) names none.
fn paths_named(document: &str) -> Vec<&str> {
    let of_a_path = |c: char| c.is_alphanumeric() || "./_-<>{}*".contains(c);
    document
        .split(|c: char| !of_a_path(c))
        .map(|word| word.trim_start_matches("./").trim_end_matches(['.', '/']))
        .filter(|word| {
            ["functions/", "shared/", "tests/", "events/", ".ci/"].iter().any(|folder| word.starts_with(folder))
        })
        .filter(|word| !word.contains(['<', '>', '{', '}', '*']))
        .collect()
}

#[test]
fn documents_name_files_that_exist() {
    let documents = workspace::names(&workspace::root()).unwrap().into_iter().filter(|name| name.ends_with(".md"));
    for document in documents {
        let text = workspace::text(&document).unwrap();
        for path in paths_named(&text) {
            assert!(workspace::root().join(path).exists(), "{document} names {path}, which does not exist");
        }
    }
}

#[test]
fn a_path_is_found_in_prose_tables_and_commands() {
    let text = "See `./functions/lark-work/`, shared/domain. | [x](tests/tests/a.rs) |\n    sam local invoke -e events/a-b/c.json\n";
    assert_eq!(paths_named(text), ["functions/lark-work", "shared/domain", "tests/tests/a.rs", "events/a-b/c.json"]);
    assert!(paths_named("`functions/<name>/src/main.rs`, functions/*, /tests, and/or").is_empty());
}
