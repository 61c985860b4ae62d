//! lambda-kit
