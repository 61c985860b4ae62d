//! S3 over real sockets, files and SQLite, as an AWS SDK and a plain HTTP client see it.
#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod crash;
mod events;
mod listing;
mod multipart;
mod objects;
mod presigned;
mod support;
