//! Prints the document, for tools that read a file: `cargo run --package openapi --example print_document > openapi.json`.
#![expect(clippy::print_stdout, reason = "an example prints")]

fn main() {
    println!("{}", openapi::DOCUMENT);
}
