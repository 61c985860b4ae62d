//! SIGKILL at any instant: nothing acknowledged is lost, nothing half done is seen, nothing is left lying about.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::RequestChecksumCalculation;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use local_bucket::BucketConfig;
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use crate::support::{BUCKET, MIB, client, noise, open, serve};

const ROOT_VARIABLE: &str = "LOCAL_BUCKET_CRASH_ROOT";

/// Runs as the child process of the tests below; on its own it does nothing.
#[tokio::test]
async fn child_server() {
    let Some(root) = std::env::var_os(ROOT_VARIABLE) else { return };
    let buckets = open(Path::new(&root));
    buckets.create(BUCKET, &BucketConfig::default()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("\nlistening {}", listener.local_addr().unwrap());
    serve(listener, buckets).await;
}

struct Process(Child);

impl Process {
    fn start(root: &Path) -> (Self, SocketAddr) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child_server", "--nocapture"])
            .env(ROOT_VARIABLE, root)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let address = lines.filter_map(|line| line.strip_prefix("listening ").map(|it| it.parse().unwrap())).next();
        (Self(child), address.unwrap())
    }

    /// SIGKILL.
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Every body file belongs to an object or part, as the next start leaves it.
fn bodies(root: &Path) -> usize {
    std::fs::read_dir(root.join("bodies")).unwrap().count()
}

async fn until(count: &AtomicUsize, least: usize) {
    while count.load(Ordering::SeqCst) < least {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_during_puts_it_keeps_every_acknowledged_object_whole() {
    let root = tempfile::tempdir().unwrap();
    let acknowledged: Arc<Mutex<BTreeMap<String, u64>>> = Arc::default();
    for round in 0..3_u64 {
        let (process, address) = Process::start(root.path());
        let done = Arc::new(AtomicUsize::new(0));
        let workers: Vec<_> = (0..4_u64)
            .map(|worker| {
                let (acknowledged, done) = (acknowledged.clone(), done.clone());
                tokio::spawn(async move {
                    let client = client(address, RequestChecksumCalculation::WhenRequired);
                    for number in 0.. {
                        let seed = round * 1_000_000 + worker * 10_000 + number;
                        // Half of the keys are written again and again.
                        let key = format!("k{}", if number % 2 == 0 { worker } else { seed });
                        let body = noise(seed, 100_000 + (seed as usize * 7_919) % 400_000);
                        let put = client.put_object().bucket(BUCKET).key(&key).metadata("seed", seed.to_string());
                        if put.body(body.into()).send().await.is_err() {
                            return;
                        }
                        acknowledged.lock().await.insert(key, seed);
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        until(&done, 30).await;
        process.kill();
        for worker in workers {
            worker.await.unwrap();
        }
        let (process, address) = Process::start(root.path());
        let client = client(address, RequestChecksumCalculation::WhenRequired);
        let expected = acknowledged.lock().await.clone();
        let mut objects = 0;
        let mut pages = client.list_objects_v2().bucket(BUCKET).into_paginator().send();
        while let Some(page) = pages.next().await {
            objects += page.unwrap().contents().len();
        }
        for (key, seed) in &expected {
            let object = client.get_object().bucket(BUCKET).key(key).send().await.unwrap();
            let found: u64 = object.metadata().unwrap()["seed"].parse().unwrap();
            // The last put may have been durable without its answer getting through.
            assert!(found >= *seed, "{key} went back from {seed} to {found}");
            let body = object.body.collect().await.unwrap().to_vec();
            assert!(body == noise(found, 100_000 + (found as usize * 7_919) % 400_000), "{key} is not whole");
        }
        assert!(objects >= expected.len());
        process.kill();
        drop(open(root.path()));
        assert_eq!(bodies(root.path()), objects, "no body is left behind");
    }
}

async fn upload(client: &Client, key: &str) -> (String, CompletedMultipartUpload, Vec<u8>) {
    let created = client.create_multipart_upload().bucket(BUCKET).key(key).send().await.unwrap();
    let id = created.upload_id.unwrap();
    let body = noise(key.len() as u64, 5 * MIB + 1_000);
    let mut parts = CompletedMultipartUpload::builder();
    for (number, chunk) in (1..).zip(body.chunks(5 * MIB)) {
        let part = client.upload_part().bucket(BUCKET).key(key).upload_id(&id).part_number(number);
        let etag = part.body(chunk.to_vec().into()).send().await.unwrap().e_tag.unwrap();
        parts = parts.parts(CompletedPart::builder().part_number(number).e_tag(etag).build());
    }
    (id, parts.build(), body)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_during_completions_an_upload_is_either_whole_or_can_be_completed_again() {
    let root = tempfile::tempdir().unwrap();
    let (process, address) = Process::start(root.path());
    let client_before = client(address, RequestChecksumCalculation::WhenRequired);
    let mut uploads = Vec::new();
    for number in 0..6 {
        let key = format!("object-{}", "x".repeat(number));
        let (id, parts, body) = upload(&client_before, &key).await;
        uploads.push((key, id, parts, body));
    }
    let done = Arc::new(AtomicUsize::new(0));
    let completions: Vec<_> = uploads
        .iter()
        .map(|(key, id, parts, _)| {
            let complete = client_before.complete_multipart_upload().bucket(BUCKET).key(key).upload_id(id);
            let (complete, done) = (complete.multipart_upload(parts.clone()), done.clone());
            tokio::spawn(async move {
                let acknowledged = complete.send().await.is_ok();
                done.fetch_add(1, Ordering::SeqCst);
                acknowledged
            })
        })
        .collect();
    until(&done, 2).await;
    process.kill();

    let (process, address) = Process::start(root.path());
    let client = client(address, RequestChecksumCalculation::WhenRequired);
    for ((key, id, parts, body), completion) in uploads.into_iter().zip(completions) {
        let acknowledged = completion.await.unwrap();
        let complete =
            client.complete_multipart_upload().bucket(BUCKET).key(&key).upload_id(&id).multipart_upload(parts);
        let again = complete.send().await;
        assert!(!acknowledged || again.is_err(), "{key} was acknowledged and its upload is still open");
        let object = client.get_object().bucket(BUCKET).key(&key).send().await.unwrap();
        assert!(object.body.collect().await.unwrap().to_vec() == body, "{key} is not whole");
    }
    process.kill();
    drop(open(root.path()));
    assert_eq!(bodies(root.path()), 12);
}
