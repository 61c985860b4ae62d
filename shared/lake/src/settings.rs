//! Where a lake is, and how its store is spoken to.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use delta_kernel::object_store::aws::AmazonS3Builder;
use delta_kernel::object_store::local::LocalFileSystem;
use delta_kernel::object_store::path::Path;
use delta_kernel::object_store::{BackoffConfig, Certificate, ClientOptions, DynObjectStore, RetryConfig};
use url::Url;

use crate::fault::LakeFault;

/// How long one request may take. The largest is the download of a file that a compaction wrote.
const REQUEST: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(3);

/// What the store refuses for a moment (503, 500, 429, a dropped connection) is asked again, within a function's time-out.
const TRIES: usize = 6;
const TRYING: Duration = Duration::from_secs(30);

/// Where a lake is.
#[derive(Clone)]
pub struct Settings {
    place: Place,
    roots: Option<&'static [u8]>,
}

#[derive(Clone)]
enum Place {
    Folder(PathBuf),
    Bucket { name: String, region: String, endpoint: Option<String>, keys: Keys },
}

#[derive(Clone)]
struct Keys {
    id: String,
    secret: String,
    token: Option<String>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Folder(folder) => formatter.debug_tuple("Folder").field(folder).finish(),
            Place::Bucket { name, endpoint, .. } => {
                formatter.debug_struct("Bucket").field("name", name).field("endpoint", endpoint).finish_non_exhaustive()
            }
        }
    }
}

/// A store, and where in it the lake is.
pub(crate) struct Opened {
    pub(crate) store: Arc<DynObjectStore>,
    /// What every key of the lake starts with in the store.
    pub(crate) prefix: Path,
    /// The same for the kernel, which names objects by URL.
    pub(crate) url: Url,
}

impl Settings {
    /// A lake in a folder of this machine; it is created when something is written.
    #[must_use]
    pub fn folder(folder: impl Into<PathBuf>) -> Self {
        Self { place: Place::Folder(folder.into()), roots: None }
    }

    /// A lake in a bucket. Region, credentials and `AWS_ENDPOINT_URL` come from where Lambda puts them.
    pub fn bucket(name: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, LakeFault> {
        let required = |name| lookup(name).ok_or(LakeFault::BadSetting { name, expected: "set" });
        let keys = Keys {
            id: required("AWS_ACCESS_KEY_ID")?,
            secret: required("AWS_SECRET_ACCESS_KEY")?,
            token: lookup("AWS_SESSION_TOKEN"),
        };
        let endpoint = lookup("AWS_ENDPOINT_URL_S3").or_else(|| lookup("AWS_ENDPOINT_URL"));
        let place = Place::Bucket { name: name.to_owned(), region: required("AWS_REGION")?, endpoint, keys };
        Ok(Self { place, roots: None })
    }

    /// Trusts these roots, in PEM, and does not read the system's: a third of a cold start.
    #[must_use]
    pub fn with_roots(self, roots: &'static [u8]) -> Self {
        Self { roots: Some(roots), ..self }
    }

    pub(crate) fn open(&self) -> Result<Opened, LakeFault> {
        match &self.place {
            Place::Folder(folder) => open_folder(folder),
            Place::Bucket { name, region, endpoint, keys } => {
                let retry = RetryConfig {
                    backoff: BackoffConfig {
                        init_backoff: Duration::from_millis(50),
                        max_backoff: Duration::from_secs(5),
                        base: 2.0,
                    },
                    max_retries: TRIES,
                    retry_timeout: TRYING,
                };
                let mut client = ClientOptions::new().with_timeout(REQUEST).with_connect_timeout(CONNECT);
                if let Some(pem) = self.roots {
                    let roots =
                        Certificate::from_pem_bundle(pem).map_err(|fault| LakeFault::broken("trusting", fault))?;
                    client = roots.into_iter().fold(client, ClientOptions::with_root_certificate);
                    client = client.with_no_system_certificates(true);
                }
                let mut builder = AmazonS3Builder::new()
                    .with_bucket_name(name)
                    .with_region(region)
                    .with_access_key_id(&keys.id)
                    .with_secret_access_key(&keys.secret)
                    .with_client_options(client)
                    .with_retry(retry);
                if let Some(token) = &keys.token {
                    builder = builder.with_token(token);
                }
                if let Some(endpoint) = endpoint {
                    let plain = endpoint.starts_with("http://");
                    builder = builder.with_endpoint(endpoint).with_allow_http(plain);
                }
                let store = builder.build().map_err(|fault| LakeFault::broken("opening the bucket", fault))?;
                let url = Url::parse(&format!("s3://{name}/"))
                    .map_err(|_| LakeFault::BadSetting { name: "bucket", expected: "the name of a bucket" })?;
                Ok(Opened { store: Arc::new(store), prefix: Path::default(), url })
            }
        }
    }
}

fn open_folder(folder: &std::path::Path) -> Result<Opened, LakeFault> {
    let bad = LakeFault::BadSetting { name: "folder", expected: "an absolute path in UTF-8" };
    let made = std::fs::create_dir_all(folder).and_then(|()| folder.canonicalize());
    let folder = made.map_err(|fault| LakeFault::broken("opening the folder", fault))?;
    let (Ok(prefix), Ok(url)) = (Path::from_absolute_path(&folder), Url::from_directory_path(&folder)) else {
        return Err(bad);
    };
    Ok(Opened { store: Arc::new(LocalFileSystem::new()), prefix, url })
}
