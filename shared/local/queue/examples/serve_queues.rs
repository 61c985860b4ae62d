//! Serves queues and buses of one file, for conformance scripts: `serve FILE PORT` (0 picks a port).
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for tests: it stops at the first surprise")]

#[path = "../tests/it/server.rs"]
mod server;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let path = std::path::PathBuf::from(arguments.next().unwrap());
    let port: u16 = arguments.next().unwrap().to_str().unwrap().parse().unwrap();
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    println!("ready http://{}", server::serve(listener, &path).await);
    std::future::pending().await
}
