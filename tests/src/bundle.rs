//! A local bundle of a test's own: a real `skylark local` process on free ports and a temporary folder, killed when the test ends.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_sqs::config::{Credentials, SharedCredentialsProvider};
use aws_sdk_sqs::types::QueueAttributeName;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::workspace::functions;
pub use crate::workspace::root as workspace;

/// How long anything in a test may take before it counts as lost; generous, because machines are slow and busy.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Builds `skylark` and every function once per test process, as the run command does, and returns their folder.
pub fn binaries() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let mut command = Command::new(env!("CARGO"));
        command.args(["build", "--quiet", "--profile", "local", "--package", "skylark"]);
        for function in functions().unwrap() {
            command.args(["--package", &function]);
        }
        let built = command.current_dir(workspace()).status().unwrap();
        assert!(built.success(), "the binaries build");
        let metadata = Command::new(env!("CARGO"))
            .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
            .current_dir(workspace())
            .output()
            .unwrap();
        let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
        Path::new(metadata["target_directory"].as_str().unwrap()).join("local")
    })
}

/// Builds the function that misbehaves when it is told to, and returns a folder that holds it under its name.
pub fn drill() -> PathBuf {
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--profile", "local", "--package", "skylark-tests", "--example", "drill"]);
    assert!(build.current_dir(workspace()).status().unwrap().success(), "the drill builds");
    binaries().join("examples")
}

/// A running bundle.
#[derive(Debug)]
pub struct Bundle {
    process: Child,
    data: TempDir,
    /// What `local.json` says.
    pub settings: Value,
}

impl Bundle {
    /// Starts a bundle on a fresh folder and waits until it is ready.
    #[must_use]
    pub fn start() -> Self {
        Self::start_on(tempfile::tempdir().unwrap())
    }

    /// Starts a bundle on a folder that an earlier one used.
    #[must_use]
    pub fn start_on(data: TempDir) -> Self {
        Self::start_template(data, &workspace().join("template.yaml"), binaries())
    }

    /// Starts a bundle of another template, with its functions' binaries from a folder.
    #[must_use]
    pub fn start_template(data: TempDir, template: &Path, functions: &Path) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(data.path().join("stderr.log")).unwrap();
        let mut process = Command::new(binaries().join("skylark"))
            .args(["local", "--port", "0", "--template"])
            .arg(template)
            .arg("--binaries")
            .arg(functions)
            .arg("--data")
            .arg(data.path())
            .current_dir(workspace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let log = || std::fs::read_to_string(data.path().join("stderr.log")).unwrap_or_default();
        assert!(line.starts_with("ready http://"), "the bundle starts: {line:?}\n{}", log());
        let settings = serde_json::from_slice(&std::fs::read(data.path().join("local.json")).unwrap()).unwrap();
        Self { process, data, settings }
    }

    /// A text of `local.json`, by JSON pointer.
    #[must_use]
    pub fn setting(&self, pointer: &str) -> &str {
        self.settings.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("{pointer} in local.json"))
    }

    /// The data folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.data.path()
    }

    /// Runs a `skylark` command on this bundle; its exit code, stdout and stderr.
    #[must_use]
    pub fn skylark(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = Command::new(binaries().join("skylark"))
            .args(arguments)
            .arg("--data")
            .arg(self.data.path())
            .current_dir(workspace())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }

    /// Moves the bundle's time ahead: the next invocation of any function, and the sandbox, live in the new time.
    pub fn advance(&self, by: &str) {
        let (code, out, err) = self.skylark(&["local", "clock", "--advance", by]);
        assert_eq!(code, 0, "{out}{err}");
    }

    /// Fires one schedule of a function, by the name of its event in the template.
    pub fn trigger(&self, function: &str, schedule: &str) {
        let (code, out, err) = self.skylark(&["local", "trigger", function, "--schedule", schedule]);
        assert_eq!(code, 0, "{out}{err}");
    }

    /// Of the runner itself.
    #[must_use]
    pub fn process_id(&self) -> Pid {
        Pid::from_raw(self.process.id().try_into().unwrap())
    }

    /// SIGKILL, as a power cut would; the folder stays.
    #[must_use]
    pub fn kill(mut self) -> TempDir {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        std::mem::replace(&mut self.data, tempfile::tempdir().unwrap())
    }

    /// SIGTERM, and whether it ended by itself in time.
    pub fn terminate(&mut self) -> bool {
        kill(Pid::from_raw(self.process.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        let deadline = Instant::now() + Duration::from_secs(15);
        while Instant::now() < deadline {
            if self.process.try_wait().unwrap().is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        if self.process.try_wait().ok().flatten().is_none() && !self.terminate() {
            // It hangs; the test has failed already or will say so.
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// Asks again until there is an answer, or fails naming what was waited for.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = ask().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How any SDK client reaches the bundle's AWS endpoint.
#[must_use]
pub fn aws(bundle: &Bundle) -> SdkConfig {
    let key =
        Credentials::new(bundle.setting("/access_key_id"), bundle.setting("/secret_access_key"), None, None, "test");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(SharedCredentialsProvider::new(key))
        .endpoint_url(bundle.setting("/aws_endpoint"))
        .http_client(lambda_kit::aws::http_client())
        .build()
}

/// A client for the bundle's queues.
#[must_use]
pub fn sqs(bundle: &Bundle) -> aws_sdk_sqs::Client {
    aws_sdk_sqs::Client::new(&aws(bundle))
}

/// How many messages of a queue wait or are being worked on.
pub async fn waiting(bundle: &Bundle, queue: &str) -> u64 {
    let request = sqs(bundle).get_queue_attributes().queue_url(bundle.setting(&format!("/queues/{queue}")));
    let answer = request.attribute_names(QueueAttributeName::All).send().await.unwrap();
    let attributes = answer.attributes.unwrap();
    let counts =
        [QueueAttributeName::ApproximateNumberOfMessages, QueueAttributeName::ApproximateNumberOfMessagesNotVisible];
    counts.iter().map(|name| attributes.get(name).unwrap().parse::<u64>().unwrap()).sum()
}
