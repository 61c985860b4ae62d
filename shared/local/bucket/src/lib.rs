//! S3 on one machine: buckets in a folder, spoken to as S3 over HTTP or in process.
//!
//! `s3s` speaks the protocol (signatures, presigned URLs, XML); the rest is ours. Bodies are immutable files, everything
//! else is in one SQLite database, and a change is one transaction: whoever gets an answer finds the change after a kill,
//! nobody ever sees half of it, and of many conditional writes of a key one wins.
//!
//! Not available, and answered with `NotImplemented`: versions, tags, ACLs, SSE-C, object lock, reading by part number.

mod body;
mod checksum;
mod config;
mod cors;
mod drain;
mod dto;
mod error;
mod event;
mod receive;
mod service;
mod store;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use s3s::auth::{S3Auth, SecretKey};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3Error, S3Result, s3_error};
use time::OffsetDateTime;

pub use s3s::Body;

pub use crate::config::{BucketConfig, CorsRule, LifecycleRule, NotificationRule};
pub use crate::error::BucketError;
pub use crate::event::{Notifications, ObjectEvent};
pub use crate::store::LifecycleReport;

use crate::checksum::{Algorithm, Hasher};
use crate::cors::Origin;
use crate::drain::SharedBody;
use crate::error::causes;
use crate::service::{Counters, Gate, LocalHost, Service, bucket_of_host};
use crate::store::{Headers, Listing, NewObject, Precondition, Source, Store};

/// How long after a failed delivery an event is tried again, unless a new event comes first.
const REDELIVERY_DELAY: Duration = Duration::from_secs(1);
const EVENT_BATCH: usize = 100;

/// A pair of keys that may sign requests.
#[derive(Clone)]
pub struct Credentials {
    pub access_key_id: String,
    pub secret_access_key: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Credentials")
            .field("access_key_id", &self.access_key_id)
            .field("secret_access_key", &"[redacted]")
            .finish()
    }
}

struct KnownKeys(BTreeMap<String, SecretKey>);

#[async_trait::async_trait]
impl S3Auth for KnownKeys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        self.0.get(access_key).cloned().ok_or_else(|| {
            s3_error!(InvalidAccessKeyId, "The AWS Access Key Id you provided does not exist in our records.")
        })
    }
}

/// An object as a listing names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectSummary {
    pub key: String,
    pub size: u64,
    /// Without quotes.
    pub etag: String,
    pub modified_at: OffsetDateTime,
}

/// All buckets of one folder; clones share them.
#[derive(Clone)]
pub struct Buckets {
    store: Arc<Store>,
    service: S3Service,
    counters: Counters,
    region: Arc<str>,
}

impl fmt::Debug for Buckets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Buckets").field("region", &self.region).finish_non_exhaustive()
    }
}

impl Buckets {
    /// Opens the folder, creating it if need be, and clears away what a crash left half written.
    ///
    /// Fails with [`BucketError::InUse`] while another process has the folder open. Blocks.
    pub fn open(root: &Path, region: &str, credentials: &[Credentials]) -> Result<Self, BucketError> {
        let store = Arc::new(Store::open(root)?);
        let counters = Counters::default();
        let keys = credentials
            .iter()
            .map(|known| (known.access_key_id.clone(), SecretKey::from(known.secret_access_key.as_str())))
            .collect();
        let mut builder = S3ServiceBuilder::new(Service { store: store.clone(), region: region.to_owned() });
        builder.set_auth(KnownKeys(keys));
        builder.set_access(Gate(counters.clone()));
        builder.set_host(LocalHost);
        Ok(Self { store, service: builder.build(), counters, region: region.into() })
    }

    /// Creates the bucket if it does not exist, and gives it exactly this configuration. Objects stay. Blocks.
    pub fn create(&self, bucket: &str, config: &BucketConfig) -> Result<(), BucketError> {
        self.store.create_bucket(bucket, Some(config)).map(|_| ())
    }

    /// Answers one S3 request: path-style, or with a host `<bucket>.localhost` or `<bucket>.s3.localhost`.
    pub async fn handle<B>(&self, request: http::Request<B>) -> http::Response<Body>
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        Box<dyn Error + Send + Sync>: From<B::Error>,
    {
        let (method, allowed) = (request.method().clone(), self.cors_headers(&request).await);
        let answer = if method == http::Method::OPTIONS {
            self.counters.count("PreflightRequest");
            cors::preflight(allowed.clone())
        } else {
            self.call(request).await
        };
        let mut answer = answer.unwrap_or_else(|error| {
            tracing::error!(error = %causes(&error), "A request could not be answered");
            let mut answer = http::Response::new(Body::empty());
            *answer.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
            answer
        });
        if let Some(headers) = allowed {
            answer.headers_mut().extend(headers);
        }
        answer
    }

    async fn call<B>(&self, request: http::Request<B>) -> S3Result<http::Response<Body>>
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        Box<dyn Error + Send + Sync>: From<B::Error>,
    {
        // Who waits for a `100 Continue` has sent nothing that would have to be drained.
        let waits = request.headers().contains_key(http::header::EXPECT);
        let (parts, body) = request.into_parts();
        let body = SharedBody::new(body);
        let request = http::Request::from_parts(parts, Body::http_body_unsync(body.clone()));
        let answer = self.service.call(request).await;
        if !waits && answer.as_ref().is_ok_and(|answer| !answer.status().is_success()) {
            body.drain().await;
        }
        answer.map_err(|error| S3Error::internal_error(UnansweredError(error.into())))
    }

    async fn cors_headers<B>(&self, request: &http::Request<B>) -> Option<http::HeaderMap> {
        let origin = Origin::of(request.method(), request.headers())?;
        let host = request.headers().get(http::header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let in_path = request.uri().path().split('/').nth(1).unwrap_or_default();
        let bucket = bucket_of_host(host).unwrap_or(in_path).to_owned();
        let store = self.store.clone();
        // A bucket that does not exist allows nothing.
        let config = blocking(move || store.config(&bucket)).await.ok()?;
        origin.headers(&config.cors)
    }

    /// Puts an object as `PutObject` does, with its events.
    pub async fn put(&self, bucket: &str, key: &str, bytes: impl Into<Bytes>) -> Result<(), BucketError> {
        let (store, bucket, key, bytes) = (self.store.clone(), bucket.to_owned(), key.to_owned(), bytes.into());
        blocking(move || {
            let mut hasher = Hasher::new(&[Algorithm::Crc64Nvme]);
            hasher.update(&bytes);
            let digests = hasher.finish();
            let checksum = digests.checksum(Algorithm::Crc64Nvme).ok_or(BucketError::Checksum { number: 1 })?;
            let body = if bytes.is_empty() {
                None
            } else {
                let mut writer = store.bodies.create()?;
                writer.write(&bytes)?;
                Some(writer.finish()?)
            };
            let new = NewObject {
                source: Source::New(body),
                size: digests.size,
                etag: digests.etag(),
                checksum,
                headers: Headers::default(),
                precondition: Precondition::default(),
                event_name: "ObjectCreated:Put",
            };
            store.put_object(&bucket, &key, new)?;
            Ok(())
        })
        .await
    }

    /// The whole object in memory; `None` if the key does not exist.
    pub async fn get(&self, bucket: &str, key: &str) -> Result<Option<Bytes>, BucketError> {
        let (store, bucket, key) = (self.store.clone(), bucket.to_owned(), key.to_owned());
        blocking(move || {
            let (object, content) = match store.object_with_content(&bucket, &key) {
                Err(BucketError::NoSuchKey(_)) => return Ok(None),
                found => found?,
            };
            let mut bytes = Vec::new();
            let mut reader = content.read(&(0..object.size));
            while let Some(piece) = reader.next_piece()? {
                bytes.extend_from_slice(&piece);
            }
            Ok(Some(bytes.into()))
        })
        .await
    }

    /// Every object whose key starts with the prefix, in the order of their keys.
    pub async fn list(&self, bucket: &str, prefix: &str) -> Result<Vec<ObjectSummary>, BucketError> {
        let (store, bucket) = (self.store.clone(), bucket.to_owned());
        let listing = Listing { prefix: prefix.to_owned(), delimiter: None, from: String::new(), limit: usize::MAX };
        let page = blocking(move || store.list(&bucket, &listing)).await?;
        let summary = |(key, object): (String, store::Object)| ObjectSummary {
            key,
            size: object.size,
            etag: object.etag,
            modified_at: object.modified_at,
        };
        Ok(page.objects.into_iter().map(summary).collect())
    }

    /// How many requests each operation had over HTTP since the folder was opened, by the name AWS gives it.
    #[must_use]
    pub fn requests(&self) -> BTreeMap<String, u64> {
        self.counters.snapshot()
    }

    /// Expires objects and aborts uploads that are due at `now`; AWS does so once a day. Safe to repeat.
    pub async fn run_lifecycle(&self, now: OffsetDateTime) -> Result<LifecycleReport, BucketError> {
        let store = self.store.clone();
        blocking(move || store.run_lifecycle(now)).await
    }

    /// Delivers the events of all buckets, at least once each, for as long as the future is polled.
    ///
    /// An event is stored with the change it tells of, so what an earlier process could not deliver comes first. What
    /// cannot be delivered stays and is tried again; it does not hold up the events of other keys. One call at a time.
    pub async fn deliver_events(&self, notifications: &dyn Notifications) {
        loop {
            let queued = self.store.queued.notified();
            let all_delivered = self.deliver_queued(notifications).await.unwrap_or_else(|error| {
                tracing::error!(error = %causes(&error), "Stored events could not be read or removed");
                false
            });
            if all_delivered {
                queued.await;
            } else {
                // Elapsed or woken, the next turn is the same.
                let _ = tokio::time::timeout(REDELIVERY_DELAY, queued).await;
            }
        }
    }

    /// One pass over the stored events, oldest first; whether every one was delivered.
    async fn deliver_queued(&self, notifications: &dyn Notifications) -> Result<bool, BucketError> {
        let (mut after, mut all_delivered) = (0, true);
        loop {
            let store = self.store.clone();
            let events = blocking(move || store.events(after, EVENT_BATCH)).await?;
            if events.is_empty() {
                return Ok(all_delivered);
            }
            let mut delivered = Vec::with_capacity(events.len());
            for event in events {
                let sequence = event.sequence;
                after = sequence;
                let event = event.into_event(&self.region);
                match notifications.object_event(&event).await {
                    Ok(()) => delivered.push(sequence),
                    Err(error) => {
                        all_delivered = false;
                        let (bucket, target, causes) = (&event.bucket, &event.target, causes(error.as_ref()));
                        tracing::warn!(
                            bucket.name = %bucket, event.target = %target, error = %causes,
                            "An event of `{bucket}` did not reach `{target}` and will be tried again",
                        );
                    }
                }
            }
            let store = self.store.clone();
            blocking(move || store.remove_events(&delivered)).await?;
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the request could not be answered")]
struct UnansweredError(#[source] Box<dyn Error + Send + Sync>);

/// Runs what waits for the disk on a thread that may wait; it runs to its end even if nobody waits for it any more.
pub(crate) async fn blocking<T: Send + 'static>(
    step: impl FnOnce() -> Result<T, BucketError> + Send + 'static,
) -> Result<T, BucketError> {
    tokio::task::spawn_blocking(step).await.map_err(BucketError::Stopping)?
}
