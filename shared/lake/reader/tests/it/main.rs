//! What queries answer, against a model that holds all rows in memory and reads no file.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests fail the test")]

mod messages;
mod requests;
mod support;
mod upkeep;
