//! A server on a free port over a folder of its own, and clients for it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation};
use aws_sdk_s3::error::ProvideErrorMetadata;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use local_bucket::{BucketConfig, Buckets};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub(crate) const BUCKET: &str = "bucket";
pub(crate) const MIB: usize = 1024 * 1024;

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) buckets: Buckets,
    pub(crate) root: TempDir,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        let buckets = open(root.path());
        buckets.create(BUCKET, &BucketConfig::default()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(serve(listener, buckets.clone()));
        Self { address, buckets, root, task }
    }

    pub(crate) fn client(&self) -> Client {
        client(self.address, RequestChecksumCalculation::WhenRequired)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// How many body files there are.
    pub(crate) fn bodies(&self) -> usize {
        std::fs::read_dir(self.root.path().join("bodies")).unwrap().count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn open(root: &Path) -> Buckets {
    let keys = ["test", "other"]
        .map(|name| local_bucket::Credentials { access_key_id: name.to_owned(), secret_access_key: name.to_owned() });
    Buckets::open(root, "us-east-1", &keys).unwrap()
}

pub(crate) async fn serve(listener: TcpListener, buckets: Buckets) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let buckets = buckets.clone();
        tokio::spawn(async move {
            let answer = service_fn(|request| {
                let buckets = buckets.clone();
                async move { Ok::<_, Infallible>(buckets.handle(request).await) }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

pub(crate) fn client(address: SocketAddr, checksums: RequestChecksumCalculation) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .retry_config(aws_sdk_s3::config::retry::RetryConfig::disabled())
        .request_checksum_calculation(checksums)
        .endpoint_url(format!("http://{address}"))
        .force_path_style(true)
        .build();
    Client::from_conf(config)
}

/// The S3 error code of a failed call.
pub(crate) fn code<T: std::fmt::Debug, E: ProvideErrorMetadata + std::fmt::Debug>(result: Result<T, E>) -> String {
    let error = result.unwrap_err();
    error.code().map_or_else(|| format!("{error:?}"), str::to_owned)
}

/// Bytes that differ everywhere and are the same every time.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
