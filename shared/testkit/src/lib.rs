//! For tests only: the domain's ports in memory, and the contract that every adapter must keep as they do.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a broken contract ends the test")]

pub mod contract;
mod memory;
pub mod sample;

pub use memory::{MemoryBus, MemoryLimiter, MemoryQueue, MemoryTable, PlainSealer};
