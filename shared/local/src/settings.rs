//! `local.json`: where the parts of a running bundle are, for every other command and for any AWS SDK.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What a running bundle tells. The file holds secrets of the local bundle and is readable by its owner only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The process that runs the bundle.
    pub pid: u32,
    /// Base URL of the HTTP API.
    pub http: String,
    /// Base URL of the WebSocket API; empty if the template has none.
    pub websocket: String,
    /// For any AWS SDK or CLI.
    pub aws_endpoint: String,
    pub region: String,
    pub access_key_id: String,
    pub secret_access_key: String,
    /// What the vault is opened with.
    pub vault_key: String,
    /// What the vendor's hosts are replaced with: the sandbox, or another Lark.
    #[serde(default)]
    pub lark_base_url: String,
    /// The Lark side, once it is set up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lark: Option<LarkSettings>,
    /// Clients of the API that are there from the start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clients: Vec<ClientSettings>,
    /// What opens `/webhook/wechat`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_key: Option<String>,
    /// Physical names by logical id.
    pub functions: BTreeMap<String, String>,
    pub tables: BTreeMap<String, String>,
    /// URLs by logical id.
    pub queues: BTreeMap<String, String>,
    pub buckets: BTreeMap<String, String>,
    pub event_buses: BTreeMap<String, String>,
}

/// The sandbox and the app that is registered in it from the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LarkSettings {
    pub sandbox: String,
    pub app_id: String,
    pub app_secret: String,
    pub encrypt_key: String,
    pub verification_token: String,
}

/// A client of the API, with its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientSettings {
    pub client_id: String,
    pub client_secret: String,
    pub user_id: String,
    pub scopes: Vec<String>,
}

impl Settings {
    /// Where the file is in a data folder.
    #[must_use]
    pub fn path(data: &Path) -> PathBuf {
        data.join("local.json")
    }

    /// What the folder's last bundle told, running or not; nothing if none ever ran.
    pub fn read(data: &Path) -> io::Result<Option<Self>> {
        match fs::read(Self::path(data)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the file in one step.
    pub fn write(&self, data: &Path) -> io::Result<()> {
        replace(&Self::path(data), self)
    }
}

/// Writes a JSON file that only its owner reads: whoever reads it sees the old one or the new one, whole.
pub(crate) fn replace(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let aside = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut options = File::options();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    file.write_all(&serde_json::to_vec_pretty(value)?)?;
    file.sync_all()?;
    fs::rename(aside, path)
}
