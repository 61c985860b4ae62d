//! Serves S3 alone: `cargo run -p local-bucket --example serve_buckets -- <folder> [port]`, with the keys `test` and `test`.
#![expect(clippy::print_stdout, reason = "an example prints")]

use std::convert::Infallible;
use std::error::Error;
use std::path::Path;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use local_bucket::{Buckets, Credentials};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let root = arguments.next().ok_or("the first argument is the folder of the buckets")?;
    let port = arguments.next().map_or(Ok(0), |port| port.parse::<u16>())?;
    let keys = Credentials { access_key_id: "test".to_owned(), secret_access_key: "test".to_owned() };
    let buckets = Buckets::open(Path::new(&root), "us-east-1", &[keys])?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("http://{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        let buckets = buckets.clone();
        tokio::spawn(async move {
            let answer = service_fn(|request| {
                let buckets = buckets.clone();
                async move { Ok::<_, Infallible>(buckets.handle(request).await) }
            });
            // A client that hangs up early is no concern of ours.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}
