//! Listings agree with a plain sorted model, whatever the keys, the prefix, the delimiter and the page size.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::{BUCKET, Server};

#[derive(Debug, Clone)]
struct Case {
    keys: BTreeSet<String>,
    prefix: String,
    delimiter: Option<String>,
    start_after: Option<String>,
    page: i32,
}

fn case() -> impl Strategy<Value = Case> {
    let key = || "[ab/é💬]{1,6}";
    (
        prop::collection::btree_set(key(), 0..24),
        "[ab/é]{0,2}",
        prop::option::of("(/|b/|💬)"),
        prop::option::of(key()),
        1..8,
    )
        .prop_map(|(keys, prefix, delimiter, start_after, page)| Case {
            keys,
            prefix,
            delimiter,
            start_after,
            page,
        })
}

/// Keys and common prefixes in one order.
fn expected(case: &Case) -> Vec<String> {
    let mut found = BTreeSet::new();
    for key in case.keys.iter().filter(|key| case.start_after.as_ref().is_none_or(|after| *key > after)) {
        let Some(rest) = key.strip_prefix(&case.prefix) else { continue };
        let cut = case.delimiter.as_ref().and_then(|delimiter| rest.find(delimiter).map(|at| at + delimiter.len()));
        found.insert(match cut {
            Some(end) => format!("{}{}", case.prefix, &rest[..end]),
            None => key.clone(),
        });
    }
    found.into_iter().collect()
}

async fn listed(server: &Server, case: &Case) -> Vec<String> {
    let client = server.client();
    let (mut found, mut token) = (Vec::new(), None);
    loop {
        let request = client.list_objects_v2().bucket(BUCKET).prefix(&case.prefix).max_keys(case.page);
        let request = request.set_delimiter(case.delimiter.clone()).set_start_after(case.start_after.clone());
        let page = request.set_continuation_token(token).send().await.unwrap();
        let keys = page.contents().iter().filter_map(|object| object.key());
        let prefixes = page.common_prefixes().iter().filter_map(|prefix| prefix.prefix());
        let mut entries: Vec<String> = keys.chain(prefixes).map(str::to_owned).collect();
        entries.sort_unstable();
        assert!(entries.len() <= case.page as usize);
        assert_eq!(page.key_count(), Some(entries.len() as i32));
        assert_eq!(page.is_truncated(), Some(page.next_continuation_token().is_some()));
        found.extend(entries);
        token = page.next_continuation_token;
        if token.is_none() {
            return found;
        }
    }
}

#[test]
fn pages_add_up_to_what_a_sorted_model_says() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let server = runtime.block_on(Server::start());
    let mut runner = TestRunner::new(Config { cases: 60, failure_persistence: None, ..Config::default() });
    runner
        .run(&case(), |case| {
            runtime.block_on(async {
                for object in server.buckets.list(BUCKET, "").await.unwrap() {
                    if !case.keys.contains(&object.key) {
                        server.client().delete_object().bucket(BUCKET).key(object.key).send().await.unwrap();
                    }
                }
                for key in &case.keys {
                    server.buckets.put(BUCKET, key, "").await.unwrap();
                }
                assert_eq!(listed(&server, &case).await, expected(&case));
            });
            Ok(())
        })
        .unwrap();
}
