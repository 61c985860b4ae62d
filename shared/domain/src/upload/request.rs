//! What clients ask for.

use std::collections::BTreeMap;

use crate::id::ConversationId;
use crate::upload::checksum::{Crc64, Sha256};
use crate::upload::plan::ChunkPlan;

/// How many URLs an upload begins with.
pub const FIRST_URLS: u32 = 20;

/// How many URLs one request gets.
pub const URLS_AT_ONCE: usize = 100;

/// An upload that is to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Initiate {
    pub conversation_id: ConversationId,
    pub filename: String,
    pub mime_type: String,
    pub chunks: ChunkPlan,
    pub checksum_crc64nvme: Option<Crc64>,
    pub checksum_sha256: Option<Sha256>,
    /// Of the first chunks, whose URLs come with the answer.
    pub checksums: BTreeMap<u32, Crc64>,
}

/// A chunk whose URL is asked for, with its checksum if the client tells it.
pub type WantedChunk = (u32, Option<Crc64>);
