//! The sandbox on its own: `cargo run -p lark-sandbox --example serve_lark -- <state file> [address]`.

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;

use lark_sandbox::{Sandbox, SandboxConfig};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let state = arguments.next().map_or_else(|| PathBuf::from("lark-sandbox.db"), PathBuf::from);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(address).await?;
    let base_url = format!("http://{}", listener.local_addr()?);
    let sandbox = Sandbox::open(SandboxConfig { state, base_url: base_url.clone() })?;
    writeln!(std::io::stdout(), "ready {base_url}/sandbox")?;
    let stop = async {
        // Without the signal the server simply runs until it is killed.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    sandbox.serve(listener, stop).await?;
    Ok(())
}
