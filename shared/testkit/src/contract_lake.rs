//! What every adapter of the lake's ports must do. Each function expects an empty store.

use domain::fault::PortFault;
use domain::lake::batch::{BatchId, Gate, LineId, own_lines};
use domain::lake::source::{Mapping, Masking, SourceFault, SourceStore};
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
    changed.mapping = Mapping::Fields { columns: [("msg_id".to_owned(), "/事件/id".to_owned())].into() };
    (changed.masking, changed.version) = (Masking { mobile: true, custom_info: false }, 2);
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

fn lines(numbers: std::ops::Range<usize>) -> Vec<LineId> {
    let line = |n: usize| match n % 4 {
        0 => LineId::Contact { username: format!("wxid_{n}"), delivery: format!("d{n}.0") },
        1 => LineId::Bad { delivery: format!("d{n}.0") },
        // Whatever a sender calls a message: the store must not mind.
        2 => LineId::Message { msg_id: format!("消息#{n}#{}", "x".repeat(3_000)) },
        _ => LineId::Message { msg_id: n.to_string() },
    };
    numbers.map(line).collect()
}

/// The gate: of all that claim a line at once one has it, for good; each finds out whose it is.
pub async fn gate(gate: &dyn Gate) {
    let first = gate.claim(&batch(1), &lines(0..250), NOW).await.unwrap();
    assert_eq!(first, vec![batch(1); 250]);
    assert_eq!(gate.claim(&batch(1), &lines(0..250), NOW).await.unwrap(), first, "asked again");
    let second = gate.claim(&batch(2), &lines(200..460), NOW).await.unwrap();
    assert_eq!(second, [vec![batch(1); 50], vec![batch(2); 210]].concat());
    assert_eq!(gate.claim(&batch(3), &[], NOW).await.unwrap(), []);

    let twice = [lines(1_000..1_150), lines(1_000..1_150)].concat();
    let claimed = gate.claim(&batch(4), &twice, NOW).await.unwrap();
    assert_eq!(claimed, vec![batch(4); 300], "a line that is named twice");
    assert_eq!(own_lines(&batch(4), &twice, &claimed).iter().filter(|own| **own).count(), 150);

    let contended = lines(2_000..2_120);
    let racers: Vec<BatchId> = (10..18).map(batch).collect();
    let answers = join_all(racers.iter().map(|racer| gate.claim(racer, &contended, NOW))).await;
    let answers: Vec<Vec<BatchId>> = answers.into_iter().map(Result::unwrap).collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]), "everybody is told the same");
    let owned = racers.iter().map(|racer| own_lines(racer, &contended, &answers[0]).iter().filter(|own| **own).count());
    assert_eq!(owned.sum::<usize>(), contended.len(), "each line counts once");

    assert!(!gate.is_settled(&batch(1)).await.unwrap());
    gate.settle(&batch(1), NOW).await.unwrap();
    gate.settle(&batch(1), NOW + Duration::days(1)).await.unwrap();
    assert!(gate.is_settled(&batch(1)).await.unwrap() && !gate.is_settled(&batch(2)).await.unwrap());
}
