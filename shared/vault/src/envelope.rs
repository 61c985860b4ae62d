//! The envelope: data keys, their caches and the sealed record.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use domain::fault::PortFault;
use domain::seal::{SealContext, SealFault, Sealed, Sealer};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretSlice};
use serde::{Deserialize, Serialize};

/// How long a data key stays in memory.
pub const KEY_LIFE: Duration = Duration::from_secs(300);

/// How many records one data key seals.
pub const KEY_USES: u32 = 1_000;

/// How many unwrapped keys are remembered for opening.
const OPENERS: usize = 1_024;

/// A data key, open and wrapped.
pub struct DataKey {
    pub plain: Zeroizing<Vec<u8>>,
    pub wrapped: Vec<u8>,
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey([redacted])")
    }
}

/// Makes and unwraps 256-bit data keys. A key unwraps only in the context that it was made for.
#[async_trait]
pub trait KeyService: Send + Sync {
    async fn generate(&self, context: &BTreeMap<&str, &str>) -> Result<DataKey, PortFault>;

    /// [`SealFault::Damaged`] if the wrapped key is not one of this service or belongs to another context.
    async fn unwrap(&self, context: &BTreeMap<&str, &str>, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealFault>;
}

#[derive(Serialize, Deserialize)]
struct Record {
    v: u8,
    edk: String,
    nonce: String,
    ct: String,
}

struct SealingKey {
    key: LessSafeKey,
    wrapped: String,
    since: Instant,
    uses: u32,
}

struct OpeningKey {
    key: Zeroizing<Vec<u8>>,
    since: Instant,
}

/// The sealer that functions use.
pub struct Vault {
    service: Box<dyn KeyService>,
    sealing: tokio::sync::Mutex<HashMap<Vec<u8>, SealingKey>>,
    opening: Mutex<HashMap<String, OpeningKey>>,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").finish_non_exhaustive()
    }
}

impl Vault {
    #[must_use]
    pub fn new(service: Box<dyn KeyService>) -> Self {
        Self { service, sealing: tokio::sync::Mutex::default(), opening: Mutex::default() }
    }

    async fn data_key(&self, context: SealContext<'_>, wrapped: &str) -> Result<Zeroizing<Vec<u8>>, SealFault> {
        let shared = shared_pairs(context);
        // The context is part of the cache's key: a key that is known from its own place must not open a record elsewhere.
        let known_as = format!("{}{wrapped}", String::from_utf8_lossy(&canonical(&shared)));
        {
            let mut opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
            opening.retain(|_, known| known.since.elapsed() < KEY_LIFE);
            if let Some(known) = opening.get(&known_as) {
                return Ok(known.key.clone());
            }
        }
        let bytes = BASE64.decode(wrapped).map_err(|_| SealFault::Damaged)?;
        let key = self.service.unwrap(&shared, &bytes).await?;
        let mut opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if opening.len() < OPENERS {
            opening.insert(known_as, OpeningKey { key: key.clone(), since: Instant::now() });
        }
        Ok(key)
    }
}

#[async_trait]
impl Sealer for Vault {
    async fn seal(&self, context: SealContext<'_>, secret: &SecretSlice<u8>) -> Result<Sealed, SealFault> {
        let shared = shared_pairs(context);
        let place = canonical(&shared);
        // The lock is held while a key is made, so that a burst of callers costs one key.
        let mut sealing = self.sealing.lock().await;
        sealing.retain(|_, key| key.since.elapsed() < KEY_LIFE && key.uses < KEY_USES);
        if !sealing.contains_key(&place) {
            let made = self.service.generate(&shared).await.map_err(SealFault::KeyService)?;
            let key = SealingKey {
                key: cipher(&made.plain)?,
                wrapped: BASE64.encode(&made.wrapped),
                since: Instant::now(),
                uses: 0,
            };
            sealing.insert(place.clone(), key);
        }
        let Some(sealing_key) = sealing.get_mut(&place) else {
            return Err(broken("a data key was lost"));
        };
        sealing_key.uses += 1;

        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| broken("no randomness"))?;
        let mut text = Zeroizing::new(secret.expose_secret().to_vec());
        let aad = Aad::from(canonical(&context.pairs()));
        let tag = sealing_key
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, text.as_mut_slice())
            .map_err(|_| broken("sealing failed"))?;
        text.extend_from_slice(tag.as_ref());
        let record =
            Record { v: 1, edk: sealing_key.wrapped.clone(), nonce: BASE64.encode(nonce), ct: BASE64.encode(&*text) };
        serde_json::to_string(&record).map(Sealed).map_err(|_| broken("the record does not serialize"))
    }

    async fn open(&self, context: SealContext<'_>, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, SealFault> {
        let record: Record = serde_json::from_str(&sealed.0).map_err(|_| SealFault::Damaged)?;
        if record.v != 1 {
            return Err(SealFault::Damaged);
        }
        let nonce = BASE64.decode(&record.nonce).map_err(|_| SealFault::Damaged)?;
        let nonce = Nonce::try_assume_unique_for_key(&nonce).map_err(|_| SealFault::Damaged)?;
        let mut text = Zeroizing::new(BASE64.decode(&record.ct).map_err(|_| SealFault::Damaged)?);
        let key = cipher(&self.data_key(context, &record.edk).await?)?;
        let aad = Aad::from(canonical(&context.pairs()));
        let length = key.open_in_place(nonce, aad, &mut text).map_err(|_| SealFault::Damaged)?.len();
        text.truncate(length);
        Ok(text)
    }
}

/// What many records share: the encryption context of their data key.
fn shared_pairs<'a>(context: SealContext<'a>) -> BTreeMap<&'static str, &'a str> {
    let mut pairs = context.pairs();
    pairs.retain(|name, _| !matches!(*name, "user" | "state"));
    pairs
}

/// Length-prefixed, so that no two contexts have the same bytes.
pub(crate) fn canonical(pairs: &BTreeMap<&str, &str>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in pairs.iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

pub(crate) fn cipher(key: &[u8]) -> Result<LessSafeKey, SealFault> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(|_| SealFault::Damaged)
}

pub(crate) fn broken(detail: &str) -> SealFault {
    SealFault::KeyService(PortFault::Broken { operation: "sealing", detail: detail.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use domain::id::{AppId, OpenId};
    use proptest::prelude::*;

    use super::*;
    use crate::KeyFile;

    struct Counted(KeyFile, Arc<AtomicU32>);

    #[async_trait]
    impl KeyService for Counted {
        async fn generate(&self, context: &BTreeMap<&str, &str>) -> Result<DataKey, PortFault> {
            self.1.fetch_add(1, Ordering::SeqCst);
            self.0.generate(context).await
        }

        async fn unwrap(
            &self,
            context: &BTreeMap<&str, &str>,
            wrapped: &[u8],
        ) -> Result<Zeroizing<Vec<u8>>, SealFault> {
            self.0.unwrap(context, wrapped).await
        }
    }

    fn vault() -> (Vault, Arc<AtomicU32>) {
        let made = Arc::new(AtomicU32::new(0));
        (Vault::new(Box::new(Counted(KeyFile::from_bytes([7; 32]), made.clone()))), made)
    }

    fn app(id: &str) -> AppId {
        AppId::parse(id).unwrap()
    }

    fn user(id: &str) -> OpenId {
        OpenId::parse(id).unwrap()
    }

    fn secret(text: &str) -> SecretSlice<u8> {
        text.as_bytes().to_vec().into()
    }

    #[tokio::test]
    async fn opens_what_it_sealed_and_never_seals_the_same_twice() {
        let (vault, _) = vault();
        let (app, text) = (app("cli_a"), secret("密钥🔑"));
        let one = vault.seal(SealContext::App(&app), &text).await.unwrap();
        let two = vault.seal(SealContext::App(&app), &text).await.unwrap();
        assert_ne!(one, two);
        assert_eq!(**vault.open(SealContext::App(&app), &one).await.unwrap(), *"密钥🔑".as_bytes());
    }

    #[tokio::test]
    async fn a_record_opens_only_in_its_own_place() {
        let (vault, _) = vault();
        let (a, b, ann, bob) = (app("cli_a"), app("cli_b"), user("ou_ann"), user("ou_bob"));
        let place = SealContext::UserToken { app_id: &a, tenant_key: "t1", open_id: &ann };
        let sealed = vault.seal(place, &secret("token")).await.unwrap();
        vault.open(place, &sealed).await.unwrap();
        for elsewhere in [
            SealContext::UserToken { app_id: &a, tenant_key: "t1", open_id: &bob },
            SealContext::UserToken { app_id: &a, tenant_key: "t2", open_id: &ann },
            SealContext::UserToken { app_id: &b, tenant_key: "t1", open_id: &ann },
            SealContext::App(&a),
        ] {
            assert!(matches!(vault.open(elsewhere, &sealed).await, Err(SealFault::Damaged)), "{elsewhere:?}");
        }
    }

    #[tokio::test]
    async fn a_tenant_costs_one_data_key_for_a_thousand_records() {
        let (vault, made) = vault();
        let a = app("cli_a");
        for n in 0..KEY_USES {
            let open_id = user(&format!("ou_{n}"));
            let place = SealContext::UserToken { app_id: &a, tenant_key: "t", open_id: &open_id };
            vault.seal(place, &secret("x")).await.unwrap();
        }
        assert_eq!(made.load(Ordering::SeqCst), 1);
        let open_id = user("ou_last");
        let place = SealContext::UserToken { app_id: &a, tenant_key: "t", open_id: &open_id };
        vault.seal(place, &secret("x")).await.unwrap();
        assert_eq!(made.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn another_master_key_opens_nothing() {
        let a = app("cli_a");
        let sealed = vault().0.seal(SealContext::App(&a), &secret("x")).await.unwrap();
        let other = Vault::new(Box::new(KeyFile::from_bytes([8; 32])));
        assert!(matches!(other.open(SealContext::App(&a), &sealed).await, Err(SealFault::Damaged)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn one_changed_or_missing_character_is_noticed(at in any::<prop::sample::Index>(), with in "[A-Za-z0-9+/]", cut in any::<bool>()) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (vault, _) = vault();
                let a = app("cli_a");
                let sealed = vault.seal(SealContext::App(&a), &secret("the secret")).await.unwrap();
                let mut bytes = sealed.0.clone().into_bytes();
                let at = at.index(bytes.len());
                if cut { bytes.remove(at); } else { bytes[at] = with.as_bytes()[0]; }
                let changed = Sealed(String::from_utf8(bytes).unwrap());
                if changed != sealed {
                    let opened = vault.open(SealContext::App(&a), &changed).await;
                    assert!(matches!(opened, Err(SealFault::Damaged)));
                }
            });
        }
    }
}
