//! Access tokens: RS256 JWTs (RFC 9068) under keys in KMS, or in files on one machine.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rsa::PublicKey as RsaPublicKey;
use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use domain::access::{
    AUDIENCE, AccessFault, AccessToken, AccessTokenVerifier, Caller, LEEWAY, PublicKey, Scope, TokenSigner,
};
use domain::fault::PortFault;
use domain::id::{ClientId, FamilyId, TenantId, UserId};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;

/// The one algorithm: whatever a token's header asks for, no other is used (RFC 8725, 3.1).
const ALGORITHM: &str = "RS256";

/// What a token's header must say that it is (RFC 9068, 2.1).
const TYPE: &str = "at+jwt";

/// A token that names an unknown key has the keys read again, but not more often than this, whatever is sent.
const RELOAD: Duration = Duration::from_secs(60);

/// Nothing that we sign is larger.
const TOKEN_BYTES: usize = 8 * 1024;

/// Signs, and tells its public keys. The first key signs; the others are still, or already, good for verifying.
#[async_trait]
pub trait SigningService: Send + Sync {
    /// Each key in DER, as `SubjectPublicKeyInfo` or `RSAPublicKey`.
    async fn public_keys(&self) -> Result<Vec<Vec<u8>>, PortFault>;

    /// An RSASSA-PKCS1-v1_5 signature with SHA-256 under the first key.
    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, PortFault>;
}

struct Key {
    public: PublicKey,
    verifying: ParsedPublicKey,
}

#[derive(Default)]
struct Keys {
    known: Option<Arc<[Key]>>,
    reloaded_at: Option<Instant>,
}

/// Makes and verifies access tokens. Keys are read on first use and kept.
pub struct AccessTokens {
    service: Box<dyn SigningService>,
    issuer: Option<String>,
    keys: tokio::sync::Mutex<Keys>,
}

impl fmt::Debug for AccessTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessTokens").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    typ: String,
    kid: String,
    /// Extensions that a reader must understand; there are none that we do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crit: Option<Value>,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: UserId,
    aud: Audience,
    exp: i64,
    iat: i64,
    jti: String,
    client_id: ClientId,
    user_id: UserId,
    tenant_id: TenantId,
    scope: String,
    sid: FamilyId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate: Option<u32>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn names(&self, audience: &str) -> bool {
        match self {
            Self::One(name) => name == audience,
            Self::Many(names) => names.iter().any(|name| name == audience),
        }
    }
}

impl AccessTokens {
    /// With an `issuer`, only its tokens are valid. A deployment without a name of its own is known by several hosts, and its keys, which
    /// sign for nobody else, tell its tokens.
    #[must_use]
    pub fn new(service: Box<dyn SigningService>, issuer: Option<String>) -> Self {
        Self { service, issuer, keys: tokio::sync::Mutex::default() }
    }

    async fn keys(&self) -> Result<Arc<[Key]>, PortFault> {
        // The lock is held while keys are read, so that a burst of callers reads them once.
        let mut keys = self.keys.lock().await;
        match &keys.known {
            Some(known) => Ok(known.clone()),
            None => Ok(keys.known.insert(self.load().await?).clone()),
        }
    }

    /// The keys, read again for a token that names none of the known ones, if it was not done a moment ago.
    async fn keys_anew(&self) -> Result<Arc<[Key]>, PortFault> {
        let mut keys = self.keys.lock().await;
        if keys.reloaded_at.is_none_or(|at| at.elapsed() >= RELOAD) {
            keys.reloaded_at = Some(Instant::now());
            keys.known = Some(self.load().await?);
        }
        Ok(keys.known.clone().unwrap_or_default())
    }

    async fn load(&self) -> Result<Arc<[Key]>, PortFault> {
        let keys: Option<Vec<Key>> = self.service.public_keys().await?.iter().map(|der| Key::read(der)).collect();
        match keys {
            Some(keys) if !keys.is_empty() => Ok(keys.into()),
            _ => Err(broken("a public key is not an RSA key of 2048 bits or more")),
        }
    }
}

fn broken(detail: &str) -> PortFault {
    PortFault::Broken { operation: "signing", detail: detail.to_owned() }
}

impl Key {
    fn read(der: &[u8]) -> Option<Self> {
        let key = RsaPublicKey::from_der(der).ok()?;
        let (modulus, exponent) = numbers(key.as_ref())?;
        let (modulus, exponent) = (BASE64URL.encode(modulus), BASE64URL.encode(exponent));
        // RFC 7638: the members that matter, in order, without spaces.
        let thumbprint = format!(r#"{{"e":"{exponent}","kty":"RSA","n":"{modulus}"}}"#);
        let key_id = BASE64URL.encode(digest(&SHA256, thumbprint.as_bytes()));
        let verifying = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.as_ref()).ok()?;
        Some(Self { public: PublicKey { key_id, modulus, exponent }, verifying })
    }
}

/// The two numbers of an `RSAPublicKey` (RFC 8017, A.1.1): a SEQUENCE of two positive INTEGERs.
fn numbers(der: &[u8]) -> Option<(&[u8], &[u8])> {
    const INTEGER: u8 = 0x02;
    const SEQUENCE: u8 = 0x30;
    let (key, _) = element(der, SEQUENCE)?;
    let (modulus, rest) = element(key, INTEGER)?;
    let (exponent, _) = element(rest, INTEGER)?;
    // A zero in front keeps a number positive.
    let unsigned = |number: &'_ [u8]| number.iter().take_while(|byte| **byte == 0).count();
    Some((modulus.get(unsigned(modulus)..)?, exponent.get(unsigned(exponent)..)?))
}

/// The content of the first DER element, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, der) = der.split_first()?;
    let (first, der) = der.split_first()?;
    let (length, der) = match usize::from(*first) {
        short @ ..0x80 => (short, der),
        long => {
            let (length, der) = der.split_at_checked(long - 0x80)?;
            (length.iter().try_fold(0_usize, |sum, byte| sum.checked_mul(256)?.checked_add((*byte).into()))?, der)
        }
    };
    (*found == tag).then(|| der.split_at_checked(length))?
}

fn part(value: &impl Serialize) -> Result<String, PortFault> {
    let json = serde_json::to_vec(value).map_err(|_| broken("a token does not serialize"))?;
    Ok(BASE64URL.encode(json))
}

#[async_trait]
impl TokenSigner for AccessTokens {
    async fn sign(&self, token: &AccessToken) -> Result<SecretString, PortFault> {
        let keys = self.keys().await?;
        let key = keys.first().ok_or_else(|| broken("there is no key"))?;
        let header = json!({ "alg": ALGORITHM, "typ": TYPE, "kid": key.public.key_id });
        let caller = &token.caller;
        let claims = Claims {
            iss: token.issuer.clone(),
            sub: caller.user_id.clone(),
            aud: Audience::One(AUDIENCE.to_owned()),
            exp: caller.expires_at.unix_timestamp(),
            iat: token.issued_at.unix_timestamp(),
            jti: token.token_id.clone(),
            client_id: caller.client_id.clone(),
            user_id: caller.user_id.clone(),
            tenant_id: caller.tenant_id.clone(),
            scope: Scope::join(&caller.scopes),
            sid: caller.session_id.clone(),
            rate: caller.rate,
        };
        let message = format!("{}.{}", part(&header)?, part(&claims)?);
        let signature = self.service.sign(message.as_bytes()).await?;
        Ok(format!("{message}.{}", BASE64URL.encode(signature)).into())
    }

    async fn public_keys(&self) -> Result<Vec<PublicKey>, PortFault> {
        Ok(self.keys().await?.iter().map(|key| key.public.clone()).collect())
    }
}

/// A part of a token: base64url of JSON, and nothing but.
fn read<'t, T: Deserialize<'t>>(part: &str, json: &'t mut Vec<u8>) -> Result<T, AccessFault> {
    *json = BASE64URL.decode(part).map_err(|_| AccessFault::Invalid)?;
    serde_json::from_slice(json).map_err(|_| AccessFault::Invalid)
}

#[async_trait]
impl AccessTokenVerifier for AccessTokens {
    async fn verify(&self, token: &str, now: OffsetDateTime) -> Result<Caller, AccessFault> {
        if token.len() > TOKEN_BYTES {
            return Err(AccessFault::Invalid);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(AccessFault::Invalid)?;
        let (header, claims) = message.split_once('.').ok_or(AccessFault::Invalid)?;
        let header: Header = read(header, &mut Vec::new())?;
        let typ = header.typ.to_ascii_lowercase();
        let ours = header.alg == ALGORITHM && typ.strip_prefix("application/").unwrap_or(&typ) == TYPE;
        if !ours || header.crit.is_some() {
            return Err(AccessFault::Invalid);
        }
        let signature = BASE64URL.decode(signature).map_err(|_| AccessFault::Invalid)?;

        let named = |keys: &[Key]| keys.iter().position(|key| key.public.key_id == header.kid);
        let mut keys = self.keys().await.map_err(AccessFault::Keys)?;
        if named(&keys).is_none() {
            keys = self.keys_anew().await.map_err(AccessFault::Keys)?;
        }
        let key = named(&keys).and_then(|at| keys.get(at)).ok_or(AccessFault::Invalid)?;
        key.verifying.verify_sig(message.as_bytes(), &signature).map_err(|_| AccessFault::Invalid)?;

        let claims: Claims = read(claims, &mut Vec::new())?;
        let foreign = self.issuer.as_ref().is_some_and(|issuer| *issuer != claims.iss);
        let early = claims.iat > (now + LEEWAY).unix_timestamp();
        if foreign || early || !claims.aud.names(AUDIENCE) {
            return Err(AccessFault::Invalid);
        }
        let expires_at = OffsetDateTime::from_unix_timestamp(claims.exp).map_err(|_| AccessFault::Invalid)?;
        if now >= expires_at + LEEWAY {
            return Err(AccessFault::Expired);
        }
        Ok(Caller {
            client_id: claims.client_id,
            user_id: claims.user_id,
            tenant_id: claims.tenant_id,
            // A scope that this version does not know opens nothing.
            scopes: claims.scope.split(' ').filter_map(Scope::parse).collect(),
            session_id: claims.sid,
            expires_at,
            rate: claims.rate,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use secrecy::ExposeSecret as _;
    use time::macros::datetime;

    use super::*;
    use crate::SigningKeyFiles;

    const NOW: OffsetDateTime = datetime!(2026-11-21 09:00 UTC);
    const ISSUER: &str = "https://skylark.example";

    /// Keys take a moment to make; every test has the same three.
    static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            SigningKeyFiles::create_if_missing(&folder.path().join(name)).unwrap();
        }
        folder
    });

    fn files(names: &[&str]) -> SigningKeyFiles {
        let paths: Vec<_> = names.iter().map(|name| FOLDER.path().join(name)).collect();
        SigningKeyFiles::read(&paths).unwrap()
    }

    fn tokens(names: &[&str]) -> AccessTokens {
        AccessTokens::new(Box::new(files(names)), Some(ISSUER.to_owned()))
    }

    fn token() -> AccessToken {
        let caller = Caller {
            client_id: ClientId::parse("c1").unwrap(),
            user_id: UserId::parse("ann").unwrap(),
            tenant_id: TenantId::parse("t1").unwrap(),
            scopes: BTreeSet::from([Scope::Chat, Scope::LakeRead]),
            session_id: FamilyId::parse("6f9619ff-8b86-4d01-b42d-00cf4fc964ff").unwrap(),
            expires_at: NOW + Duration::from_secs(900),
            rate: Some(7),
        };
        AccessToken { issuer: ISSUER.to_owned(), caller, issued_at: NOW, token_id: "j1".to_owned() }
    }

    async fn signed(tokens: &AccessTokens) -> String {
        tokens.sign(&token()).await.unwrap().expose_secret().to_owned()
    }

    fn json(part: &str) -> Value {
        serde_json::from_slice(&BASE64URL.decode(part).unwrap()).unwrap()
    }

    /// A token of these parts, signed with key `a` unless a signature is given.
    async fn made(header: &Value, claims: &Value, signature: Option<&str>) -> String {
        let message = format!("{}.{}", part(header).unwrap(), part(claims).unwrap());
        let signature = match signature {
            Some(signature) => signature.to_owned(),
            None => BASE64URL.encode(files(&["a"]).sign(message.as_bytes()).await.unwrap()),
        };
        format!("{message}.{signature}")
    }

    #[tokio::test]
    async fn a_token_says_whom_it_speaks_for_in_the_claims_of_rfc_9068() {
        let tokens = tokens(&["a"]);
        let text = signed(&tokens).await;
        assert_eq!(tokens.verify(&text, NOW).await.unwrap(), token().caller);
        let parts: Vec<&str> = text.split('.').collect();
        let key_id = tokens.public_keys().await.unwrap()[0].key_id.clone();
        assert_eq!(json(parts[0]), json!({ "alg": "RS256", "typ": "at+jwt", "kid": key_id }));
        let expected = json!({
            "iss": ISSUER, "sub": "ann", "aud": "skylark", "iat": NOW.unix_timestamp(), "jti": "j1",
            "exp": NOW.unix_timestamp() + 900, "client_id": "c1", "user_id": "ann", "tenant_id": "t1",
            "scope": "chat lake:read", "sid": "6f9619ff-8b86-4d01-b42d-00cf4fc964ff", "rate": 7,
        });
        assert_eq!(json(parts[1]), expected);
    }

    #[tokio::test]
    async fn a_token_lives_its_time_and_thirty_seconds() {
        let tokens = tokens(&["a"]);
        let text = signed(&tokens).await;
        let at = |seconds: i64| NOW + time::Duration::seconds(seconds);
        for good in [-30, 0, 899, 929] {
            assert!(tokens.verify(&text, at(good)).await.is_ok(), "{good}");
        }
        assert!(matches!(tokens.verify(&text, at(930)).await, Err(AccessFault::Expired)));
        assert!(matches!(tokens.verify(&text, at(-31)).await, Err(AccessFault::Invalid)));
    }

    #[tokio::test]
    async fn a_changed_token_is_refused_wherever_it_was_changed() {
        let tokens = tokens(&["a"]);
        let text = signed(&tokens).await;
        for at in (0..text.len()).step_by(7).chain([text.len() - 1]) {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(matches!(tokens.verify(&changed, NOW).await, Err(AccessFault::Invalid)), "character {at}");
        }
        let long = "a".repeat(TOKEN_BYTES + 1);
        for bad in ["", ".", "..", "a.b.c", &format!("{text}="), &format!("{text}."), &text.replace('.', ""), &long] {
            assert!(matches!(tokens.verify(bad, NOW).await, Err(AccessFault::Invalid)), "{bad}");
        }
    }

    #[tokio::test]
    async fn no_header_talks_the_verifier_into_another_algorithm_or_kind() {
        let tokens = tokens(&["a"]);
        let text = signed(&tokens).await;
        let parts: Vec<&str> = text.split('.').collect();
        let (header, claims) = (json(parts[0]), json(parts[1]));
        assert!(tokens.verify(&made(&header, &claims, None).await, NOW).await.is_ok());
        let with = |name: &str, value: Value| {
            let mut header = header.clone();
            header[name] = value;
            header
        };
        for (name, value) in [
            ("alg", json!("none")),
            ("alg", json!("HS256")),
            ("alg", json!("RS512")),
            ("alg", json!("rs256")),
            ("typ", json!("JWT")),
            ("typ", Value::Null),
            ("kid", json!("another")),
            ("kid", Value::Null),
            ("crit", json!(["exp"])),
        ] {
            let header = with(name, value);
            for signature in [None, Some(""), Some(parts[2])] {
                let text = made(&header, &claims, signature).await;
                assert!(matches!(tokens.verify(&text, NOW).await, Err(AccessFault::Invalid)), "{header}");
            }
        }
    }

    #[tokio::test]
    async fn a_token_for_or_from_somebody_else_is_refused() {
        let tokens = tokens(&["a"]);
        let text = signed(&tokens).await;
        let parts: Vec<&str> = text.split('.').collect();
        let (header, claims) = (json(parts[0]), json(parts[1]));
        for (name, value) in [
            ("aud", json!("other")),
            ("aud", json!(["other"])),
            ("iss", json!("https://other.example")),
            ("exp", json!("soon")),
            ("exp", Value::Null),
            ("sub", json!("a#b")),
            ("sid", json!("x")),
        ] {
            let mut claims = claims.clone();
            claims[name] = value;
            let text = made(&header, &claims, None).await;
            assert!(matches!(tokens.verify(&text, NOW).await, Err(AccessFault::Invalid)), "{claims}");
        }
        let mut claims = claims;
        claims["aud"] = json!(["other", "skylark"]);
        assert!(tokens.verify(&made(&header, &claims, None).await, NOW).await.is_ok());
    }

    #[tokio::test]
    async fn keys_overlap_while_they_change() {
        let (old, both, new) = (tokens(&["a"]), tokens(&["b", "a"]), tokens(&["b"]));
        let (before, after) = (signed(&old).await, signed(&both).await);
        assert_eq!(both.public_keys().await.unwrap().len(), 2);
        assert!(both.verify(&before, NOW).await.is_ok() && both.verify(&after, NOW).await.is_ok());
        assert!(new.verify(&after, NOW).await.is_ok());
        assert!(matches!(new.verify(&before, NOW).await, Err(AccessFault::Invalid)));
    }

    /// Keys that change behind the verifier's back, and how often they were read.
    struct Changing(Arc<AtomicU32>);

    #[async_trait]
    impl SigningService for Changing {
        async fn public_keys(&self) -> Result<Vec<Vec<u8>>, PortFault> {
            let read = self.0.fetch_add(1, Ordering::SeqCst);
            files(if read == 0 { &["a"] } else { &["a", "b"] }).public_keys().await
        }

        async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, PortFault> {
            files(&["a"]).sign(message).await
        }
    }

    #[tokio::test]
    async fn an_unknown_key_has_the_keys_read_again_once() {
        let reads = Arc::new(AtomicU32::new(0));
        let verifier = AccessTokens::new(Box::new(Changing(reads.clone())), None);
        let [a, b, c] = [signed(&tokens(&["a"])).await, signed(&tokens(&["b"])).await, signed(&tokens(&["c"])).await];
        assert!(verifier.verify(&a, NOW).await.is_ok());
        assert!(verifier.verify(&b, NOW).await.is_ok(), "a key that is new");
        for _ in 0..20 {
            assert!(matches!(verifier.verify(&c, NOW).await, Err(AccessFault::Invalid)));
        }
        assert_eq!(reads.load(Ordering::SeqCst), 2, "whatever is sent");
    }
}
