//! A function that does what the path, or the message, says: for drills of what AWS shows when a function misbehaves.
#![expect(clippy::panic, reason = "it misbehaves on purpose")]

use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_runtime::run(service_fn(drill)).await
}

async fn drill(event: LambdaEvent<Value>) -> Result<Value, Error> {
    let event = event.payload;
    let told = event.pointer("/pathParameters/what").or_else(|| event.pointer("/Records/0/body"));
    match told.and_then(Value::as_str).unwrap_or_default() {
        "panic" => panic!("told to"),
        "exit" => std::process::exit(3),
        "hang" => std::future::pending().await,
        "fail" => Err("told to".into()),
        _ => Ok(json!({ "statusCode": 200, "body": "fine" })),
    }
}
