//! Where events come from: each source has a name, keys that open its webhook, and a way to read its events.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::fault::{Fault, PortFault, Refusal, Remedy};
use crate::oauth::SecretHash;

/// How long a warm function goes on with what it knows of a source: so long after a key was revoked it opens nothing.
pub const SOURCE_TTL: Duration = Duration::seconds(10);

/// How many keys of a source are good at once: the new one, and the one that it replaces.
const KEYS: usize = 2;

/// How many names a warm function remembers, strangers' included.
const REMEMBERED: usize = 256;

/// The name of a source: a path segment of its webhook, and the column `source` of its rows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SourceName(String);

impl SourceName {
    /// Events that Lark pushes.
    pub const LARK: &'static str = "lark";
    /// Messages of Skylark's own chat.
    pub const CHAT: &'static str = "chat";

    pub fn parse(text: impl Into<String>) -> Result<Self, SourceFault> {
        let text = text.into();
        let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        let valid = (1..=32).contains(&text.len()) && text.bytes().all(word);
        if valid { Ok(Self(text)) } else { Err(SourceFault::Name) }
    }

    /// The source of Lark's events.
    #[must_use]
    pub fn lark() -> Self {
        Self(Self::LARK.to_owned())
    }

    /// The source of chat messages.
    #[must_use]
    pub fn chat() -> Self {
        Self(Self::CHAT.to_owned())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether its events come from Skylark itself, and through no webhook.
    #[must_use]
    pub fn is_own(&self) -> bool {
        matches!(self.0.as_str(), Self::LARK | Self::CHAT)
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for SourceName {
    type Error = SourceFault;

    fn try_from(text: String) -> Result<Self, SourceFault> {
        Self::parse(text)
    }
}

impl From<SourceName> for String {
    fn from(name: SourceName) -> Self {
        name.0
    }
}

/// How a source's events are read. Those of Skylark itself ([`SourceName::is_own`]) are known and need no mapping.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "form", rename_all = "snake_case")]
pub enum Mapping {
    /// As WeChat's: `{guid, notify_type, data: {..}}` with the fields of a message or of a contact, or only what would be its `data`.
    #[default]
    Wechat,
    /// Any other JSON object: for each field of a WeChat message where its value is, as a JSON pointer. What no pointer names is kept.
    Fields { fields: BTreeMap<String, String> },
}

/// One of a source's keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceKey {
    pub hash: SecretHash,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

impl SourceKey {
    /// What people call it by: the beginning of its hash, which opens nothing.
    #[must_use]
    pub fn id(&self) -> &str {
        self.hash.0.get(..8).unwrap_or(&self.hash.0)
    }
}

/// A source as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    pub name: SourceName,
    pub mapping: Mapping,
    /// Whether a person's mobile number and `customInfo.detail` are kept out of the tables. Raw objects and the quarantine have them.
    #[serde(default)]
    pub mask: bool,
    /// Newest first, at most two. Without a key nothing comes in.
    pub keys: Vec<SourceKey>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    pub created_by: String,
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
    pub updated_by: String,
    /// Grows by one with each change; an update names the version that it read.
    pub version: u64,
}

impl Source {
    /// Whether this is the hash of one of its keys. Every key is looked at, whichever fits.
    #[must_use]
    pub fn opens(&self, hash: &SecretHash) -> bool {
        self.keys.iter().fold(false, |found, key| found | key.hash.matches(hash))
    }

    /// Adds a key; the one before it stays good, older ones do not.
    #[must_use]
    pub fn rotated(mut self, hash: SecretHash, now: OffsetDateTime) -> Self {
        self.keys.insert(0, SourceKey { hash, created_at: now });
        self.keys.truncate(KEYS);
        self
    }

    /// Takes a key away, by its id.
    pub fn revoked(mut self, key_id: &str) -> Result<Self, SourceFault> {
        let before = self.keys.len();
        self.keys.retain(|key| key.id() != key_id);
        if self.keys.len() == before { Err(SourceFault::Key) } else { Ok(self) }
    }
}

/// Where sources are kept.
#[async_trait]
pub trait SourceStore: Send + Sync {
    async fn get(&self, name: &SourceName) -> Result<Option<Source>, PortFault>;

    /// Stores `source` if its version is exactly one above what is stored (0 when nothing is): called twice with the same source, the
    /// second call is a [`PortFault::Conflict`].
    async fn put(&self, source: &Source) -> Result<(), PortFault>;

    /// Every source, by name.
    async fn list(&self) -> Result<Vec<Source>, PortFault>;
}

type Known = HashMap<SourceName, (OffsetDateTime, Option<Arc<Source>>)>;

/// The sources as a warm function knows them: what it looked up is good for [`SOURCE_TTL`], that there is none too.
pub struct SourceDirectory {
    store: Arc<dyn SourceStore>,
    known: Mutex<Known>,
}

impl fmt::Debug for SourceDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceDirectory").finish_non_exhaustive()
    }
}

impl SourceDirectory {
    #[must_use]
    pub fn new(store: Arc<dyn SourceStore>) -> Self {
        Self { store, known: Mutex::default() }
    }

    /// The source of this name, if there is one.
    pub async fn find(&self, name: &SourceName, now: OffsetDateTime) -> Result<Option<Arc<Source>>, PortFault> {
        let fresh = |at: &OffsetDateTime| now - *at < SOURCE_TTL;
        if let Some((at, source)) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(name)
            && fresh(at)
        {
            return Ok(source.clone());
        }
        let source = self.store.get(name).await?.map(Arc::new);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.retain(|_, (at, _)| fresh(at));
        }
        if known.len() >= REMEMBERED {
            // Forgetting costs a look-up each, never a wrong answer.
            known.clear();
        }
        known.insert(name.clone(), (now, source.clone()));
        Ok(source)
    }
}

/// Why a source is not what people say.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SourceFault {
    #[error("`source` must be 1 to 32 lowercase letters, digits, `-` or `_`")]
    Name,
    #[error("`key_id` names no key of this source")]
    Key,
}

impl Fault for SourceFault {
    fn remedy(&self) -> Remedy {
        Remedy::Reject(match self {
            Self::Name => Refusal::Invalid,
            Self::Key => Refusal::Unknown,
        })
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Name => "invalid_source",
            Self::Key => "unknown_key",
        }
    }
}
