//! What tests of files need: bytes to send, and what S3 saw of them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::bundle::Bundle;

/// Bytes that differ from one another, the same every time.
#[must_use]
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
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

/// How many requests S3 had, by operation.
pub async fn s3_requests(bundle: &Bundle) -> BTreeMap<String, u64> {
    let url = format!("{}/_skylark/status", bundle.setting("/aws_endpoint"));
    let status: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
    serde_json::from_value(status["s3"].clone()).unwrap()
}
