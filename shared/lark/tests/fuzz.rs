//! Feeds [`lark::callback::open`] with pushes that are right but for a few changes, at every layer: plaintext, ciphertext, envelope, headers.
//!
//! `cargo test -p lark --test fuzz -- --seconds 60` runs for a minute, without arguments it is two seconds. A failure names its seed;
//! `--seed N` begins with that very case.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test without a harness"
)]

use std::hash::{BuildHasher as _, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use lark::callback::{Callback, CallbackError, Keys, SignatureHeaders, open};
use lark::event::Payload;
use lark::signature::{decrypt, encrypt, sha1_hex, sha256_hex, verify_sha1, verify_sha256};
use serde_json::{Value, json};

const APP: &str = "cli_a1b2c3d4e5f60001";
const KEY: &str = "kudryavka-Encrypt-Key-01";
const TOKEN: &str = "vtok_Example0123456789abcdefgh";
const TIMESTAMP: &str = "1700000000";
const NONCE: &str = "n0nce-abc123";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let argument = |name: &str| {
        let value = arguments.iter().skip_while(|argument| *argument != name).nth(1)?;
        Some(value.parse::<u64>().unwrap_or_else(|_| panic!("{name} needs a number")))
    };
    let end = Instant::now() + Duration::from_secs(argument("--seconds").unwrap_or(2));
    let first = argument("--seed").unwrap_or_else(|| RandomState::new().hash_one("seed") >> 1);
    let seeds = Seeds::new();

    let (mut cases, mut accepted) = (0_u64, 0_u64);
    while cases == 0 || Instant::now() < end {
        let seed = first.wrapping_add(cases);
        match catch_unwind(AssertUnwindSafe(|| check(&seeds, &mut Random(seed)))) {
            Ok(one) => accepted += u64::from(one),
            Err(panic) => {
                println!("failed; repeat it with: cargo test -p lark --test fuzz -- --seed {seed}");
                resume_unwind(panic)
            }
        }
        cases += 1;
    }
    // A fuzzer whose every push is refused at the door tests the door alone.
    assert!(cases < 1_000 || accepted * 50 > cases, "only {accepted} of {cases} pushes were accepted");
    println!("{cases} pushes from seed {first}, {accepted} of them accepted");
}

/// One push, what must hold for it, and whether it was accepted.
fn check(seeds: &Seeds, random: &mut Random) -> bool {
    let plain = seeds.body(random);
    let app = App::of(random);
    let push = Push::of(&app, &plain, random);
    let keys = app.keys();
    let result = open(&keys, &push.headers(), &push.body);
    assert_eq!(result.is_ok(), open(&keys, &push.headers(), &push.body).is_ok(), "the same push, the same answer");

    let key = app.encrypt_key.unwrap_or_default();
    assert_eq!(decrypt(key, &encrypt(key, random.block(), &plain)).as_deref(), Ok(plain.as_slice()));

    match result {
        Ok(callback) => {
            must_be_ours(&app, &push, &callback);
            true
        }
        Err(error) => {
            assert!(matches!(error.status(), 400 | 401 | 403));
            if let CallbackError::Forbidden { app_id } = &error {
                assert!(*app_id != APP, "our own app is never another one");
            }
            false
        }
    }
}

/// Whatever is accepted was proved by a secret of the app, and is this app's.
fn must_be_ours(app: &App, push: &Push, callback: &Callback) {
    let signed = push.is_signed_by(app);
    let token_known = || {
        let plain = app.encrypt_key.and_then(|key| push.opened(key)).unwrap_or_else(|| push.body.clone());
        String::from_utf8_lossy(&plain).contains(TOKEN) || push.opened_text_has_escapes(app)
    };
    match callback {
        Callback::Challenge { challenge } => {
            assert!(!challenge.is_empty());
            assert!(token_known(), "a URL check is proved by its token");
        }
        Callback::CardAction(click) => {
            assert_eq!(click.app_id, APP);
            assert!(!click.event_id.is_empty() && !click.operator.open_id.is_empty() && !click.action.tag.is_empty());
            assert!(if click.old { signed } else { token_known() && (signed || app.encrypt_key.is_none()) });
            let kept = serde_json::to_string(click).unwrap();
            assert_eq!(serde_json::from_str::<lark::callback::CardAction>(&kept).unwrap(), **click);
        }
        Callback::Event(event) => {
            assert_eq!(event.app_id, APP);
            assert!(!event.id.is_empty() && !event.event_type.is_empty() && !event.dedupe_key().is_empty());
            assert!(token_known() && (signed || app.encrypt_key.is_none()));
            if let Ok(Payload::Message(message)) = event.payload() {
                drop(message.text());
            }
            let kept = serde_json::to_string(event).unwrap();
            let read: lark::event::Event = serde_json::from_str(&kept).unwrap();
            assert_eq!((read.id, read.body.get()), (event.id.clone(), event.body.get()));
        }
    }
}

/// An app with an encrypt key, or with its token alone.
struct App {
    encrypt_key: Option<&'static str>,
}

impl App {
    fn of(random: &mut Random) -> Self {
        Self { encrypt_key: (!random.one_in(4)).then_some(KEY) }
    }

    fn keys(&self) -> Keys {
        Keys { app_id: APP.to_owned(), encrypt_key: self.encrypt_key.map(Into::into), verification_token: TOKEN.into() }
    }
}

/// A request as it arrives.
struct Push {
    body: Vec<u8>,
    timestamp: Option<String>,
    nonce: Option<String>,
    signature: Option<String>,
    refresh_token: Option<String>,
}

impl Push {
    fn of(app: &App, plain: &[u8], random: &mut Random) -> Self {
        let mut body = match app.encrypt_key {
            Some(key) if !random.one_in(8) => envelope(key, plain, random),
            _ => plain.to_vec(),
        };
        let (timestamp, nonce) = (TIMESTAMP.to_owned(), NONCE.to_owned());
        // Before it is signed, what the vendor might send; afterwards, what somebody else might.
        if random.one_in(12) {
            random.damage(&mut body);
        }
        let secret = if random.one_in(12) { "another secret" } else { app.encrypt_key.unwrap_or(TOKEN) };
        let signature = if app.encrypt_key.is_none() || random.one_in(8) {
            let token = if random.one_in(12) { "another token" } else { TOKEN };
            sha1_hex(&timestamp, &nonce, token, &body)
        } else {
            sha256_hex(&timestamp, &nonce, secret, &body)
        };
        let mut push = Self {
            body,
            timestamp: Some(timestamp),
            nonce: Some(nonce),
            signature: Some(signature),
            refresh_token: random.one_in(3).then(|| "c-refresh".to_owned()),
        };
        if random.one_in(6) {
            push.tamper(random);
        }
        push
    }

    fn tamper(&mut self, random: &mut Random) {
        let header = match random.below(6) {
            0 => return random.damage(&mut self.body),
            1 => &mut self.timestamp,
            2 => &mut self.nonce,
            _ => &mut self.signature,
        };
        *header = match random.below(4) {
            0 => None,
            1 => Some(String::new()),
            2 => header.as_ref().map(|text| text.to_ascii_uppercase()),
            _ => header.take().map(|text| {
                let mut bytes = text.into_bytes();
                random.damage(&mut bytes);
                String::from_utf8_lossy(&bytes).into_owned()
            }),
        };
    }

    fn headers(&self) -> SignatureHeaders<'_> {
        SignatureHeaders {
            timestamp: self.timestamp.as_deref(),
            nonce: self.nonce.as_deref(),
            signature: self.signature.as_deref(),
            refresh_token: self.refresh_token.as_deref(),
        }
    }

    /// Whether the headers prove these very bytes with one of the app's secrets, reckoned anew.
    fn is_signed_by(&self, app: &App) -> bool {
        let text = |header: &Option<String>| header.clone().unwrap_or_default();
        let (timestamp, nonce, signature) = (text(&self.timestamp), text(&self.nonce), text(&self.signature));
        app.encrypt_key.is_some_and(|key| verify_sha256(&signature, &timestamp, &nonce, key, &self.body))
            || verify_sha1(&signature, &timestamp, &nonce, TOKEN, &self.body)
    }

    /// The body inside the envelope, if there is one.
    fn opened(&self, key: &str) -> Option<Vec<u8>> {
        let outer: Value = serde_json::from_slice(&self.body).ok()?;
        decrypt(key, outer.get("encrypt")?.as_str()?).ok()
    }

    /// A token may be written with escapes, which a search for its letters does not see.
    fn opened_text_has_escapes(&self, app: &App) -> bool {
        let plain = app.encrypt_key.and_then(|key| self.opened(key)).unwrap_or_else(|| self.body.clone());
        plain.windows(2).any(|pair| pair == b"\\u")
    }
}

/// Encrypted as the vendor does it, or nearly so.
fn envelope(key: &str, plain: &[u8], random: &mut Random) -> Vec<u8> {
    let key = if random.one_in(20) { "another key" } else { key };
    let mut cipher = encrypt(key, random.block(), plain).into_bytes();
    if random.one_in(10) {
        random.damage(&mut cipher);
    }
    let cipher = String::from_utf8_lossy(&cipher).into_owned();
    let outer = match random.below(16) {
        0 => json!({ "encrypt": [cipher] }),
        1 => json!({ "encrypt": cipher, "type": "url_verification", "token": TOKEN, "challenge": "x" }),
        2 => json!({ "encrypt": cipher, "schema": "2.0", "header": { "app_id": "cli_other", "token": TOKEN } }),
        _ => json!({ "encrypt": cipher }),
    };
    outer.to_string().into_bytes()
}

/// Bodies to begin with: the vendor's own, and one of each other shape.
struct Seeds(Vec<Value>);

impl Seeds {
    fn new() -> Self {
        let vectors: Value = serde_json::from_str(include_str!("lark-vectors.json")).unwrap();
        let texts = ["decrypt", "end_to_end"].into_iter().flat_map(|list| vectors[list].as_array().unwrap());
        let texts = texts.filter_map(|vector| vector["plaintext"].as_str().or(vector["expect"]["plaintext"].as_str()));
        let mut bodies: Vec<Value> = texts.filter_map(|text| serde_json::from_str(text).ok()).collect();
        let header =
            |event_type: &str| json!({ "event_id": "e1", "event_type": event_type, "token": TOKEN, "app_id": APP });
        bodies.extend([
            json!({ "type": "url_verification", "challenge": "挑战 🏔", "token": TOKEN }),
            json!({ "schema": "2.0", "header": header("im.message.receive_v1"), "event": {
                "sender": { "sender_id": { "open_id": "ou_1" }, "sender_type": "user" },
                "message": { "message_id": "om_1", "chat_id": "oc_1", "chat_type": "group", "message_type": "text",
                    "content": "{\"text\":\"@_user_1 你好 @_user_10 🙂\"}", "create_time": "1700000000000",
                    "mentions": [{ "key": "@_user_1", "name": "安", "id": { "open_id": "ou_2" } }] } } }),
            json!({ "schema": "2.0", "header": header("app_ticket"), "event": { "app_ticket": "t-1" } }),
            json!({ "uuid": "u1", "token": TOKEN, "ts": "1700000000.5", "type": "event_callback",
                "event": { "type": "app_open", "app_id": APP, "tenant_key": "t1" } }),
            json!({ "open_id": "ou_1", "token": "c-1", "open_message_id": "om_1", "tenant_key": "t1",
                "action": { "tag": "button", "value": { "k": "v" }, "timezone": "Asia/Shanghai" } }),
        ]);
        Self(bodies)
    }

    /// One of them, with some of its pieces replaced, moved or removed, and sometimes its bytes damaged.
    fn body(&self, random: &mut Random) -> Vec<u8> {
        let mut body = self.0[random.below(self.0.len())].clone();
        for _ in 0..random.below(4) {
            let piece = self.piece(random);
            *pick(&mut body, random) = piece;
        }
        let mut bytes = body.to_string().into_bytes();
        if random.one_in(10) {
            random.damage(&mut bytes);
        }
        bytes
    }

    fn piece(&self, random: &mut Random) -> Value {
        match random.below(12) {
            0 => Value::Null,
            1 => json!(random.next() as i64),
            2 => json!(f64::from_bits(random.next())),
            3 => json!(random.one_in(2)),
            4 => json!([]),
            5 => json!({}),
            6 => json!(""),
            7 => json!("cli_other"),
            8 => json!("card.action.trigger"),
            9 => json!("a\u{0}\n\"\\ é 你好 👨‍👩‍👧‍👦 \u{2028}"),
            10 => json!("x".repeat(random.below(5_000))),
            _ => pick(&mut self.0[random.below(self.0.len())].clone(), random).clone(),
        }
    }
}

/// Any value inside a body, the deeper the likelier.
fn pick<'v>(value: &'v mut Value, random: &mut Random) -> &'v mut Value {
    let inner = match &*value {
        Value::Object(fields) => fields.len(),
        Value::Array(items) => items.len(),
        _ => 0,
    };
    if inner == 0 || random.one_in(4) {
        return value;
    }
    let chosen = random.below(inner);
    let next = match value {
        Value::Object(fields) => fields.values_mut().nth(chosen),
        Value::Array(items) => items.get_mut(chosen),
        _ => None,
    };
    pick(next.unwrap(), random)
}

/// SplitMix64: small, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap()
    }

    fn one_in(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    fn block(&mut self) -> [u8; 16] {
        let (high, low) = (self.next().to_le_bytes(), self.next().to_le_bytes());
        std::array::from_fn(|at| if at < 8 { high[at] } else { low[at - 8] })
    }

    /// Changes, inserts, removes, repeats or cuts a few bytes.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len());
            match self.below(6) {
                0 | 1 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                2 => bytes.insert(at, self.next() as u8),
                3 if !bytes.is_empty() => drop(bytes.remove(at)),
                4 => bytes.truncate(at),
                _ => {
                    let piece = bytes[at..bytes.len().min(at + self.below(32))].to_vec();
                    bytes.extend(piece);
                }
            }
        }
    }
}
