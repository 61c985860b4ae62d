//! Prints how many durable sends per second one machine takes: `throughput [TASKS] [SECONDS]`.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark: it stops at the first surprise")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use local_queue::sqs::{Outgoing, Queues};

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let tasks: u32 = arguments.next().map_or(8, |text| text.parse().unwrap());
    let seconds: u64 = arguments.next().map_or(3, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let queues = Queues::open(&folder.path().join("queues.db"), "http://localhost", "000000000000", "local").unwrap();
    let fifo = BTreeMap::from([("FifoQueue".into(), "true".into())]);
    queues.create("standard", BTreeMap::new()).unwrap();
    queues.create("ordered.fifo", fifo).unwrap();
    for queue in ["standard", "ordered.fifo"] {
        let (began, until) = (Instant::now(), Instant::now() + Duration::from_secs(seconds));
        let senders: Vec<_> = (0..tasks)
            .map(|task| {
                let queues = queues.clone();
                tokio::spawn(async move {
                    let mut sent = 0_u64;
                    while Instant::now() < until {
                        let mut message = Outgoing { body: "x".repeat(512), ..Outgoing::default() };
                        if queue == "ordered.fifo" {
                            message.group_id = Some(task.to_string());
                            message.deduplication_id = Some(format!("{task}-{sent}"));
                        }
                        queues.send(queue, vec![message]).await.unwrap();
                        sent += 1;
                    }
                    sent
                })
            })
            .collect();
        let mut sent = 0;
        for sender in senders {
            sent += sender.await.unwrap();
        }
        println!("{queue}: {} durable sends/s with {tasks} tasks", sent * 1000 / began.elapsed().as_millis() as u64);
        let (began, mut received) = (Instant::now(), 0);
        loop {
            let messages = queues.receive(queue, 10, Duration::ZERO, None).await.unwrap();
            if messages.is_empty() || began.elapsed() > Duration::from_secs(seconds) {
                break;
            }
            let handles: Vec<_> = messages.into_iter().map(|message| message.receipt_handle).collect();
            queues.delete(queue, &handles).await.unwrap();
            received += handles.len();
        }
        let rate = received as u128 * 1000 / began.elapsed().as_millis().max(1);
        println!("{queue}: {rate} messages/s received in tens and deleted by one consumer");
    }
}
