//! Prints how fast one object goes in and comes out over HTTP: `cargo run -p local-bucket --example bucket_throughput [MiB]`.
#![expect(clippy::print_stdout, reason = "an example prints")]

use std::convert::Infallible;
use std::error::Error;
use std::time::Instant;

use aws_sdk_s3::config::{BehaviorVersion, Region, RequestChecksumCalculation};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use local_bucket::{BucketConfig, Buckets, Credentials};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mebibytes = std::env::args().nth(1).map_or(Ok(64), |argument| argument.parse::<u32>())?;
    let root = tempfile::tempdir()?;
    let keys = Credentials { access_key_id: "test".to_owned(), secret_access_key: "test".to_owned() };
    let buckets = Buckets::open(root.path(), "us-east-1", &[keys])?;
    buckets.create("bucket", &BucketConfig::default())?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let buckets = buckets.clone();
            let answer = service_fn(move |request| {
                let buckets = buckets.clone();
                async move { Ok::<_, Infallible>(buckets.handle(request).await) }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });

    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .region(Region::new("us-east-1"))
        .credentials_provider(aws_sdk_s3::config::Credentials::new("test", "test", None, None, "example"))
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .endpoint_url(format!("http://{address}"))
        .force_path_style(true)
        .build();
    let client = aws_sdk_s3::Client::from_conf(config);
    let body = vec![0x5A; usize::try_from(mebibytes)? * 1024 * 1024];
    let rate = |started: Instant| f64::from(mebibytes) / started.elapsed().as_secs_f64();

    let started = Instant::now();
    client.put_object().bucket("bucket").key("k").body(body.into()).send().await?;
    println!("put {mebibytes} MiB: {:.0} MiB/s, on disk before the answer", rate(started));
    let started = Instant::now();
    let mut object = client.get_object().bucket("bucket").key("k").send().await?.body;
    while object.try_next().await?.is_some() {}
    println!("get {mebibytes} MiB: {:.0} MiB/s", rate(started));

    let started = Instant::now();
    let small: u16 = 200;
    for number in 0..small {
        client.put_object().bucket("bucket").key(format!("small/{number}")).body(vec![1; 1024].into()).send().await?;
    }
    println!("put 1 KiB, one after the other: {:.0}/s", f64::from(small) / started.elapsed().as_secs_f64());
    Ok(())
}
