//! Prints what one card click costs the receiver in CPU time: verify, decrypt, parse. Build it optimised; the figure means nothing otherwise.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for people, over a constant input")]

use std::hint::black_box;
use std::time::Instant;

use lark::callback::{Keys, SignatureHeaders, open};
use lark::signature::{decrypt, verify_sha256};
use serde_json::Value;

/// Short samples, many of them: the best one was not interrupted by another process.
const ROUNDS: u32 = 100;
const SAMPLES: usize = 3_000;

fn main() {
    let vectors: Value = serde_json::from_str(include_str!("../tests/lark-vectors.json")).unwrap();
    let click = vectors.pointer("/end_to_end/3").unwrap();
    let field = |name: &str| click.get(name).and_then(Value::as_str).unwrap();
    let body = field("raw_body").as_bytes();
    let key = field("encrypt_key");
    let outer: Value = serde_json::from_slice(body).unwrap();
    let cipher = outer.get("encrypt").and_then(Value::as_str).unwrap();
    let keys = Keys {
        app_id: "cli_a1b2c3d4e5f60001".to_owned(),
        encrypt_key: Some(key.into()),
        verification_token: field("verification_token").into(),
    };
    let headers = SignatureHeaders {
        timestamp: Some(field("timestamp")),
        nonce: Some(field("nonce")),
        signature: Some(field("x_lark_signature")),
        refresh_token: None,
    };
    let signature = field("x_lark_signature");

    println!("{} bytes, best of {SAMPLES} x {ROUNDS} rounds", body.len());
    report("verify", || verify_sha256(signature, field("timestamp"), field("nonce"), key, black_box(body)));
    report("decrypt", || decrypt(key, black_box(cipher)).is_ok());
    report("verify + decrypt + parse", || open(&keys, &headers, black_box(body)).is_ok());
}

fn report(name: &str, work: impl Fn() -> bool) {
    let nanoseconds = (0..SAMPLES)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..ROUNDS {
                assert!(work());
            }
            start.elapsed().as_nanos() / u128::from(ROUNDS)
        })
        .min()
        .unwrap_or_default();
    println!("{name}: {nanoseconds} ns");
}
