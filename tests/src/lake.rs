//! A bundle's lake, as any reader of Delta sees it.

use lake::{Lake, Settings};

use crate::bundle::Bundle;

#[must_use]
pub fn lake(bundle: &Bundle) -> Lake {
    let setting = |name: &str| match name {
        "AWS_ACCESS_KEY_ID" => Some(bundle.setting("/access_key_id").to_owned()),
        "AWS_SECRET_ACCESS_KEY" => Some(bundle.setting("/secret_access_key").to_owned()),
        "AWS_REGION" => Some(bundle.setting("/region").to_owned()),
        "AWS_ENDPOINT_URL" => Some(bundle.setting("/aws_endpoint").to_owned()),
        _ => None,
    };
    Lake::open(&Settings::bucket(bundle.setting("/buckets/LakeBucket"), &setting).unwrap()).unwrap()
}
