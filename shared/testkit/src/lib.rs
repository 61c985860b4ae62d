//! For tests only: the domain's ports in memory, and the contract that every adapter must keep as they do.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a broken contract ends the test"
)]

mod clock;
pub mod contract;
pub mod contract_channels;
pub mod contract_chat;
pub mod contract_lake;
pub mod contract_sockets;
pub mod contract_tokens;
pub mod contract_uploads;
pub mod delivery;
mod memory;
mod memory_auth;
mod memory_channels;
mod memory_chat;
mod memory_lake;
mod memory_sockets;
mod memory_tokens;
mod memory_uploads;
mod python;
pub mod sample;
mod vendor;

pub use clock::{CountingIds, ManualClock};
pub use memory::{EarlierSealer, MemoryBus, MemoryLimiter, MemoryQueue, MemoryTable, PlainSealer};
pub use memory_auth::{MemoryAuth, MemoryTokens, PlainRefreshSeal};
pub use memory_channels::{MemoryBells, MemoryChannels, MemoryOutlet, Receiver};
pub use memory_chat::MemoryChat;
pub use memory_lake::{MemoryGate, MemoryIntakes, MemorySources};
pub use memory_sockets::{MemoryPushQueue, MemoryRoom, MemorySockets};
pub use memory_uploads::{LostAnswer, MemoryBucket, MemoryMergeQueue, MemoryUploads};
pub use python::python;
pub use vendor::MemoryVendor;
