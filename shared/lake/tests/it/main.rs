//! The lake over the local S3, through a socket that fails at will, and over a folder; and what other readers of Delta make of it.

mod crash;
mod evolution;
mod judges;
mod log;
mod maintenance;
mod races;
mod support;
