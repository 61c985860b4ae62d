//! What the HTTP API takes and answers, as OpenAPI 3.1: `document.json` says what it is, `components.json` what operations share, and
//! `paths/<function>.json` the operations of one function by path, with components of its own under `components`. The build merges
//! them, and fails where two files describe the same thing.

/// The whole document, JSON.
pub const DOCUMENT: &str = include_str!(concat!(env!("OUT_DIR"), "/openapi.json"));
