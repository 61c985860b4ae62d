//! What every adapter of the lake's ports must do. Each function expects an empty store.

use domain::fault::PortFault;
use domain::lake::batch::{BatchId, Claim, Claimed, Gate, LineId};
use domain::lake::retention;
use domain::lake::source::{Mapping, SourceFault, SourceName, SourceStore};
use domain::oauth::SecretHash;
use futures_util::future::join_all;
use time::Duration;

use crate::sample::{self, NOW};

/// Sources: made once, changed only by who saw the last version, with two keys at most, listed whole.
pub async fn sources(store: &dyn SourceStore) {
    let source = sample::source("wechat", SecretHash("one-hash".to_owned()));
    assert_eq!(store.get(&source.name).await.unwrap(), None);
    store.put(&source).await.unwrap();
    assert_eq!(store.get(&source.name).await.unwrap().as_ref(), Some(&source));
    assert!(matches!(store.put(&source).await, Err(PortFault::Conflict { .. })), "made twice");

    let rotated =
        |of: domain::lake::source::Source, hash: &str| of.rotated(SecretHash(hash.to_owned()), NOW + Duration::days(1));
    let mut changed = rotated(rotated(source, "two-hash"), "three-hash");
    changed.mapping = Mapping::Fields { fields: [("msg_id".to_owned(), "/事件/id".to_owned())].into() };
    (changed.mask, changed.version) = (true, 2);
    store.put(&changed).await.unwrap();
    assert!(matches!(store.put(&changed).await, Err(PortFault::Conflict { .. })), "changed from a stale version");
    let stored = store.get(&changed.name).await.unwrap().expect("it is there");
    assert_eq!(stored, changed);
    let opens = |hash: &str| stored.opens(&SecretHash(hash.to_owned()));
    assert!(opens("three-hash") && opens("two-hash") && !opens("one-hash") && !opens(""));
    let left = stored.clone().revoked("two-hash").unwrap();
    assert!(left.opens(&SecretHash("three-hash".to_owned())) && !left.opens(&SecretHash("two-hash".to_owned())));
    assert_eq!(left.revoked("nothing"), Err(SourceFault::Key));

    store.put(&sample::source("dingtalk", SecretHash("x".to_owned()))).await.unwrap();
    let names: Vec<String> = store.list().await.unwrap().iter().map(|source| source.name.to_string()).collect();
    assert_eq!(names, ["dingtalk", "wechat"]);
}

fn batch(n: usize) -> BatchId {
    BatchId::new(NOW, &format!("{n:064x}")).unwrap()
}

fn claims(numbers: std::ops::Range<usize>) -> Vec<Claim> {
    let line = |n: usize| match n % 3 {
        0 => LineId::Delivery { source: SourceName::parse("wechat").unwrap(), request_id: format!("r-{n}") },
        // Whatever a sender calls a message: the store must not mind.
        1 => LineId::Message { msg_id: format!("消息#{n}#{}", "x".repeat(3_000)) },
        _ => LineId::Message { msg_id: n.to_string() },
    };
    numbers.map(|n| Claim { line: line(n), says: format!("words {n}") }).collect()
}

/// The gate: of all that claim a line at once one has it, for good; each finds out which claim stands.
pub async fn gate(gate: &dyn Gate) {
    let stands = |n: usize, numbers: std::ops::Range<usize>| -> Vec<Claimed> {
        claims(numbers).into_iter().map(|claim| Claimed { batch: batch(n), says: claim.says }).collect()
    };
    assert_eq!(gate.claim(&batch(1), &claims(0..250), NOW).await.unwrap(), stands(1, 0..250));
    assert_eq!(gate.claim(&batch(1), &claims(0..250), NOW).await.unwrap(), stands(1, 0..250), "asked again");
    let second = gate.claim(&batch(2), &claims(200..460), NOW).await.unwrap();
    assert_eq!(second, [stands(1, 200..250), stands(2, 250..460)].concat());
    assert_eq!(gate.claim(&batch(3), &[], NOW).await.unwrap(), []);

    let other: Vec<Claim> =
        claims(0..3).into_iter().map(|claim| Claim { says: "other words".to_owned(), ..claim }).collect();
    assert_eq!(gate.claim(&batch(4), &other, NOW).await.unwrap(), stands(1, 0..3), "what was said first stands");

    let contended = claims(2_000..2_120);
    let racers: Vec<BatchId> = (10..18).map(batch).collect();
    let answers = join_all(racers.iter().map(|racer| gate.claim(racer, &contended, NOW))).await;
    let answers: Vec<Vec<Claimed>> = answers.into_iter().map(Result::unwrap).collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]), "everybody is told the same");
    assert!(answers[0].iter().all(|claimed| racers.contains(&claimed.batch)));

    let (last, after) = (NOW + retention::GATE, NOW + retention::GATE + Duration::seconds(1));
    assert_eq!(gate.claim(&batch(30), &claims(300..301), last).await.unwrap(), stands(2, 300..301));
    assert_eq!(gate.claim(&batch(30), &claims(300..301), after).await.unwrap(), stands(30, 300..301), "it has expired");
    assert_eq!(gate.claim(&batch(31), &claims(300..301), after).await.unwrap(), stands(30, 300..301));

    assert!(!gate.is_settled(&batch(1)).await.unwrap());
    gate.settle(&batch(1), NOW).await.unwrap();
    gate.settle(&batch(1), NOW + Duration::days(1)).await.unwrap();
    assert!(gate.is_settled(&batch(1)).await.unwrap() && !gate.is_settled(&batch(2)).await.unwrap());
}
