//! The checksums SQS answers with, which SDKs compare with their own.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};

use super::MessageAttribute;

pub(super) fn of_body(body: &str) -> String {
    hex::encode(Md5::digest(body))
}

/// `None` without attributes, as AWS leaves the field out.
pub(super) fn of_attributes(attributes: &BTreeMap<String, MessageAttribute>) -> Option<String> {
    if attributes.is_empty() {
        return None;
    }
    let mut encoded = Vec::new();
    for (name, attribute) in attributes {
        put(&mut encoded, name.as_bytes());
        put(&mut encoded, attribute.data_type.as_bytes());
        match &attribute.binary_value {
            Some(binary) => {
                encoded.push(2);
                put(&mut encoded, &STANDARD.decode(binary).unwrap_or_default());
            }
            None => {
                encoded.push(1);
                put(&mut encoded, attribute.string_value.as_deref().unwrap_or_default().as_bytes());
            }
        }
    }
    Some(hex::encode(Md5::digest(encoded)))
}

fn put(encoded: &mut Vec<u8>, bytes: &[u8]) {
    encoded.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    encoded.extend(bytes);
}
