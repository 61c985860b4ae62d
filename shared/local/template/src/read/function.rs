//! AWS::Serverless::Function, and AWS::Lambda::EventInvokeConfig, which says the same as its `EventInvokeConfig`.

use std::collections::BTreeMap;

use super::{Reader, target};
use crate::document::Resource;
use crate::fault::Result;
use crate::identity;
use crate::model::{Asynchronous, Function, LogFormat, Logging};
use crate::props::Props;
use crate::scope::Scope;
use crate::yaml::Kind;

/// Lambda sets these itself and refuses a function that does.
const RESERVED_VARIABLES: &[&str] = &[
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_DEFAULT_REGION",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "LAMBDA_RUNTIME_DIR",
    "LAMBDA_TASK_ROOT",
    "_HANDLER",
    "_X_AMZN_TRACE_ID",
];

/// Rights, cost, start-up time and deployment: none of them shows locally.
const WITHOUT_EFFECT: &[&str] = &[
    "Architectures",
    "AssumeRolePolicyDocument",
    "AutoPublishAlias",
    "AutoPublishAliasAllProperties",
    "AutoPublishCodeSha256",
    "CodeSigningConfigArn",
    "DeploymentPreference",
    "Description",
    "EphemeralStorage",
    "FunctionName",
    "Handler",
    "KmsKeyArn",
    "PermissionsBoundary",
    "Policies",
    "PropagateTags",
    "ProvisionedConcurrencyConfig",
    "RecursiveLoop",
    "Role",
    "RolePath",
    "RuntimeManagementConfig",
    "SourceKMSKeyArn",
    "Tags",
    "Tracing",
    "VersionDescription",
    "VpcConfig",
];

impl Reader<'_> {
    pub(super) fn function(&mut self, resource: &Resource) -> Result<()> {
        let mut props = self.props(resource);
        let name = self.scope.name_of(resource)?;
        check_runtime(&mut props)?;
        let binary = self.binary(resource, &props)?;
        let package = package(&mut props, binary.as_deref())?;
        let function = Function {
            logical_id: resource.logical_id.clone(),
            arn: identity::arn(self.scope, resource, resource.line)?,
            binary: binary.unwrap_or_else(|| package.clone()),
            package,
            timeout_secs: props.number("Timeout", 1..=900)?.unwrap_or(3),
            memory_mb: props.number("MemorySize", 128..=10_240)?.unwrap_or(128),
            reserved_concurrency: props.number("ReservedConcurrentExecutions", 0..=100_000)?,
            environment: environment(self.scope, &mut props)?,
            logging: logging(&mut props)?,
            asynchronous: asynchronous(self.scope, &mut props)?,
            name: name.clone(),
            line: resource.line,
        };
        self.bundle.functions.push(function);
        for entry in props.entries("Events")? {
            let event = props.nested("Events", entry.value)?;
            self.event(resource, &name, &entry.key, event)?;
        }
        props.without_effect(WITHOUT_EFFECT);
        props.finish();
        Ok(())
    }

    fn binary(&self, resource: &Resource, props: &Props<'_>) -> Result<Option<String>> {
        let Some(node) = &resource.binary else { return Ok(None) };
        match self.scope.resolve(node)?.as_ref().and_then(|node| node.as_text()) {
            Some(binary) => Ok(Some(binary.to_owned())),
            None => Err(props.fault(node.line, "Metadata.BuildProperties.Binary", "must be text")),
        }
    }

    pub(super) fn event_invoke_config(&mut self, resource: &Resource) -> Result<()> {
        let mut props = self.props(resource);
        let function = target::function(self.scope, &mut props, "FunctionName")?;
        let config = invoke_config(self.scope, &mut props)?;
        props.without_effect(&["Qualifier"]);
        props.finish();
        self.invoke_configs.push((function, config));
        Ok(())
    }
}

fn check_runtime(props: &mut Props<'_>) -> Result<()> {
    let line = props.line_of("PackageType");
    if let Some(kind) = props.text("PackageType")?.filter(|kind| kind != "Zip") {
        return Err(props.fault(line, "PackageType", format!("is `{kind}`; only `Zip` runs locally")));
    }
    let line = props.line_of("Runtime");
    let runtime = props.required("Runtime")?;
    if !matches!(runtime.as_str(), "provided.al2023" | "provided.al2") {
        return Err(props.fault(line, "Runtime", format!("is `{runtime}`; only `provided.al2023` runs locally")));
    }
    Ok(())
}

/// The folder's name: `./functions/lark-work` and `target/lambda/lark-work` are package `lark-work`.
fn package(props: &mut Props<'_>, binary: Option<&str>) -> Result<String> {
    let line = props.line_of("CodeUri");
    let uri = props.required("CodeUri")?;
    if uri.contains("://") {
        return Err(props.fault(line, "CodeUri", format!("must be a folder of this project, not `{uri}`")));
    }
    let folder = uri.split(['/', '\\']).rfind(|part| !part.is_empty() && *part != ".");
    match folder.or(binary) {
        Some(package) if package != ".." => Ok(package.to_owned()),
        _ => Err(props.fault(line, "CodeUri", format!("names no folder: `{uri}`"))),
    }
}

fn environment(scope: &Scope<'_>, props: &mut Props<'_>) -> Result<BTreeMap<String, String>> {
    let mut environment = BTreeMap::new();
    let Some(mut child) = props.child("Environment")? else { return Ok(environment) };
    for entry in child.entries("Variables")? {
        let name = entry.key;
        let fault = |what: &str| child.fault(entry.line, &format!("Variables.{name}"), what);
        let is_name = name.chars().next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_name {
            return Err(fault("must be named with letters, digits and `_`, a letter first"));
        }
        if RESERVED_VARIABLES.contains(&name.as_str()) {
            return Err(fault("is reserved: Lambda sets it"));
        }
        let Kind::Scalar { text, plain } = entry.value.kind else { return Err(fault("must be text")) };
        if plain && matches!(text.to_ascii_lowercase().as_str(), "yes" | "no" | "on" | "off") {
            scope.warn(
                entry.line,
                format!("`{name}: {text}` is a boolean to SAM and arrives as another text; quote it"),
            );
        }
        environment.insert(name, text);
    }
    child.finish();
    Ok(environment)
}

fn logging(props: &mut Props<'_>) -> Result<Logging> {
    let Some(mut config) = props.child("LoggingConfig")? else { return Ok(Logging::default()) };
    let formats = [("JSON", LogFormat::Json), ("Text", LogFormat::Text)];
    let format = config.choice("LogFormat", &formats)?.unwrap_or_default();
    let line = config.line_of("ApplicationLogLevel");
    let application_level = config.text("ApplicationLogLevel")?;
    if application_level.is_some() && format == LogFormat::Text {
        return Err(config.fault(line, "ApplicationLogLevel", "needs `LogFormat: JSON`"));
    }
    let logging = Logging { format, application_level, group: config.text("LogGroup")? };
    config.without_effect(&["SystemLogLevel"]);
    config.finish();
    Ok(logging)
}

fn asynchronous(scope: &Scope<'_>, props: &mut Props<'_>) -> Result<Asynchronous> {
    let mut asynchronous = match props.child("EventInvokeConfig")? {
        None => Asynchronous::default(),
        Some(mut config) => {
            let asynchronous = invoke_config(scope, &mut config)?;
            config.finish();
            asynchronous
        }
    };
    if let Some(mut config) = props.child("DeadLetterQueue")? {
        let line = config.line_of("Type");
        if let Some(kind) = config.text("Type")?.filter(|kind| kind != "SQS") {
            return Err(config.fault(line, "Type", format!("is `{kind}`; only `SQS` runs locally")));
        }
        asynchronous.dead_letter_queue = Some(target::standard_queue(scope, &mut config, "TargetArn")?);
        config.finish();
    }
    Ok(asynchronous)
}

fn invoke_config(scope: &Scope<'_>, config: &mut Props<'_>) -> Result<Asynchronous> {
    let mut asynchronous = Asynchronous::default();
    if let Some(attempts) = config.number("MaximumRetryAttempts", 0..=2)? {
        asynchronous.maximum_retry_attempts = attempts;
    }
    if let Some(age) = config.number("MaximumEventAgeInSeconds", 60..=21_600)? {
        asynchronous.maximum_event_age_secs = age;
    }
    if let Some(mut destinations) = config.child("DestinationConfig")? {
        asynchronous.on_success = target::destination(scope, &mut destinations, "OnSuccess")?;
        asynchronous.on_failure = target::destination(scope, &mut destinations, "OnFailure")?;
        destinations.finish();
    }
    Ok(asynchronous)
}
