//! A function that does what the path, or the message, says: for drills of what AWS shows when a function misbehaves.
#![expect(clippy::panic, reason = "it misbehaves on purpose")]

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_runtime::run(service_fn(drill)).await
}

async fn drill(event: LambdaEvent<Value>) -> Result<Value, Error> {
    let event = event.payload;
    let told = event.pointer("/pathParameters/what").or_else(|| event.pointer("/Records/0/body"));
    let told = told.and_then(Value::as_str).unwrap_or_default();
    if let Some((folder, line)) = told.strip_prefix("mended:").and_then(|rest| rest.split_once('|')) {
        return note(Path::new(folder), line);
    }
    match told {
        "panic" => panic!("told to"),
        "exit" => std::process::exit(3),
        "hang" => std::future::pending().await,
        "fail" => Err("told to".into()),
        _ => Ok(json!({ "statusCode": 200, "body": "fine" })),
    }
}

/// Fails until the folder holds a file `mended`, and then adds the line to its file `done`.
fn note(folder: &Path, line: &str) -> Result<Value, Error> {
    File::open(folder.join("mended"))?;
    let mut done = File::options().create(true).append(true).open(folder.join("done"))?;
    done.write_all(format!("{line}\n").as_bytes())?;
    Ok(json!({}))
}
