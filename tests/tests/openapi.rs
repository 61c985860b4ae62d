//! The description of the HTTP API: it covers exactly the routes of template.yaml, function by function, and its examples keep it.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests fail the test")]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use skylark_tests::description::{DOCUMENT, METHODS, resolved, violations};
use skylark_tests::{workspace, yaml};

/// Who may come in without a token is said by `security: []`, and only of these.
const PUBLIC: [&str; 10] = [
    "/.well-known/jwks.json",
    "/.well-known/oauth-authorization-server",
    "/.well-known/openid-configuration",
    "/health",
    "/lark/oauth/callback",
    "/lark/{app_id}/callback",
    "/lark/{app_id}/oauth/start",
    "/openapi.json",
    "/ready",
    // Its keys are in the query or a header.
    "/webhook/{source}",
];

/// Every operation of a set of paths, as `(path, method, operation)`.
fn operations(paths: &Value) -> Vec<(String, String, Value)> {
    let of_path = |(path, item): (&String, &Value)| -> Vec<(String, String, Value)> {
        let methods = item.as_object().unwrap().iter().filter(|(method, _)| METHODS.contains(&method.as_str()));
        methods.map(|(method, operation)| (path.clone(), method.to_uppercase(), operation.clone())).collect()
    };
    paths.as_object().unwrap().iter().filter(|(path, _)| path.starts_with('/')).flat_map(of_path).collect()
}

/// The routes of each function of the template that has any.
fn routes() -> BTreeMap<String, BTreeSet<String>> {
    let template = yaml::parse(&workspace::text("template.yaml").unwrap()).unwrap();
    let mut routes = BTreeMap::<String, BTreeSet<String>>::new();
    for function in template["Resources"].as_object().unwrap().values() {
        if function["Type"] != "AWS::Serverless::Function" {
            continue;
        }
        let name = function["Properties"]["CodeUri"].as_str().unwrap().rsplit('/').next().unwrap();
        for event in function["Properties"]["Events"].as_object().into_iter().flat_map(|events| events.values()) {
            if event["Type"] == "HttpApi" {
                let (method, path) = (&event["Properties"]["Method"], &event["Properties"]["Path"]);
                let route = format!("{} {}", method.as_str().unwrap(), path.as_str().unwrap().replace("+}", "}"));
                routes.entry(name.to_owned()).or_default().insert(route);
            }
        }
    }
    routes
}

/// The operations that each fragment describes.
fn described() -> BTreeMap<String, BTreeSet<String>> {
    let files = workspace::names(&workspace::root().join("shared/openapi/paths")).unwrap();
    let of_file = |file: String| {
        let fragment = serde_json::from_str(&workspace::text(format!("shared/openapi/paths/{file}")).unwrap()).unwrap();
        let routes = operations(&fragment).into_iter().map(|(path, method, _)| format!("{method} {path}"));
        (file.strip_suffix(".json").unwrap().to_owned(), routes.collect())
    };
    files.into_iter().map(of_file).collect()
}

/// What is wrong with the descriptions of the routes, as sentences.
fn differences(
    routes: &BTreeMap<String, BTreeSet<String>>,
    described: &BTreeMap<String, BTreeSet<String>>,
) -> Vec<String> {
    let functions: BTreeSet<&String> = routes.keys().chain(described.keys()).collect();
    let none = BTreeSet::new();
    let of_function = |name: &String| {
        let (routes, described) = (routes.get(name).unwrap_or(&none), described.get(name).unwrap_or(&none));
        let missing = routes.difference(described).map(|route| format!("paths/{name}.json does not describe {route}"));
        let idle = described.difference(routes).map(|route| format!("{name} has no route {route}, which is described"));
        missing.chain(idle).collect::<Vec<_>>()
    };
    functions.into_iter().flat_map(of_function).collect()
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let differences = differences(&routes(), &described());
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}

#[test]
fn a_route_without_description_and_a_description_without_route_are_found() {
    let (routes, mut described) = (routes(), described());
    assert!(described.get_mut("lark-api").unwrap().remove("POST /v1/lark/{app_id}/auth-cards"));
    described.entry("health-check".to_owned()).or_default().insert("GET /metrics".to_owned());
    described.remove("lark-callback");
    let found = differences(&routes, &described);
    assert_eq!(
        found,
        [
            "health-check has no route GET /metrics, which is described",
            "paths/lark-api.json does not describe POST /v1/lark/{app_id}/auth-cards",
            "paths/lark-callback.json does not describe POST /lark/{app_id}/callback",
        ]
    );
}

/// Every object below a value that has this key.
fn holding<'v>(value: &'v Value, key: &str, found: &mut Vec<&'v Value>) {
    match value {
        Value::Object(object) => {
            if object.contains_key(key) {
                found.push(value);
            }
            object.values().for_each(|value| holding(value, key, found));
        }
        Value::Array(items) => items.iter().for_each(|value| holding(value, key, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let mut references = Vec::new();
    holding(&DOCUMENT, "$ref", &mut references);
    assert!(references.len() > 50);
    for reference in references {
        assert!(resolved(&DOCUMENT, reference).is_object(), "{reference}");
    }
}

#[test]
fn every_example_keeps_its_schema() {
    let mut media = Vec::new();
    holding(&DOCUMENT, "example", &mut media);
    assert!(media.len() > 20);
    for media in media {
        let found = violations(&DOCUMENT, &media["schema"], &media["example"]);
        assert!(found.is_empty(), "{}: {found:?}", media["example"]);
    }
}

#[test]
fn every_operation_says_who_may_call_it_and_what_it_answers() {
    let mut names = BTreeSet::new();
    let tags: Vec<&Value> = DOCUMENT["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    for (path, method, operation) in operations(&DOCUMENT["paths"]) {
        let at = format!("{method} {path}");
        let name = operation["operationId"].as_str().unwrap_or_default();
        assert!(!name.is_empty() && names.insert(name.to_owned()), "{at}: `operationId` is missing or taken");
        assert!(operation["summary"].is_string(), "{at} has no summary");
        assert!(operation["tags"].as_array().unwrap().iter().all(|tag| tags.contains(&tag)), "{at} has unknown tags");

        let security = operation["security"].as_array().unwrap();
        assert_eq!(security.is_empty(), PUBLIC.contains(&path.as_str()), "{at}: who may call it?");
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.keys().any(|status| status.starts_with(['2', '3'])), "{at} never succeeds");
        if security.iter().any(|way| way.get("bearer").is_some()) {
            for status in ["401", "403", "429", "500", "503"] {
                let limited =
                    status != "429" || (method != "GET" && path.starts_with("/v1/") && !path.contains("/lark/"));
                assert!(responses.contains_key(status) || !limited, "{at} does not tell of {status}");
            }
        }
        let parameters = [&operation["parameters"], &DOCUMENT["paths"][&path]["parameters"]];
        let named = parameters.into_iter().filter_map(Value::as_array).flatten();
        let named: BTreeSet<String> = named
            .map(|parameter| resolved(&DOCUMENT, parameter))
            .filter(|parameter| parameter["in"] == "path")
            .map(|parameter| parameter["name"].as_str().unwrap().to_owned())
            .collect();
        let wanted = path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
        assert_eq!(named, wanted.map(str::to_owned).collect(), "{at}: its path has other parameters");
    }
}
