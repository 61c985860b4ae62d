//! What a template runs, with every reference resolved. Resources refer to one another by physical name.

use std::collections::BTreeMap;

use crate::fault::Warning;

/// Everything that one template runs on this machine. Each list is in the order of the template.
#[derive(Debug, Clone, Default)]
pub struct Bundle {
    pub functions: Vec<Function>,
    pub mappings: Vec<Mapping>,
    pub tables: Vec<Table>,
    pub queues: Vec<Queue>,
    pub buckets: Vec<Bucket>,
    pub http_api: Option<HttpApi>,
    pub websocket_api: Option<WebSocketApi>,
    /// The declared buses; the bus `default` is always there besides.
    pub buses: Vec<EventBus>,
    pub rules: Vec<Rule>,
    pub schedules: Vec<Schedule>,
    pub keys: Vec<Key>,
    /// The outputs whose condition holds, by their keys.
    pub outputs: BTreeMap<String, String>,
    /// Resources that are known and change nothing here.
    pub left_out: Vec<LeftOut>,
    pub warnings: Vec<Warning>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    pub logical_id: String,
    pub type_name: String,
    pub reason: &'static str,
    pub line: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    pub logical_id: String,
    pub name: String,
    pub arn: String,
    /// The Cargo package: the last folder of `CodeUri`.
    pub package: String,
    /// `Metadata.BuildProperties.Binary`, else the package's name.
    pub binary: String,
    pub timeout_secs: u32,
    pub memory_mb: u32,
    pub reserved_concurrency: Option<u32>,
    /// As declared; what Lambda itself sets is not among them.
    pub environment: BTreeMap<String, String>,
    pub logging: Logging,
    pub asynchronous: Asynchronous,
    pub line: usize,
}

/// `LoggingConfig`, which Lambda passes on as `AWS_LAMBDA_LOG_FORMAT` and `AWS_LAMBDA_LOG_LEVEL`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Logging {
    pub format: LogFormat,
    /// Only with `Json`; Lambda's default is `INFO`.
    pub application_level: Option<String>,
    /// The name, if not `/aws/lambda/{function}`.
    pub group: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// What happens to events that are invoked asynchronously.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asynchronous {
    /// After the first attempt.
    pub maximum_retry_attempts: u32,
    pub maximum_event_age_secs: u32,
    pub on_success: Option<Destination>,
    pub on_failure: Option<Destination>,
    /// `DeadLetterQueue`: a queue that gets the bare event.
    pub dead_letter_queue: Option<String>,
}

impl Default for Asynchronous {
    fn default() -> Self {
        Self {
            maximum_retry_attempts: 2,
            maximum_event_age_secs: 21_600,
            on_success: None,
            on_failure: None,
            dead_letter_queue: None,
        }
    }
}

/// Where the record of an invocation goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    Queue(String),
    Function(String),
    Bus(String),
    Bucket(String),
}

/// An event source mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// SAM's logical id: that of the function, then that of the event.
    pub id: String,
    pub function: String,
    pub enabled: bool,
    pub batch_size: u32,
    pub batching_window_secs: u32,
    /// Event patterns as JSON; a record passes if any matches, or if there are none.
    pub filters: Vec<String>,
    /// `ReportBatchItemFailures`.
    pub reports_batch_item_failures: bool,
    pub source: Source,
    pub line: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Queue { queue: String, maximum_concurrency: Option<u32> },
    Stream(StreamSource),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSource {
    pub table: String,
    pub starting_position: StartingPosition,
    pub parallelization_factor: u32,
    pub bisects_batch_on_error: bool,
    /// None: until the record expires.
    pub maximum_retry_attempts: Option<u32>,
    /// None: as long as the stream keeps it, 24 hours.
    pub maximum_record_age_secs: Option<u32>,
    pub on_failure: Option<Destination>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartingPosition {
    TrimHorizon,
    Latest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub logical_id: String,
    pub name: String,
    pub arn: String,
    pub attributes: Vec<(String, AttributeType)>,
    pub key: KeySchema,
    pub global_indexes: Vec<Index>,
    pub local_indexes: Vec<Index>,
    pub stream: Option<StreamView>,
    pub ttl_attribute: Option<String>,
    pub line: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttributeType {
    String,
    Number,
    Binary,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySchema {
    pub hash: String,
    pub range: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    pub name: String,
    pub key: KeySchema,
    pub projection: Projection,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Projection {
    All,
    KeysOnly,
    Include(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamView {
    KeysOnly,
    NewImage,
    OldImage,
    NewAndOldImages,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    pub logical_id: String,
    pub name: String,
    pub arn: String,
    pub url: String,
    /// None: a standard queue.
    pub fifo: Option<Fifo>,
    pub visibility_timeout_secs: u32,
    pub delay_secs: u32,
    pub retention_secs: u32,
    pub receive_wait_secs: u32,
    pub maximum_message_bytes: u32,
    pub redrive: Option<Redrive>,
    pub line: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fifo {
    pub content_based_deduplication: bool,
    /// `DeduplicationScope: messageGroup`; false: `queue`.
    pub deduplicates_per_group: bool,
    /// `FifoThroughputLimit: perMessageGroupId`; false: `perQueue`.
    pub limits_throughput_per_group: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redrive {
    pub dead_letter_queue: String,
    pub maximum_receive_count: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    pub logical_id: String,
    pub name: String,
    pub arn: String,
    pub is_versioned: bool,
    pub lifecycle: Vec<LifecycleRule>,
    pub cors: Vec<BucketCors>,
    /// Those of the bucket, then those of functions' `S3` events.
    pub notifications: Vec<Notification>,
    pub line: usize,
}

/// A rule that is in force; disabled ones are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LifecycleRule {
    pub id: Option<String>,
    /// Empty: every object.
    pub prefix: String,
    pub expiration_days: Option<u32>,
    pub abort_incomplete_upload_days: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketCors {
    pub allowed_origins: Vec<String>,
    pub allowed_methods: Vec<String>,
    pub allowed_headers: Vec<String>,
    pub exposed_headers: Vec<String>,
    pub max_age_secs: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// `s3:ObjectCreated:*` and the like.
    pub events: Vec<String>,
    pub prefix: String,
    pub suffix: String,
    pub target: Target,
}

/// What a rule, a schedule or a notification calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Function(String),
    Queue {
        name: String,
        /// Always there for a FIFO queue, never otherwise.
        message_group_id: Option<String>,
    },
    Bus(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpApi {
    pub logical_id: String,
    pub id: String,
    /// `$default`, or the first segment of every path on AWS; local URLs do without it.
    pub stage: String,
    pub stage_variables: BTreeMap<String, String>,
    pub cors: Option<HttpCors>,
    pub authorizers: Vec<HttpAuthorizer>,
    pub routes: Vec<Route>,
    pub line: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpCors {
    pub allow_origins: Vec<String>,
    pub allow_methods: Vec<String>,
    pub allow_headers: Vec<String>,
    pub expose_headers: Vec<String>,
    pub max_age_secs: Option<u32>,
    pub allow_credentials: bool,
}

/// A route of the HTTP API: payload format 2.0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// `POST /path/{parameter}`, `ANY /path/{proxy+}` or `$default`.
    pub route_key: String,
    pub function: String,
    pub timeout_ms: u32,
    /// One of the API's authorizers, by name.
    pub authorizer: Option<String>,
    /// Of a JWT, any of which suffices; none are needed if empty.
    pub scopes: Vec<String>,
    pub line: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAuthorizer {
    pub name: String,
    pub kind: HttpAuthorizerKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpAuthorizerKind {
    Jwt {
        /// `$request.header.Authorization` or the like.
        identity_source: String,
        issuer: String,
        audience: Vec<String>,
        /// Those of routes that name none.
        scopes: Vec<String>,
    },
    Lambda {
        function: String,
        /// `$request.header.X`, `$request.querystring.Y`, ..
        identity_sources: Vec<String>,
        /// 0: every request asks the function.
        ttl_secs: u32,
        /// `{"isAuthorized": ..}` rather than an IAM policy.
        simple_responses: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSocketApi {
    pub logical_id: String,
    pub id: String,
    pub stage: String,
    pub stage_variables: BTreeMap<String, String>,
    /// `$request.body.action` or the like.
    pub route_selection_expression: String,
    pub routes: Vec<SocketRoute>,
    /// What `$connect` asks first.
    pub authorizer: Option<SocketAuthorizer>,
    pub line: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketRoute {
    /// `$connect`, `$disconnect`, `$default` or a value of the selection expression.
    pub route_key: String,
    pub function: String,
    pub timeout_ms: u32,
    /// Whether the function's answer is sent back over the socket.
    pub responds: bool,
    pub line: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketAuthorizer {
    pub name: String,
    pub function: String,
    /// `route.request.header.X`, `route.request.querystring.Y`, ..; a request without one of them is refused unasked.
    pub identity_sources: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventBus {
    pub logical_id: String,
    pub name: String,
    pub arn: String,
    pub line: usize,
}

/// An EventBridge rule with a pattern; one with a schedule is a [`Schedule`] per target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub logical_id: String,
    pub name: String,
    pub arn: String,
    pub bus: String,
    /// JSON.
    pub pattern: String,
    pub enabled: bool,
    pub targets: Vec<RuleTarget>,
    pub line: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleTarget {
    pub id: String,
    pub target: Target,
    pub input: Input,
    pub delivery: Delivery,
}

/// What of an event a target gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The event as it is.
    Event,
    /// This JSON instead.
    Constant(String),
    /// The part that this JSON path selects.
    Path(String),
    /// The template with `<name>` replaced by what the JSON path of that name selects.
    Transformer { paths: BTreeMap<String, String>, template: String },
}

/// How long a target is tried, and what then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub maximum_retry_attempts: u32,
    pub maximum_event_age_secs: u32,
    pub dead_letter_queue: Option<String>,
}

impl Default for Delivery {
    fn default() -> Self {
        Self { maximum_retry_attempts: 185, maximum_event_age_secs: 86_400, dead_letter_queue: None }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    pub logical_id: String,
    pub name: String,
    /// Of the rule or the schedule.
    pub arn: String,
    pub source: ScheduleSource,
    /// `rate(5 minutes)`, `cron(0 8 * * ? *)`, and for the scheduler `at(2027-01-01T00:00:00)`.
    pub expression: String,
    /// IANA name; `UTC` unless declared.
    pub timezone: String,
    pub enabled: bool,
    /// RFC 3339; nothing runs before.
    pub start: Option<String>,
    /// RFC 3339; nothing runs after.
    pub end: Option<String>,
    pub target: Target,
    pub input: Input,
    pub delivery: Delivery,
    pub line: usize,
}

/// Who calls, which is what the `source` of a scheduled event without input says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScheduleSource {
    /// A rule: `aws.events`.
    Rule,
    /// EventBridge Scheduler: `aws.scheduler`.
    Scheduler,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub logical_id: String,
    /// `file:PATH`, as `Ref` and `GetAtt` answer.
    pub value: String,
    pub usage: KeyUsage,
    /// `SYMMETRIC_DEFAULT`, `RSA_2048`, ..
    pub spec: String,
    pub line: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyUsage {
    EncryptDecrypt,
    SignVerify,
    GenerateVerifyMac,
    KeyAgreement,
}
