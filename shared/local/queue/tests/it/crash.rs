//! A process killed in the middle of its work has lost nothing that it acknowledged.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use local_queue::sqs::Queues;

use crate::{ACCOUNT, ENDPOINT, REGION, bodies, fifo, handles, map, text};

const FILE: &str = "SKYLARK_QUEUE_CRASH_FILE";

/// Not a test of its own: the process that the next test kills. Prints every acknowledged body.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sender_to_be_killed() {
    let Some(path) = std::env::var_os(FILE) else { return };
    let queues = Queues::open(path.as_ref(), ENDPOINT, ACCOUNT, REGION).unwrap();
    queues.create("q", map(&[])).unwrap();
    queues.create("q.fifo", map(&[("FifoQueue", "true")])).unwrap();
    let senders: Vec<_> = (0..8)
        .map(|sender| {
            let queues = queues.clone();
            tokio::spawn(async move {
                for n in 0.. {
                    let body = format!("{sender}-{n}");
                    if sender % 2 == 0 {
                        queues.send("q", vec![text(&body)]).await.unwrap();
                    } else {
                        queues.send("q.fifo", vec![fifo(&body, &sender.to_string(), &body)]).await.unwrap();
                    }
                    writeln!(std::io::stdout(), "sent {body}").unwrap();
                }
            })
        })
        .collect();
    for sender in senders {
        sender.await.unwrap();
    }
}

#[tokio::test]
async fn a_killed_process_has_lost_nothing_that_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queues.db");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::sender_to_be_killed", "--nocapture"])
        .env(FILE, &path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = BTreeSet::new();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut killed = false;
    for line in lines {
        // The harness writes its own words around the first line; a kill may cut the last one.
        if let Some((_, body)) = line.unwrap().split_once("sent ") {
            acknowledged.insert(body.to_owned());
        }
        if acknowledged.len() == 2000 && !killed {
            child.kill().unwrap();
            killed = true;
        }
    }
    child.wait().unwrap();
    assert!(killed, "the process ended by itself after {} sends", acknowledged.len());

    let queues = Queues::open(&path, ENDPOINT, ACCOUNT, REGION).unwrap();
    let mut found = BTreeSet::new();
    for queue in ["q", "q.fifo"] {
        let mut last = [-1; 8];
        loop {
            let messages = queues.receive(queue, 1000, Duration::ZERO, None).await.unwrap();
            if messages.is_empty() {
                break;
            }
            for body in bodies(&messages) {
                let (sender, n) = body.split_once('-').unwrap();
                let (sender, n): (usize, i32) = (sender.parse().unwrap(), n.parse().unwrap());
                assert_eq!(n, last[sender] + 1, "sender {sender} sees a gap or disorder");
                last[sender] = n;
                found.insert(body.to_owned());
            }
            queues.delete(queue, &handles(&messages)).await.unwrap();
        }
    }
    let lost: Vec<_> = acknowledged.difference(&found).collect();
    assert!(lost.is_empty(), "{} of {} lost: {lost:?}", lost.len(), acknowledged.len());
}
