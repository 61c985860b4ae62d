//! A function for tests, made with `lambda_runtime`: it does what the event says.

#![expect(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "it misbehaves on purpose, and what it prints is what is tested"
)]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use lambda_runtime::tower::layer::layer_fn;
use lambda_runtime::{Error, LambdaEvent, LambdaInvocation, Runtime, Service, service_fn};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Action {
    Echo {
        value: Value,
    },
    /// Who am I, and what was I told?
    Describe,
    Sleep {
        ms: u64,
    },
    /// Responds at once, but asks for the next event only later.
    Linger {
        ms: u64,
    },
    Fail,
    Panic,
    Exit {
        code: i32,
    },
    Abort,
    Allocate {
        mb: usize,
    },
    Print {
        lines: Vec<String>,
        last: String,
    },
    Respond {
        bytes: usize,
    },
    /// Adds a byte to the file, and fails or hangs unless it then has more than `failures`.
    Attempt {
        file: String,
        failures: u64,
        #[serde(default)]
        hang: bool,
    },
    /// Starts a process that outlives this one if it is let to.
    Fork,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    match std::env::var("PROBE_INIT").ok().as_deref() {
        Some("exit") => {
            eprintln!("cannot start");
            std::process::exit(7);
        }
        Some("hang") => loop {
            std::thread::sleep(Duration::from_secs(1));
        },
        // Fails the first time only.
        Some(marker) if marker.starts_with('/') && fs::create_dir(marker).is_ok() => std::process::exit(8),
        _ => {}
    }
    Runtime::new(service_fn(handle)).layer(layer_fn(Lingering)).run().await
}

/// How long to pause after the response of this invocation.
static LINGER_MS: AtomicU64 = AtomicU64::new(0);

struct Lingering<S>(S);

impl<S> Service<LambdaInvocation> for Lingering<S>
where
    S: Service<LambdaInvocation, Response = (), Error = Error>,
    S::Future: 'static,
{
    type Response = ();
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<(), Error>>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, invocation: LambdaInvocation) -> Self::Future {
        let responded = self.0.call(invocation);
        Box::pin(async move {
            responded.await?;
            tokio::time::sleep(Duration::from_millis(LINGER_MS.swap(0, Ordering::Relaxed))).await;
            Ok(())
        })
    }
}

async fn handle(event: LambdaEvent<Action>) -> Result<Value, Error> {
    let pid = std::process::id();
    match event.payload {
        Action::Echo { value } => return Ok(value),
        Action::Describe => {
            let context = &event.context;
            let variables: BTreeMap<String, String> = std::env::vars().collect();
            return Ok(json!({
                "pid": pid,
                "request_id": context.request_id,
                "deadline": context.deadline,
                "arn": context.invoked_function_arn,
                "trace_id": context.xray_trace_id,
                "environment": variables,
            }));
        }
        Action::Sleep { ms } => tokio::time::sleep(Duration::from_millis(ms)).await,
        Action::Linger { ms } => LINGER_MS.store(ms, Ordering::Relaxed),
        Action::Fail => return Err("as asked".into()),
        Action::Panic => panic!("as asked"),
        Action::Exit { code } => std::process::exit(code),
        Action::Abort => std::process::abort(),
        Action::Allocate { mb } => {
            let memory = vec![1_u8; mb * 1024 * 1024];
            tokio::time::sleep(Duration::from_secs(20)).await;
            return Ok(json!({ "last": memory.last() }));
        }
        Action::Print { lines, last } => {
            for (number, line) in lines.iter().enumerate() {
                if number % 2 == 0 { println!("{line}") } else { eprintln!("{line}") }
            }
            print!("{last}");
            std::io::stdout().flush()?;
        }
        Action::Respond { bytes } => return Ok(Value::String("x".repeat(bytes))),
        Action::Attempt { file, failures, hang } => {
            let mut attempts = OpenOptions::new().append(true).create(true).open(file)?;
            attempts.write_all(b".")?;
            if attempts.metadata()?.len() <= failures {
                if hang {
                    std::future::pending::<()>().await;
                }
                return Err("not yet".into());
            }
        }
        Action::Fork => {
            let child = std::process::Command::new("sleep").arg("600").spawn()?;
            return Ok(json!({ "pid": pid, "child": child.id() }));
        }
    }
    Ok(json!({ "pid": pid }))
}
