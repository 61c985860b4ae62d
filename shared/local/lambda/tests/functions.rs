//! Functions as users see them: real `lambda_runtime` processes, on this machine.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail so, its helpers too")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use local_lambda::{
    DeadLetter, DeliveryError, Destinations, EventError, FunctionConfig, Functions, InvokeError, Invoker as _, LogLine,
    LogSource, OpenError, Reply, Settings, invoke_once,
};
use serde_json::{Value, json};
use tempfile::TempDir;

const ON_SUCCESS: &str = "arn:aws:sqs:eu-west-1:000000000000:succeeded";
const ON_FAILURE: &str = "arn:aws:sqs:eu-west-1:000000000000:failed";
const DEAD_LETTER: &str = "arn:aws:sqs:eu-west-1:000000000000:dead";

#[derive(Debug, Clone, PartialEq)]
struct Line {
    environment: String,
    request_id: Option<String>,
    source: LogSource,
    text: String,
}

#[derive(Default)]
struct Recorder {
    lines: Mutex<Vec<Line>>,
    delivered: Mutex<Vec<(String, Value)>>,
    /// So many deliveries fail first.
    refusals: Mutex<usize>,
}

#[async_trait]
impl Destinations for Recorder {
    async fn deliver(&self, arn: &str, body: Bytes) -> Result<(), DeliveryError> {
        let mut refusals = self.refusals.lock().unwrap();
        if *refusals > 0 {
            *refusals -= 1;
            return Err(DeliveryError { arn: arn.to_owned(), source: "no such queue".into() });
        }
        self.delivered.lock().unwrap().push((arn.to_owned(), serde_json::from_slice(&body).unwrap()));
        Ok(())
    }

    async fn dead_letter(&self, arn: &str, letter: DeadLetter) -> Result<(), DeliveryError> {
        let body: Value = serde_json::from_slice(&letter.body).unwrap();
        let record = json!({ "body": body, "error_message": letter.error_message, "request_id": letter.request_id });
        self.deliver(arn, Bytes::from(record.to_string())).await
    }
}

struct Bench {
    dir: TempDir,
    recorder: Arc<Recorder>,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), recorder: Arc::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn settings(&self) -> Settings {
        let recorder = Arc::clone(&self.recorder);
        let sink = move |line: &LogLine<'_>| {
            recorder.lines.lock().unwrap().push(Line {
                environment: line.environment.to_owned(),
                request_id: line.request_id.map(str::to_owned),
                source: line.source,
                text: line.text.to_owned(),
            });
        };
        Settings {
            max_environments: 4,
            init_timeout: Duration::from_secs(10),
            retry_delays: [Duration::from_millis(20), Duration::from_millis(40)],
            throttle_delay: Duration::from_millis(10),
            ..Settings::new("eu-west-1", self.path("state"), Arc::new(sink), self.recorder.clone())
        }
    }

    /// Runs one function named `probe`.
    fn run(&self, config: FunctionConfig) -> Functions {
        Functions::new(vec![config], self.settings()).unwrap()
    }

    fn lines(&self) -> Vec<Line> {
        self.recorder.lines.lock().unwrap().clone()
    }

    fn platform_lines(&self) -> Vec<String> {
        let lines = self.lines().into_iter();
        lines.filter(|line| line.source == LogSource::Platform).map(|line| line.text).collect()
    }

    fn delivered(&self) -> Vec<(String, Value)> {
        self.recorder.delivered.lock().unwrap().clone()
    }
}

fn example(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push("examples");
    path.push(name);
    assert!(path.exists(), "`cargo test` builds {}", path.display());
    path
}

fn probe() -> FunctionConfig {
    FunctionConfig {
        timeout: Duration::from_secs(20),
        memory_mb: 256,
        ..FunctionConfig::new("probe", "arn:aws:lambda:eu-west-1:000000000000:function:probe", example("probe"))
    }
}

async fn reply(functions: &Functions, event: Value) -> Reply {
    functions.invoke("probe", Bytes::from(event.to_string())).await.unwrap()
}

async fn success(functions: &Functions, event: Value) -> Value {
    match reply(functions, event).await {
        Reply::Success(body) => serde_json::from_slice(&body).unwrap(),
        Reply::FunctionError(body) => panic!("{}", String::from_utf8_lossy(&body)),
    }
}

async fn function_error(functions: &Functions, event: Value) -> (String, String) {
    match reply(functions, event).await {
        Reply::Success(body) => panic!("{}", String::from_utf8_lossy(&body)),
        Reply::FunctionError(body) => {
            let error: Value = serde_json::from_slice(&body).unwrap();
            (error["errorType"].as_str().unwrap().to_owned(), error["errorMessage"].as_str().unwrap().to_owned())
        }
    }
}

async fn pid(functions: &Functions) -> u64 {
    success(functions, json!({"do": "sleep", "ms": 0})).await["pid"].as_u64().unwrap()
}

fn is_running(pid: u64) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    state.is_some_and(|stat| !stat.rsplit_once(')').unwrap().1.starts_with(" Z"))
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "waited 30 s until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_event_reaches_the_handler_and_its_answer_the_caller() {
    let bench = Bench::new();
    let functions = bench.run(probe());
    for value in [json!({"text": "消息 🚀"}), json!(null), json!([1, 2.5, "x"]), json!("x".repeat(5_000_000))] {
        assert_eq!(success(&functions, json!({"do": "echo", "value": value})).await, value);
    }
    assert_eq!(functions.stats()["probe"].cold_starts, 1);
    functions.shutdown().await;
}

#[tokio::test]
async fn a_function_is_found_by_name_and_by_arn() {
    let bench = Bench::new();
    let functions = bench.run(probe());
    let event = Bytes::from_static(br#"{"do":"echo","value":1}"#);
    let arn = probe().arn;
    for name in ["probe", &arn, &format!("{arn}:$LATEST")] {
        assert_eq!(
            functions.invoke(name, event.clone()).await.unwrap(),
            Reply::Success(Bytes::from_static(b"1")),
            "{name}"
        );
    }
    let missing = functions.invoke("other", event).await.unwrap_err();
    assert!(matches!(missing, InvokeError::NotFound(name) if name == "other"));
    functions.shutdown().await;
}

#[tokio::test]
async fn a_process_sees_lambdas_environment_and_nothing_else() {
    let bench = Bench::new();
    let mut config = probe();
    config.environment.insert("TABLE".into(), "messages".into());
    config.environment.insert("AWS_ACCESS_KEY_ID".into(), "local".into());
    config.environment.insert("AWS_REGION".into(), "ignored".into());
    let functions = bench.run(config);
    let described = success(&functions, json!({"do": "describe"})).await;
    let environment = described["environment"].as_object().unwrap();
    let expected = [
        ("TABLE", "messages"),
        ("AWS_ACCESS_KEY_ID", "local"),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_DEFAULT_REGION", "eu-west-1"),
        ("AWS_LAMBDA_FUNCTION_NAME", "probe"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand"),
        ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/probe"),
        ("AWS_LAMBDA_LOG_FORMAT", "Text"),
        ("_HANDLER", "bootstrap"),
        ("TZ", ":UTC"),
        ("LANG", "en_US.UTF-8"),
    ];
    for (name, value) in expected {
        assert_eq!(environment[name], value, "{name}");
    }
    assert!(environment["AWS_LAMBDA_LOG_STREAM_NAME"].as_str().unwrap().contains("/[$LATEST]"));
    assert_eq!(environment["LAMBDA_TASK_ROOT"], example("probe").parent().unwrap().to_str().unwrap());
    assert!(!environment.contains_key("HOME") && !environment.contains_key("CARGO_MANIFEST_DIR"));

    assert_eq!(described["arn"], probe().arn);
    assert!(described["trace_id"].as_str().unwrap().starts_with("Root=1-"));
    let lines = bench.lines();
    assert!(lines.iter().any(|line| line.request_id.as_deref() == described["request_id"].as_str()));
    functions.shutdown().await;
}

#[tokio::test]
async fn concurrent_invocations_get_environments_of_their_own_which_are_used_again() {
    let bench = Bench::new();
    let functions = bench.run(probe());
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let functions = functions.clone();
            tokio::spawn(async move { success(&functions, json!({"do": "sleep", "ms": 400})).await["pid"].clone() })
        })
        .collect();
    let mut pids = Vec::new();
    for call in calls {
        pids.push(call.await.unwrap().as_u64().unwrap());
    }
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 3);
    let last = pid(&functions).await;
    for _ in 0..20 {
        assert_eq!(pid(&functions).await, last, "the most recently used environment comes first");
    }
    assert!(pids.contains(&last));
    let stats = functions.stats()["probe"];
    assert_eq!((stats.invocations, stats.cold_starts, stats.idle_environments, stats.errors), (24, 3, 3, 0));
    functions.shutdown().await;
}

#[tokio::test]
async fn reserved_concurrency_throttles_the_next_call_only_while_it_is_used_up() {
    let bench = Bench::new();
    let functions = bench.run(FunctionConfig { reserved_concurrency: Some(1), ..probe() });
    let busy = tokio::spawn({
        let functions = functions.clone();
        async move { success(&functions, json!({"do": "sleep", "ms": 500})).await }
    });
    until("the first call has started", || bench.platform_lines().iter().any(|line| line.starts_with("START"))).await;
    let refused = functions.invoke("probe", Bytes::from_static(b"{}")).await.unwrap_err();
    assert!(matches!(refused, InvokeError::Throttled));
    busy.await.unwrap();
    for _ in 0..10 {
        success(&functions, json!({"do": "echo", "value": 1})).await;
    }
    assert_eq!(functions.stats()["probe"].throttles, 1);
    assert_eq!(functions.stats()["probe"].cold_starts, 1);
    functions.shutdown().await;
}

#[tokio::test]
async fn without_reserved_concurrency_callers_wait_for_an_environment() {
    let bench = Bench::new();
    let settings = Settings { max_environments: 1, ..bench.settings() };
    let functions = Functions::new(vec![probe()], settings).unwrap();
    let calls: Vec<_> = (0..5)
        .map(|_| {
            let functions = functions.clone();
            tokio::spawn(async move { pid(&functions).await })
        })
        .collect();
    let mut pids = Vec::new();
    for call in calls {
        pids.push(call.await.unwrap());
    }
    pids.dedup();
    assert_eq!(pids.len(), 1);
    functions.shutdown().await;
}

#[tokio::test]
async fn an_invocation_that_times_out_is_killed_and_the_next_one_works() {
    let bench = Bench::new();
    let functions = bench.run(FunctionConfig { timeout: Duration::from_secs(1), ..probe() });
    let first = pid(&functions).await;
    let (error_type, message) = function_error(&functions, json!({"do": "sleep", "ms": 60_000})).await;
    assert_eq!(error_type, "Sandbox.Timedout");
    assert!(
        message.starts_with("RequestId: ") && message.ends_with(" Error: Task timed out after 1.00 seconds"),
        "{message}"
    );
    assert!(!is_running(first));
    assert_ne!(pid(&functions).await, first);
    let report = bench.platform_lines().into_iter().find(|line| line.ends_with("Status: timeout")).unwrap();
    assert!(
        report.contains("\tDuration: 1") && report.contains("\tMemory Size: 256 MB\tMax Memory Used: "),
        "{report}"
    );
    functions.shutdown().await;
}

#[tokio::test]
async fn a_process_that_works_on_after_its_response_holds_up_nobody() {
    let bench = Bench::new();
    let functions = bench.run(FunctionConfig { timeout: Duration::from_secs(2), ..probe() });
    let lingering = success(&functions, json!({"do": "linger", "ms": 700})).await["pid"].as_u64().unwrap();
    let other = pid(&functions).await;
    assert_ne!(other, lingering);
    until("both environments are idle", || functions.stats()["probe"].idle_environments == 2).await;
    assert_eq!(pid(&functions).await, lingering);

    success(&functions, json!({"do": "linger", "ms": 60_000})).await;
    until("the time-out has ended it", || !is_running(lingering)).await;
    assert_eq!(pid(&functions).await, other);
    functions.shutdown().await;
}

#[tokio::test]
async fn a_binary_that_is_being_written_is_waited_for() {
    let bench = Bench::new();
    let binary = bench.path("bootstrap");
    fs::copy(example("probe"), &binary).unwrap();
    let being_written = fs::OpenOptions::new().append(true).open(&binary).unwrap();
    let functions = bench.run(FunctionConfig { binary, ..probe() });
    let call = tokio::spawn({
        let functions = functions.clone();
        async move { pid(&functions).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!call.is_finished());
    drop(being_written);
    call.await.unwrap();
    functions.shutdown().await;
}

#[tokio::test]
async fn a_failing_handler_leaves_its_environment_usable() {
    let bench = Bench::new();
    let functions = bench.run(probe());
    let first = pid(&functions).await;
    assert_eq!(function_error(&functions, json!({"do": "fail"})).await.1, "as asked");
    assert_eq!(function_error(&functions, json!({"do": "panic"})).await.1, "Lambda panicked: as asked");
    assert!(function_error(&functions, json!({"do": "unknown"})).await.1.contains("unknown"));
    assert_eq!(pid(&functions).await, first);
    assert_eq!(functions.stats()["probe"].errors, 3);
    functions.shutdown().await;
}

#[tokio::test]
async fn a_process_that_ends_is_reported_and_not_used_again() {
    let bench = Bench::new();
    let functions = bench.run(probe());
    let cases = [
        (json!({"do": "exit", "code": 3}), "Runtime exited with error: exit status 3"),
        (json!({"do": "exit", "code": 0}), "Runtime exited without providing a reason"),
        (json!({"do": "abort"}), "Runtime exited with error: signal: aborted"),
    ];
    for (event, expected) in cases {
        let before = pid(&functions).await;
        let (error_type, message) = function_error(&functions, event).await;
        assert_eq!(error_type, "Runtime.ExitError");
        assert!(message.contains(&format!(" Error: {expected}")), "{message}");
        assert!(!is_running(before));
        assert_ne!(pid(&functions).await, before);
    }
    functions.shutdown().await;
}

#[tokio::test]
async fn a_process_killed_while_idle_costs_the_next_caller_nothing() {
    let bench = Bench::new();
    let functions = bench.run(probe());
    let first = pid(&functions).await;
    assert!(Command::new("kill").args(["-9", &first.to_string()]).status().unwrap().success());
    until("the process has ended", || !is_running(first)).await;
    assert_ne!(pid(&functions).await, first);
    assert_eq!(functions.stats()["probe"].errors, 0);
    functions.shutdown().await;
}

#[tokio::test]
async fn a_process_that_needs_too_much_memory_is_killed() {
    let bench = Bench::new();
    let functions = bench.run(FunctionConfig { memory_mb: 128, ..probe() });
    let (error_type, message) = function_error(&functions, json!({"do": "allocate", "mb": 200})).await;
    assert_eq!(error_type, "Runtime.OutOfMemory");
    assert!(message.ends_with(" Error: Runtime exited with error: signal: killed"), "{message}");
    assert!(functions.stats()["probe"].max_memory_mb >= 128);
    let report = bench.platform_lines().into_iter().find(|line| line.starts_with("REPORT")).unwrap();
    assert!(report.ends_with("\tStatus: error\tError Type: Runtime.OutOfMemory"), "{report}");
    pid(&functions).await;
    functions.shutdown().await;
}

#[tokio::test]
async fn failing_initialisation_is_tried_twice_and_then_reported() {
    let bench = Bench::new();
    let mut config = probe();
    config.environment.insert("PROBE_INIT".into(), "exit".into());
    let functions = bench.run(config);
    let (error_type, message) = function_error(&functions, json!({"do": "describe"})).await;
    assert_eq!(error_type, "Runtime.ExitError");
    assert!(message.ends_with(" Error: Runtime exited with error: exit status 7"), "{message}");
    let lines = bench.platform_lines();
    assert!(
        lines[0].starts_with("INIT_REPORT")
            && lines[0].contains("\tPhase: init\tStatus: error\tError Type: Runtime.ExitError")
    );
    assert!(lines[1].starts_with("INIT_REPORT") && lines[1].contains("\tPhase: invoke\tStatus: error"));
    assert_eq!(bench.lines().iter().filter(|line| line.text == "cannot start").count(), 2);
    assert_eq!(functions.stats()["probe"].cold_starts, 0);
    functions.shutdown().await;
}

#[tokio::test]
async fn initialisation_that_fails_once_is_repaired_by_the_retry() {
    let bench = Bench::new();
    let mut config = probe();
    config.environment.insert("PROBE_INIT".into(), bench.path("marker").to_str().unwrap().to_owned());
    let functions = bench.run(config);
    pid(&functions).await;
    functions.shutdown().await;
}

#[tokio::test]
async fn initialisation_that_hangs_ends_with_the_functions_time_out() {
    let bench = Bench::new();
    let mut config = FunctionConfig { timeout: Duration::from_secs(1), ..probe() };
    config.environment.insert("PROBE_INIT".into(), "hang".into());
    let settings = Settings { init_timeout: Duration::from_millis(200), ..bench.settings() };
    let functions = Functions::new(vec![config], settings).unwrap();
    let (error_type, message) = function_error(&functions, json!({"do": "describe"})).await;
    assert_eq!(error_type, "Sandbox.Timedout");
    assert!(message.ends_with("Task timed out after 1.00 seconds"), "{message}");
    functions.shutdown().await;
}

#[tokio::test]
async fn a_missing_binary_is_a_function_error() {
    let bench = Bench::new();
    let functions = bench.run(FunctionConfig { binary: bench.path("bootstrap"), ..probe() });
    let (error_type, message) = function_error(&functions, json!({})).await;
    assert_eq!(error_type, "Runtime.InvalidEntrypoint");
    assert!(message.ends_with("bootstrap: no such file or directory"), "{message}");
    functions.shutdown().await;
}

#[tokio::test]
async fn payloads_and_responses_are_limited_as_on_aws() {
    let bench = Bench::new();
    let functions = bench.run(probe());
    let first = pid(&functions).await;
    let fits = 6 * 1024 * 1024 - 2;
    assert_eq!(success(&functions, json!({"do": "respond", "bytes": fits})).await.as_str().unwrap().len(), fits);
    let (error_type, message) = function_error(&functions, json!({"do": "respond", "bytes": 7 * 1024 * 1024})).await;
    assert_eq!(error_type, "Function.ResponseSizeTooLarge");
    assert_eq!(message, "Response payload size exceeded maximum allowed payload size (6291556 bytes).");
    assert_eq!(pid(&functions).await, first, "the environment is fit for further use");

    let large = Bytes::from(vec![b' '; 6 * 1024 * 1024 + 1]);
    let refused = functions.invoke("probe", large).await.unwrap_err();
    assert!(matches!(refused, InvokeError::TooLarge { size: 6_291_457, limit: 6_291_456 }));
    let large = Bytes::from(vec![b' '; 1024 * 1024 + 1]);
    let refused = functions.invoke_event("probe", large).await.unwrap_err();
    assert!(matches!(refused, EventError::Refused(InvokeError::TooLarge { limit: 1_048_576, .. })));
    functions.shutdown().await;
}

#[tokio::test]
async fn a_binary_replaced_on_disk_runs_from_the_next_invocation_on() {
    let bench = Bench::new();
    let install = |to: &Path| {
        let staged = bench.path("staged");
        fs::copy(example("probe"), &staged).unwrap();
        fs::rename(staged, to).unwrap();
    };
    let binary = bench.path("bootstrap");
    install(&binary);
    let functions = bench.run(FunctionConfig { binary: binary.clone(), ..probe() });
    let first = pid(&functions).await;
    assert_eq!(pid(&functions).await, first);
    install(&binary);
    let second = pid(&functions).await;
    assert_ne!(second, first);
    until("the old process has ended", || !is_running(first)).await;

    fs::remove_file(&binary).unwrap();
    assert_eq!(pid(&functions).await, second, "a file that is missing for a moment is no new version");
    functions.restart("probe").await.unwrap();
    assert!(!is_running(second));
    install(&binary);
    assert_ne!(pid(&functions).await, second);
    functions.shutdown().await;
}

#[tokio::test]
async fn a_variable_that_is_set_is_seen_by_the_next_invocation_whoever_was_idle_or_busy() {
    let bench = Bench::new();
    let mut config = probe();
    config.environment.insert("AHEAD".into(), "0".into());
    let functions = bench.run(config);
    let ahead = async || success(&functions, json!({"do": "describe"})).await["environment"]["AHEAD"].clone();
    assert_eq!(ahead().await, "0");

    let marker = bench.path("attempts");
    let event = json!({"do": "attempt", "file": marker, "failures": 1, "hang": true});
    let busy = tokio::spawn({
        let functions = functions.clone();
        async move { functions.invoke("probe", Bytes::from(event.to_string())).await }
    });
    until("the first process is busy", || marker.exists()).await;
    functions.set_variable("AHEAD", "660").await;
    assert_eq!(ahead().await, "660");
    // The busy one goes on until its end and takes no further event.
    assert!(!busy.is_finished());
    functions.set_variable("AHEAD", "1320").await;
    assert_eq!(ahead().await, "1320");
    functions.shutdown().await;
    assert!(matches!(busy.await.unwrap().unwrap(), Reply::FunctionError(_)));
}

#[tokio::test]
async fn a_process_that_was_busy_when_a_variable_was_set_takes_no_further_event() {
    let bench = Bench::new();
    let functions = bench.run(probe());
    let sleeping = tokio::spawn({
        let functions = functions.clone();
        async move { success(&functions, json!({"do": "sleep", "ms": 400})).await }
    });
    until("it has started", || bench.platform_lines().iter().any(|line| line.starts_with("START"))).await;
    functions.set_variable("AHEAD", "1").await;
    let busy = sleeping.await.unwrap()["pid"].as_u64().unwrap();
    let next = success(&functions, json!({"do": "describe"})).await;
    assert_ne!(next["pid"].as_u64().unwrap(), busy);
    assert_eq!(next["environment"]["AHEAD"], "1");
    functions.shutdown().await;
}

#[tokio::test]
async fn printed_lines_belong_to_the_request_that_printed_them() {
    let bench = Bench::new();
    let functions = bench.run(probe());
    let print = |number: usize| {
        let lines: Vec<String> = (0..40).map(|line| format!("{number}/{line} 消息")).collect();
        json!({"do": "print", "lines": lines, "last": "\n"})
    };
    let calls: Vec<_> = (0..8)
        .map(|number| {
            let (functions, event) = (functions.clone(), print(number));
            tokio::spawn(async move { success(&functions, event).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    functions.shutdown().await;

    let lines = bench.lines();
    let starts: Vec<&Line> = lines.iter().filter(|line| line.text.starts_with("START")).collect();
    assert_eq!(starts.len(), 8);
    for start in starts {
        let own: Vec<&Line> = lines.iter().filter(|line| line.request_id == start.request_id).collect();
        let number = own.iter().find_map(|line| line.text.split_once('/')).unwrap().0.to_owned();
        let printed = |source| -> Vec<String> {
            own.iter().filter(|line| line.source == source).map(|line| line.text.clone()).collect()
        };
        let expected = |parity: usize| -> Vec<String> {
            (0..40).filter(|line| line % 2 == parity).map(|line| format!("{number}/{line} 消息")).collect()
        };
        assert_eq!(
            printed(LogSource::Stdout).iter().filter(|line| !line.is_empty()).cloned().collect::<Vec<_>>(),
            expected(0)
        );
        assert_eq!(printed(LogSource::Stderr), expected(1));
        assert!(own.iter().all(|line| line.environment == start.environment));
        assert!(own.first().unwrap().text.starts_with("START") && own.last().unwrap().text.starts_with("REPORT"));
    }
    let file = fs::read_to_string(bench.path("state/logs/probe.log")).unwrap();
    assert_eq!(file.lines().count(), lines.len());
    assert_eq!(file.lines().filter(|line| line.ends_with("/7 消息")).count(), 8);
}

#[tokio::test]
async fn what_a_dying_process_printed_last_is_not_lost() {
    let bench = Bench::new();
    let functions = bench.run(FunctionConfig { timeout: Duration::from_secs(1), ..probe() });
    success(&functions, json!({"do": "print", "lines": [], "last": "unfinished"})).await;
    function_error(&functions, json!({"do": "exit", "code": 1})).await;
    assert!(bench.lines().iter().any(|line| line.text == "unfinished" && line.request_id.is_some()));
    functions.shutdown().await;
}

#[tokio::test]
async fn events_are_retried_until_they_succeed() {
    let bench = Bench::new();
    let functions = bench.run(FunctionConfig {
        on_success: Some(ON_SUCCESS.into()),
        on_failure: Some(ON_FAILURE.into()),
        ..probe()
    });
    let attempts = bench.path("attempts");
    let event = json!({"do": "attempt", "file": attempts, "failures": 2});
    let request_id = functions.invoke_event("probe", Bytes::from(event.to_string())).await.unwrap();
    until("the record is delivered", || !bench.delivered().is_empty()).await;
    functions.shutdown().await;

    assert_eq!(fs::read(attempts).unwrap().len(), 3);
    let [(arn, record)] = <[_; 1]>::try_from(bench.delivered()).unwrap();
    assert_eq!(arn, ON_SUCCESS);
    assert_eq!(record["requestContext"]["requestId"], request_id);
    assert_eq!(record["requestContext"]["condition"], "Success");
    assert_eq!(record["requestContext"]["approximateInvokeCount"], 3);
    assert_eq!(record["responseContext"], json!({"statusCode": 200, "executedVersion": "$LATEST"}));
    assert!(record["responsePayload"]["pid"].is_u64());
}

#[tokio::test]
async fn an_event_that_keeps_failing_reaches_each_destination_once() {
    let bench = Bench::new();
    *bench.recorder.refusals.lock().unwrap() = 2;
    let functions = bench.run(FunctionConfig {
        async_retries: 1,
        on_failure: Some(ON_FAILURE.into()),
        dead_letter: Some(DEAD_LETTER.into()),
        ..probe()
    });
    let event = json!({"do": "fail"});
    let request_id = functions.invoke_event("probe", Bytes::from(event.to_string())).await.unwrap();
    until("both have their record", || bench.delivered().len() == 2).await;
    functions.shutdown().await;
    // A further runner finds nothing to do.
    drop(functions);
    let functions = bench.run(probe());
    pid(&functions).await;
    functions.shutdown().await;

    let [(first, record), (second, letter)] = <[_; 2]>::try_from(bench.delivered()).unwrap();
    assert_eq!((first.as_str(), second.as_str()), (ON_FAILURE, DEAD_LETTER));
    assert_eq!(record["version"], "1.0");
    assert_eq!(record["requestContext"]["functionArn"], format!("{}:$LATEST", probe().arn));
    assert_eq!(record["requestContext"]["condition"], "RetriesExhausted");
    assert_eq!(record["requestContext"]["approximateInvokeCount"], 2);
    assert_eq!(record["requestPayload"], event);
    assert_eq!(record["responseContext"]["functionError"], "Unhandled");
    assert_eq!(record["responsePayload"]["errorMessage"], "as asked");
    assert_eq!(letter, json!({"body": event, "error_message": "as asked", "request_id": request_id}));
}

#[tokio::test]
async fn an_event_that_is_never_run_expires() {
    let bench = Bench::new();
    let functions = bench.run(FunctionConfig {
        reserved_concurrency: Some(0),
        async_max_age: Duration::from_millis(100),
        on_failure: Some(ON_FAILURE.into()),
        ..probe()
    });
    functions.invoke_event("probe", Bytes::from_static(b"not JSON")).await.unwrap();
    until("the record is delivered", || !bench.delivered().is_empty()).await;
    functions.shutdown().await;
    let (_, record) = &bench.delivered()[0];
    assert_eq!(record["requestContext"]["condition"], "EventAgeExceeded");
    assert_eq!(record["requestContext"]["approximateInvokeCount"], 0);
    assert_eq!(record["requestPayload"], "not JSON");
    assert!(record.get("responseContext").is_none() && record.get("responsePayload").is_none());
}

#[tokio::test]
async fn shutdown_leaves_no_process_and_keeps_the_events_it_interrupts() {
    let bench = Bench::new();
    let config = FunctionConfig { on_success: Some(ON_SUCCESS.into()), on_failure: Some(ON_FAILURE.into()), ..probe() };
    let functions = bench.run(config.clone());
    let family = success(&functions, json!({"do": "fork"})).await;
    functions.invoke_event("probe", Bytes::from_static(br#"{"do":"sleep","ms":1500}"#)).await.unwrap();
    until("the event runs", || functions.stats()["probe"].idle_environments == 0).await;
    functions.shutdown().await;
    for process in ["pid", "child"] {
        let process = family[process].as_u64().unwrap();
        until("the whole group has ended", || !is_running(process)).await;
    }
    assert_eq!(fs::read_dir(bench.path("state/pids")).unwrap().count(), 0);
    let refused = functions.invoke("probe", Bytes::from_static(b"{}")).await.unwrap_err();
    assert!(matches!(refused, InvokeError::Throttled));
    assert!(bench.delivered().is_empty());
    drop(functions);

    let functions = bench.run(config);
    until("the event is run again", || !bench.delivered().is_empty()).await;
    assert_eq!(bench.delivered()[0].0, ON_SUCCESS);
    functions.shutdown().await;
}

#[tokio::test]
async fn two_runners_cannot_share_a_state_folder() {
    let bench = Bench::new();
    let functions = bench.run(probe());
    let second = Functions::new(vec![probe()], bench.settings()).unwrap_err();
    assert!(matches!(second, OpenError::InUse(path) if path == bench.path("state")));
    functions.shutdown().await;
}

#[tokio::test]
async fn a_killed_runner_leaves_no_process_and_loses_no_event() {
    let bench = Bench::new();
    let attempts = bench.path("attempts");
    let mut runner = Command::new(example("runner"))
        .args([&bench.path("state"), &example("probe"), &attempts])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(runner.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pids: Vec<u64> = line.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    let [idle, busy] = <[u64; 2]>::try_from(pids).unwrap();
    assert!(is_running(idle) && is_running(busy));
    runner.kill().unwrap();
    runner.wait().unwrap();

    until("the idle process has ended by itself", || !is_running(idle)).await;
    assert!(is_running(busy), "a handler that does not look at its Runtime API goes on");
    let event = FunctionConfig { name: "event".into(), on_success: Some(ON_SUCCESS.into()), ..probe() };
    let functions = bench.run(event);
    until("the next runner has killed the busy process", || !is_running(busy)).await;
    until("the next runner has run the event again", || !bench.delivered().is_empty()).await;
    assert_eq!(fs::read(attempts).unwrap().len(), 2);
    functions.shutdown().await;
}

#[tokio::test]
async fn a_function_runs_once_beside_a_runner() {
    let bench = Bench::new();
    let functions = bench.run(probe());
    let first = pid(&functions).await;
    let event = Bytes::from_static(br#"{"do":"sleep","ms":0}"#);
    let Reply::Success(body) = invoke_once(probe(), bench.settings(), event).await.unwrap() else { panic!() };
    let once: Value = serde_json::from_slice(&body).unwrap();
    assert!(!is_running(once["pid"].as_u64().unwrap()));
    assert_eq!(pid(&functions).await, first);
    functions.shutdown().await;
}
