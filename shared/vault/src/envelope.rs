//! The envelope: data keys, their caches and the sealed record.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

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
use tokio::time::Instant;

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
    /// Names the master key in records. It is no secret.
    fn id(&self) -> &str;

    async fn generate(&self, context: &BTreeMap<&str, &str>) -> Result<DataKey, PortFault>;

    /// [`SealFault::Damaged`] if the wrapped key is not one of this service or belongs to another context.
    async fn unwrap(&self, context: &BTreeMap<&str, &str>, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealFault>;
}

#[derive(Serialize, Deserialize)]
struct Record {
    v: u8,
    /// The master key that wrapped `edk`, authenticated with the ciphertext. Records from before keys had names have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    edk: String,
    nonce: String,
    ct: String,
}

impl Record {
    fn read(sealed: &Sealed) -> Result<Self, SealFault> {
        let record: Self = serde_json::from_str(&sealed.0).map_err(|_| SealFault::Damaged)?;
        if record.v == 1 { Ok(record) } else { Err(SealFault::Damaged) }
    }
}

struct SealingKey {
    key: LessSafeKey,
    wrapped: String,
    since: Instant,
    uses: u32,
}

struct OpeningKey {
    key: Zeroizing<Vec<u8>>,
    by: WrappedBy,
    since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WrappedBy {
    Current,
    Earlier,
}

/// The sealer that functions use.
pub struct Vault {
    /// Seals and opens.
    current: Box<dyn KeyService>,
    /// Only open.
    earlier: Vec<Box<dyn KeyService>>,
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
    pub fn new(current: Box<dyn KeyService>) -> Self {
        Self { current, earlier: Vec::new(), sealing: tokio::sync::Mutex::default(), opening: Mutex::default() }
    }

    /// Also opens what an earlier key sealed.
    #[must_use]
    pub fn opening_too(mut self, earlier: Box<dyn KeyService>) -> Self {
        self.earlier.push(earlier);
        self
    }

    /// The data key of a record, and which master key wrapped it.
    async fn data_key(
        &self,
        context: SealContext<'_>,
        record: &Record,
    ) -> Result<(Zeroizing<Vec<u8>>, WrappedBy), SealFault> {
        let shared = shared_pairs(context);
        let known_as = known_as(&canonical(&shared), &record.edk);
        {
            let mut opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
            opening.retain(|_, known| known.since.elapsed() < KEY_LIFE);
            if let Some(known) = opening.get(&known_as) {
                return Ok((known.key.clone(), known.by));
            }
        }
        let bytes = BASE64.decode(&record.edk).map_err(|_| SealFault::Damaged)?;
        let (key, by) = self.unwrap(&shared, record.kid.as_deref(), &bytes).await?;
        self.remember(known_as, key.clone(), by);
        Ok((key, by))
    }

    /// Asks the master key that the record names. A record that names none, or one that goes by another name by now, is tried with each.
    async fn unwrap(
        &self,
        shared: &BTreeMap<&str, &str>,
        kid: Option<&str>,
        wrapped: &[u8],
    ) -> Result<(Zeroizing<Vec<u8>>, WrappedBy), SealFault> {
        let earlier = self.earlier.iter().map(|key| (WrappedBy::Earlier, key));
        let mut keys: Vec<_> = [(WrappedBy::Current, &self.current)].into_iter().chain(earlier).collect();
        if keys.iter().any(|(_, key)| kid == Some(key.id())) {
            keys.retain(|(_, key)| kid == Some(key.id()));
        }
        let mut fault = SealFault::Damaged;
        for (by, key) in keys {
            match key.unwrap(shared, wrapped).await {
                Ok(plain) => return Ok((plain, by)),
                Err(SealFault::Damaged) => {}
                // It may be the one: unless another key opens the record, nobody can say that it is damaged.
                Err(unavailable) => fault = unavailable,
            }
        }
        Err(fault)
    }

    fn remember(&self, known_as: String, key: Zeroizing<Vec<u8>>, by: WrappedBy) {
        let mut opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if opening.len() < OPENERS {
            opening.insert(known_as, OpeningKey { key, by, since: Instant::now() });
        }
    }

    async fn open_record(
        &self,
        context: SealContext<'_>,
        record: &Record,
    ) -> Result<(Zeroizing<Vec<u8>>, WrappedBy), SealFault> {
        let nonce = BASE64.decode(&record.nonce).map_err(|_| SealFault::Damaged)?;
        let nonce = Nonce::try_assume_unique_for_key(&nonce).map_err(|_| SealFault::Damaged)?;
        let mut text = Zeroizing::new(BASE64.decode(&record.ct).map_err(|_| SealFault::Damaged)?);
        let (key, by) = self.data_key(context, record).await?;
        let aad = Aad::from(authenticated(context, record.kid.as_deref()));
        let length = cipher(&key)?.open_in_place(nonce, aad, &mut text).map_err(|_| SealFault::Damaged)?.len();
        text.truncate(length);
        Ok((text, by))
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
            let made = self.current.generate(&shared).await.map_err(SealFault::KeyService)?;
            let wrapped = BASE64.encode(&made.wrapped);
            let key =
                SealingKey { key: cipher(&made.plain)?, wrapped: wrapped.clone(), since: Instant::now(), uses: 0 };
            sealing.insert(place.clone(), key);
            // Whoever sealed a record is likely to open it.
            self.remember(known_as(&place, &wrapped), made.plain, WrappedBy::Current);
        }
        let Some(sealing_key) = sealing.get_mut(&place) else {
            return Err(broken("a data key was lost"));
        };
        sealing_key.uses += 1;

        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| broken("no randomness"))?;
        let mut text = Zeroizing::new(secret.expose_secret().to_vec());
        let kid = self.current.id().to_owned();
        let aad = Aad::from(authenticated(context, Some(&kid)));
        let tag = sealing_key
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, text.as_mut_slice())
            .map_err(|_| broken("sealing failed"))?;
        text.extend_from_slice(tag.as_ref());
        let (edk, nonce, ct) = (sealing_key.wrapped.clone(), BASE64.encode(nonce), BASE64.encode(&*text));
        let record = Record { v: 1, kid: Some(kid), edk, nonce, ct };
        serde_json::to_string(&record).map(Sealed).map_err(|_| broken("the record does not serialize"))
    }

    async fn open(&self, context: SealContext<'_>, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, SealFault> {
        let (text, _) = self.open_record(context, &Record::read(sealed)?).await?;
        Ok(text)
    }

    async fn rewrap(&self, context: SealContext<'_>, sealed: &Sealed) -> Result<Option<Sealed>, SealFault> {
        let record = Record::read(sealed)?;
        let is_current = match &record.kid {
            Some(kid) => kid == self.current.id(),
            // There is but one key that it can be of.
            None => self.earlier.is_empty(),
        };
        if is_current {
            return Ok(None);
        }
        match self.open_record(context, &record).await? {
            (_, WrappedBy::Current) => Ok(None),
            (secret, WrappedBy::Earlier) => self.seal(context, &secret.to_vec().into()).await.map(Some),
        }
    }
}

/// What the cache of unwrapped keys knows one by. The context is part of it: a key that is known from its own place must not open a
/// record elsewhere.
fn known_as(place: &[u8], wrapped: &str) -> String {
    format!("{}{wrapped}", BASE64.encode(place))
}

/// What the ciphertext is bound to: where it belongs, and the name of its master key if the record tells one.
fn authenticated(context: SealContext<'_>, kid: Option<&str>) -> Vec<u8> {
    let mut pairs: BTreeMap<&str, &str> = context.pairs();
    pairs.extend(kid.map(|kid| ("kid", kid)));
    canonical(&pairs)
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
    use testkit::contract;

    use super::*;
    use crate::KeyFile;

    /// A key file that counts what it is asked for and may be out of reach, as KMS may.
    #[derive(Clone)]
    struct Counted {
        key: Arc<KeyFile>,
        generated: Arc<AtomicU32>,
        unwrapped: Arc<AtomicU32>,
        is_down: bool,
    }

    impl Counted {
        fn new(master: u8) -> Self {
            let key = Arc::new(KeyFile::from_bytes([master; 32]));
            Self { key, generated: Arc::default(), unwrapped: Arc::default(), is_down: false }
        }

        fn calls(&self) -> (u32, u32) {
            (self.generated.load(Ordering::SeqCst), self.unwrapped.load(Ordering::SeqCst))
        }
    }

    #[async_trait]
    impl KeyService for Counted {
        fn id(&self) -> &str {
            self.key.id()
        }

        async fn generate(&self, context: &BTreeMap<&str, &str>) -> Result<DataKey, PortFault> {
            self.generated.fetch_add(1, Ordering::SeqCst);
            self.key.generate(context).await
        }

        async fn unwrap(
            &self,
            context: &BTreeMap<&str, &str>,
            wrapped: &[u8],
        ) -> Result<Zeroizing<Vec<u8>>, SealFault> {
            self.unwrapped.fetch_add(1, Ordering::SeqCst);
            if self.is_down {
                return Err(broken("out of reach"));
            }
            self.key.unwrap(context, wrapped).await
        }
    }

    /// The vault of a list of master keys, as the setting names them.
    fn vault(masters: &[u8]) -> Vault {
        let mut keys = masters.iter().map(|master| Box::new(KeyFile::from_bytes([*master; 32])));
        let first = Vault::new(keys.next().unwrap());
        keys.fold(first, |vault, key| vault.opening_too(key))
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

    fn is_damaged<T>(result: &Result<T, SealFault>) -> bool {
        matches!(result, Err(SealFault::Damaged))
    }

    /// A record as it was sealed before keys had names.
    async fn unnamed(master: u8, context: SealContext<'_>, text: &str) -> Sealed {
        let made = KeyFile::from_bytes([master; 32]).generate(&shared_pairs(context)).await.unwrap();
        let mut ct = text.as_bytes().to_vec();
        let aad = Aad::from(canonical(&context.pairs()));
        let nonce = Nonce::assume_unique_for_key([9; NONCE_LEN]);
        cipher(&made.plain).unwrap().seal_in_place_append_tag(nonce, aad, &mut ct).unwrap();
        let (edk, nonce, ct) = (BASE64.encode(made.wrapped), BASE64.encode([9; NONCE_LEN]), BASE64.encode(ct));
        Sealed(format!(r#"{{"v":1,"edk":"{edk}","nonce":"{nonce}","ct":"{ct}"}}"#))
    }

    #[tokio::test]
    async fn keeps_the_contract_of_sealing() {
        contract::sealer(&vault(&[2, 1]), &vault(&[1])).await;
    }

    #[tokio::test]
    async fn never_seals_the_same_twice() {
        let (vault, app, text) = (vault(&[7]), app("cli_a"), secret("密钥🔑"));
        let one = vault.seal(SealContext::App(&app), &text).await.unwrap();
        assert_ne!(one, vault.seal(SealContext::App(&app), &text).await.unwrap());
        assert!(!one.0.contains("密钥"));
    }

    #[tokio::test]
    async fn a_record_of_an_earlier_key_opens_is_sealed_anew_and_then_needs_the_new_key_only() {
        let app = app("cli_a");
        let place = SealContext::App(&app);
        let before = vault(&[1]).seal(place, &secret("s")).await.unwrap();
        let rotated = vault(&[3, 2, 1]);
        assert_eq!(**rotated.open(place, &before).await.unwrap(), *b"s");
        let anew = rotated.rewrap(place, &before).await.unwrap().unwrap();
        assert_eq!(rotated.rewrap(place, &anew).await.unwrap(), None);

        let cleaned = vault(&[3]);
        assert_eq!(**cleaned.open(place, &anew).await.unwrap(), *b"s");
        assert!(is_damaged(&cleaned.open(place, &before).await));
        assert!(is_damaged(&cleaned.rewrap(place, &before).await));
    }

    #[tokio::test]
    async fn a_record_from_before_keys_had_names_opens_and_is_sealed_anew_after_a_rotation() {
        let app = app("cli_a");
        let place = SealContext::AppTicket(&app);
        let old = unnamed(1, place, "工单 🎫").await;
        for masters in [&[1][..], &[2, 1], &[1, 2]] {
            assert_eq!(**vault(masters).open(place, &old).await.unwrap(), *"工单 🎫".as_bytes());
        }
        assert!(is_damaged(&vault(&[2]).open(place, &old).await));
        assert_eq!(vault(&[1]).rewrap(place, &old).await.unwrap(), None);
        assert_eq!(vault(&[1, 2]).rewrap(place, &old).await.unwrap(), None, "its key still seals");
        let anew = vault(&[2, 1]).rewrap(place, &old).await.unwrap().unwrap();
        assert_eq!(**vault(&[2]).open(place, &anew).await.unwrap(), *"工单 🎫".as_bytes());
    }

    #[tokio::test]
    async fn a_named_record_asks_its_own_key_alone_and_one_that_is_out_of_reach_is_no_damage() {
        let app = app("cli_a");
        let place = SealContext::App(&app);
        let (one, two) = (Counted::new(1), Counted::new(2));
        let both = |first: &Counted, second: &Counted| {
            Vault::new(Box::new(first.clone())).opening_too(Box::new(second.clone()))
        };
        let sealed = vault(&[1]).seal(place, &secret("s")).await.unwrap();
        both(&two, &one).open(place, &sealed).await.unwrap();
        assert_eq!((one.calls(), two.calls()), ((0, 1), (0, 0)));
        assert_eq!(both(&one, &two).rewrap(place, &sealed).await.unwrap(), None);
        assert_eq!((one.calls(), two.calls()), ((0, 1), (0, 0)), "what is under the present key costs no call");

        let down = Counted { is_down: true, ..Counted::new(1) };
        let out_of_reach = both(&two, &down).open(place, &sealed).await;
        assert!(matches!(out_of_reach, Err(SealFault::KeyService(_))));
        let old = unnamed(2, place, "s").await;
        both(&down, &two).open(place, &old).await.unwrap();
        let strange = unnamed(3, place, "s").await;
        assert!(matches!(both(&two, &down).open(place, &strange).await, Err(SealFault::KeyService(_))));
    }

    async fn seal_a_thousand(vault: &Vault, app: &AppId) -> Vec<(OpenId, Sealed)> {
        let mut sealed = Vec::new();
        for n in 0..KEY_USES {
            let open_id = user(&format!("ou_{n}"));
            let place = SealContext::UserToken { app_id: app, tenant_key: "t", open_id: &open_id };
            let record = vault.seal(place, &secret("x")).await.unwrap();
            sealed.push((open_id, record));
        }
        sealed
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_costs_one_call_for_a_thousand_records_or_five_minutes() {
        let key = Counted::new(7);
        let (vault, a) = (Vault::new(Box::new(key.clone())), app("cli_a"));
        let sealed = seal_a_thousand(&vault, &a).await;
        for (open_id, record) in &sealed {
            vault.open(SealContext::UserToken { app_id: &a, tenant_key: "t", open_id }, record).await.unwrap();
        }
        assert_eq!(key.calls(), (1, 0), "sealed and opened again");

        let place = SealContext::UserToken { app_id: &a, tenant_key: "t", open_id: &user("ou_more") };
        vault.seal(place, &secret("x")).await.unwrap();
        assert_eq!(key.calls(), (2, 0), "a data key seals no more than a thousand");
        tokio::time::advance(KEY_LIFE - Duration::from_secs(1)).await;
        vault.seal(place, &secret("x")).await.unwrap();
        assert_eq!(key.calls(), (2, 0));
        tokio::time::advance(Duration::from_secs(1)).await;
        vault.seal(place, &secret("x")).await.unwrap();
        assert_eq!(key.calls(), (3, 0), "nor for longer than five minutes");
        let elsewhere = SealContext::UserToken { app_id: &a, tenant_key: "another", open_id: &user("ou_more") };
        vault.seal(elsewhere, &secret("x")).await.unwrap();
        assert_eq!(key.calls(), (4, 0), "each tenant has its own");
    }

    #[tokio::test(start_paused = true)]
    async fn opening_a_thousand_records_of_a_tenant_costs_one_call_in_five_minutes() {
        let a = app("cli_a");
        let sealed = seal_a_thousand(&vault(&[7]), &a).await;
        let key = Counted::new(7);
        let vault = Vault::new(Box::new(key.clone()));
        for rounds in 1..=2 {
            for (open_id, record) in &sealed {
                vault.open(SealContext::UserToken { app_id: &a, tenant_key: "t", open_id }, record).await.unwrap();
            }
            assert_eq!(key.calls(), (0, rounds));
            tokio::time::advance(KEY_LIFE).await;
        }
    }

    #[tokio::test]
    async fn a_thousand_at_once_cost_one_data_key() {
        let key = Counted::new(7);
        let (vault, a) = (Arc::new(Vault::new(Box::new(key.clone()))), app("cli_a"));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..KEY_USES {
            let (vault, a) = (vault.clone(), a.clone());
            tasks.spawn(async move { vault.seal(SealContext::App(&a), &secret("x")).await.map(drop) });
        }
        assert!(tasks.join_all().await.iter().all(Result::is_ok));
        assert_eq!(key.calls(), (1, 0));
    }

    /// A context that owns its parts.
    #[derive(Debug, Clone, PartialEq)]
    enum Place {
        App(String),
        UserToken(String, String, String),
        TenantToken(String, String),
        AppTicket(String),
        Verifier(String, String),
    }

    fn places() -> impl Strategy<Value = Place> {
        // Few of each, so that two places often share a part.
        let (app, tenant, person) = ("cli_[ab]", "(租户|t|)[12]?", "ou_[ab]");
        prop_oneof![
            app.prop_map(Place::App),
            (app, tenant, person).prop_map(|(app, tenant, person)| Place::UserToken(app, tenant, person)),
            (app, tenant).prop_map(|(app, tenant)| Place::TenantToken(app, tenant)),
            app.prop_map(Place::AppTicket),
            (app, tenant).prop_map(|(app, state)| Place::Verifier(app, state)),
        ]
    }

    impl Place {
        async fn seal(&self, vault: &Vault) -> Sealed {
            self.run(async |context| vault.seal(context, &secret("the secret 🔑")).await.unwrap()).await
        }

        async fn open(&self, vault: &Vault, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, SealFault> {
            self.run(async |context| vault.open(context, sealed).await).await
        }

        async fn run<T>(&self, work: impl AsyncFnOnce(SealContext<'_>) -> T) -> T {
            match self {
                Self::App(id) => work(SealContext::App(&app(id))).await,
                Self::UserToken(id, tenant_key, person) => {
                    work(SealContext::UserToken { app_id: &app(id), tenant_key, open_id: &user(person) }).await
                }
                Self::TenantToken(id, tenant_key) => {
                    work(SealContext::TenantToken { app_id: &app(id), tenant_key }).await
                }
                Self::AppTicket(id) => work(SealContext::AppTicket(&app(id))).await,
                Self::Verifier(id, state_hash) => work(SealContext::Verifier { app_id: &app(id), state_hash }).await,
            }
        }
    }

    fn block_on(work: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work);
    }

    /// Refused by the vault that sealed it, which knows its data key, and by one that does not.
    async fn is_refused(vault: &Vault, masters: &[u8], place: &Place, changed: &Sealed) -> bool {
        is_damaged(&place.open(vault, changed).await) && is_damaged(&place.open(&self::vault(masters), changed).await)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn a_record_opens_in_its_own_place_only(own in places(), other in places()) {
            block_on(async {
                let vault = vault(&[2, 1]);
                let sealed = own.seal(&vault).await;
                if own == other {
                    assert_eq!(**other.open(&vault, &sealed).await.unwrap(), *"the secret 🔑".as_bytes());
                } else {
                    assert!(is_refused(&vault, &[2, 1], &other, &sealed).await);
                }
            });
        }

        #[test]
        fn a_bit_that_flips_anywhere_is_noticed(place in places(), at in any::<prop::sample::Index>(), bit in 0..8_u32) {
            block_on(async {
                let vault = vault(&[2, 1]);
                let mut bytes = place.seal(&vault).await.0.into_bytes();
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
                // What is no text at all cannot be stored.
                if let Ok(changed) = String::from_utf8(bytes) {
                    assert!(is_refused(&vault, &[2, 1], &place, &Sealed(changed)).await);
                }
            });
        }

        #[test]
        fn a_truncated_record_is_noticed(place in places(), at in any::<prop::sample::Index>(), from_front in any::<bool>()) {
            block_on(async {
                let vault = vault(&[2, 1]);
                let Sealed(whole) = place.seal(&vault).await;
                let (front, back) = whole.split_at(at.index(whole.len()));
                let cut = Sealed(if from_front && !front.is_empty() { back } else { front }.to_owned());
                assert!(is_refused(&vault, &[2, 1], &place, &cut).await);
            });
        }

        #[test]
        fn a_changed_or_missing_character_is_noticed(at in any::<prop::sample::Index>(), with in "[A-Za-z0-9+/]", cut in any::<bool>()) {
            block_on(async {
                let (vault, place) = (vault(&[7]), Place::App("cli_a".to_owned()));
                let sealed = place.seal(&vault).await;
                let mut bytes = sealed.0.clone().into_bytes();
                let at = at.index(bytes.len());
                if cut { bytes.remove(at); } else { bytes[at] = with.as_bytes()[0]; }
                let changed = Sealed(String::from_utf8(bytes).unwrap());
                assert!(changed == sealed || is_refused(&vault, &[7], &place, &changed).await);
            });
        }

        #[test]
        fn fields_of_two_records_do_not_mix(place in places(), field in prop::sample::select(vec!["kid", "edk", "nonce", "ct"])) {
            block_on(async {
                let (one, two) = (vault(&[2, 1]), vault(&[1, 2]));
                let (sealed, other) = (place.seal(&one).await, place.seal(&two).await);
                let mut mixed: serde_json::Value = serde_json::from_str(&sealed.0).unwrap();
                let other: serde_json::Value = serde_json::from_str(&other.0).unwrap();
                mixed[field] = other[field].clone();
                assert!(is_refused(&one, &[2, 1], &place, &Sealed(mixed.to_string())).await);
            });
        }
    }
}
