//! AWS::S3::Bucket, with the notifications that it declares itself.

use super::{Reader, target};
use crate::document::Resource;
use crate::fault::Result;
use crate::identity;
use crate::model::{Bucket, BucketCors, LifecycleRule, Notification, Target};
use crate::props::Props;
use crate::scope::Scope;

impl Reader<'_> {
    pub(super) fn bucket(&mut self, resource: &Resource) -> Result<()> {
        let mut props = self.props(resource);
        let versioning_line = props.line_of("VersioningConfiguration");
        let is_versioned = match props.child("VersioningConfiguration")? {
            None => false,
            Some(mut versioning) => {
                let enabled = versioning.choice("Status", &[("Enabled", true), ("Suspended", false)])?.unwrap_or(false);
                versioning.finish();
                enabled
            }
        };
        if is_versioned {
            let message =
                format!("bucket `{}` keeps no versions locally: what is overwritten is gone", resource.logical_id);
            self.scope.warn(versioning_line, message);
        }
        let mut lifecycle = Vec::new();
        if let Some(mut configuration) = props.child("LifecycleConfiguration")? {
            for rule in configuration.children("Rules")? {
                lifecycle.extend(lifecycle_rule(self.scope, rule)?);
            }
            configuration.without_effect(&["TransitionDefaultMinimumObjectSize"]);
            configuration.finish();
        }
        let mut cors = Vec::new();
        if let Some(mut configuration) = props.child("CorsConfiguration")? {
            for rule in configuration.children("CorsRules")? {
                cors.push(cors_rule(rule)?);
            }
            configuration.finish();
        }
        let mut notifications = Vec::new();
        if let Some(mut configuration) = props.child("NotificationConfiguration")? {
            for (list, key) in [("QueueConfigurations", "Queue"), ("LambdaConfigurations", "Function")] {
                for notification in configuration.children(list)? {
                    notifications.push(declared_notification(self.scope, notification, key)?);
                }
            }
            configuration.finish();
        }
        self.bundle.buckets.push(Bucket {
            logical_id: resource.logical_id.clone(),
            name: self.scope.name_of(resource)?,
            arn: identity::arn(self.scope, resource, resource.line)?,
            is_versioned,
            lifecycle,
            cors,
            notifications,
            line: resource.line,
        });
        props.without_effect(&[
            "AbacStatus",
            "AccelerateConfiguration",
            "AccessControl",
            "AnalyticsConfigurations",
            "BucketEncryption",
            "BucketName",
            "IntelligentTieringConfigurations",
            "InventoryConfigurations",
            "LoggingConfiguration",
            "MetricsConfigurations",
            "OwnershipControls",
            "PublicAccessBlockConfiguration",
            "Tags",
        ]);
        props.finish();
        Ok(())
    }
}

/// None if the rule is disabled.
fn lifecycle_rule(scope: &Scope<'_>, mut rule: Props<'_>) -> Result<Option<LifecycleRule>> {
    let missing = rule.missing("Status");
    let enabled = rule.choice("Status", &[("Enabled", true), ("Disabled", false)])?.ok_or(missing)?;
    if !enabled {
        return Ok(None);
    }
    // Carried out without one of these, the rule would delete more than on AWS.
    let narrower = ["ExpirationDate", "ObjectSizeGreaterThan", "ObjectSizeLessThan", "TagFilters"];
    if let Some(key) = narrower.into_iter().find(|key| rule.has(key)) {
        let fault = rule.fault(rule.line_of(key), key, "is not carried out locally, and so neither is its rule");
        scope.warn(fault.line, fault.message);
        return Ok(None);
    }
    let id = rule.text("Id")?;
    let prefix = rule.text("Prefix")?.unwrap_or_default();
    let days = |props: &mut Props<'_>, key: &str| props.number(key, 1..=36_500);
    let expiration_days = days(&mut rule, "ExpirationInDays")?;
    let abort_incomplete_upload_days = match rule.child("AbortIncompleteMultipartUpload")? {
        None => None,
        Some(mut abort) => {
            let days = days(&mut abort, "DaysAfterInitiation")?;
            abort.finish();
            days
        }
    };
    // Storage classes cost the same here, and there are no versions to expire.
    rule.without_effect(&[
        "ExpiredObjectDeleteMarker",
        "NoncurrentVersionExpiration",
        "NoncurrentVersionExpirationInDays",
        "NoncurrentVersionTransition",
        "NoncurrentVersionTransitions",
        "Transition",
        "Transitions",
    ]);
    rule.finish();
    Ok(Some(LifecycleRule { id, prefix, expiration_days, abort_incomplete_upload_days }))
}

fn cors_rule(mut rule: Props<'_>) -> Result<BucketCors> {
    let cors = BucketCors {
        allowed_origins: rule.texts("AllowedOrigins")?,
        allowed_methods: rule.texts("AllowedMethods")?,
        allowed_headers: rule.texts("AllowedHeaders")?,
        exposed_headers: rule.texts("ExposedHeaders")?,
        max_age_secs: rule.number("MaxAge", 0..=i64::from(i32::MAX))?,
    };
    rule.without_effect(&["Id"]);
    rule.finish();
    Ok(cors)
}

fn declared_notification(scope: &Scope<'_>, mut props: Props<'_>, key: &str) -> Result<Notification> {
    let line = props.line_of("Event");
    let event = props.required("Event")?;
    check_event(&props, line, "Event", &event)?;
    let target = if key == "Queue" {
        Target::Queue { name: target::standard_queue(scope, &mut props, key)?, message_group_id: None }
    } else {
        Target::Function(target::function(scope, &mut props, key)?)
    };
    let (prefix, suffix) = key_filter(&mut props)?;
    props.finish();
    Ok(Notification { events: vec![event], prefix, suffix, target })
}

pub(super) fn check_event(props: &Props<'_>, line: usize, key: &str, event: &str) -> Result<()> {
    if event.starts_with("s3:") {
        return Ok(());
    }
    Err(props.fault(line, key, format!("must be an S3 event such as `s3:ObjectCreated:*`, not `{event}`")))
}

/// Prefix and suffix of `Filter.S3Key.Rules`; empty where there is none.
pub(super) fn key_filter(props: &mut Props<'_>) -> Result<(String, String)> {
    let mut prefix = String::new();
    let mut suffix = String::new();
    if let Some(mut filter) = props.child("Filter")? {
        if let Some(mut key) = filter.child("S3Key")? {
            for mut rule in key.children("Rules")? {
                let line = rule.line_of("Name");
                let name = rule.required("Name")?;
                let value = rule.required("Value")?;
                match name.to_ascii_lowercase().as_str() {
                    "prefix" => prefix = value,
                    "suffix" => suffix = value,
                    _ => return Err(rule.fault(line, "Name", format!("must be `prefix` or `suffix`, not `{name}`"))),
                }
                rule.finish();
            }
            key.finish();
        }
        filter.finish();
    }
    Ok((prefix, suffix))
}
