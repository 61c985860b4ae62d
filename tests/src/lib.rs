//! What the tests of the whole project share.

#[expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what does not run ends the test")]
pub mod bundle;
#[expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what does not run ends the test"
)]
pub mod chat;
#[expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what is not as described ends the test"
)]
pub mod description;
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what does not run ends the test")]
pub mod files;
#[expect(clippy::unwrap_used, reason = "what does not run ends the test")]
pub mod lake;
pub mod workspace;
pub mod yaml;
