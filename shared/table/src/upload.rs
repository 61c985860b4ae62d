//! Uploads and what each person has open.

use std::collections::HashMap;

use async_trait::async_trait;
use aws_sdk_dynamodb::types::builders::PutBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, Put, TransactWriteItem, Update};
use domain::fault::PortFault;
use domain::id::{TenantId, UploadId, UserId};
use domain::upload::file::{Keeping, StoredFile};
use domain::upload::quota::Quota;
use domain::upload::{Origin, REMEMBERED, Status, Upload, UploadStore};
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{Date, Duration, OffsetDateTime};

use crate::Table;
use crate::file;
use crate::item::{self, Item, fault, instant, number, text, transact};

const DAY: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]");

/// How long a quota is kept that nobody used: longer than any upload is open.
const QUOTA_KEPT: Duration = Duration::days(30);

const PREFIX: &str = "UPLOAD#";

fn pk(upload_id: &UploadId) -> String {
    format!("{PREFIX}{upload_id}")
}

fn quota_pk(tenant_id: &TenantId, user_id: &UserId) -> String {
    format!("QUOTA#{tenant_id}#{user_id}")
}

/// Where uploads of a status are on the index.
fn kind(status: Status) -> String {
    format!("upload.{}", status.as_str())
}

fn upload_item(upload: &Upload) -> Result<Item, PortFault> {
    let mut item = item::item("upload", pk(&upload.upload_id), upload)?;
    match upload.due_at() {
        Some(due_at) => {
            item.insert("kind".to_owned(), text(kind(upload.status)));
            item.insert("at".to_owned(), instant(due_at));
        }
        None => {
            item.insert("ttl".to_owned(), instant(upload.touched_at + REMEMBERED));
        }
    }
    Ok(item)
}

/// Keeps a version if the stored one is the one before it; the first one, if there is none.
fn put(table: &str, upload: &Upload) -> Result<PutBuilder, PortFault> {
    let put = Put::builder().table_name(table).set_item(Some(upload_item(upload)?));
    Ok(if upload.version == 1 {
        put.condition_expression("attribute_not_exists(pk)")
    } else {
        put.condition_expression("#version = :before")
            .expression_attribute_names("#version", "version")
            .expression_attribute_values(":before", number(upload.version - 1))
    })
}

fn quota_item(quota: &Quota, now: OffsetDateTime) -> Result<Item, PortFault> {
    let day = quota.day.format(DAY).map_err(|cause| item::broken("writing a quota", &cause))?;
    let mut item = HashMap::from([
        ("pk".to_owned(), text(quota_pk(&quota.tenant_id, &quota.user_id))),
        ("sk".to_owned(), text("QUOTA")),
        ("entity".to_owned(), text("quota")),
        ("day".to_owned(), text(day)),
        ("bytes".to_owned(), number(quota.bytes)),
        ("version".to_owned(), number(quota.version)),
    ]);
    item.insert("ttl".to_owned(), instant(now + QUOTA_KEPT));
    if !quota.open.is_empty() {
        let open = quota.open.iter().map(ToString::to_string).collect();
        item.insert("open".to_owned(), AttributeValue::Ss(open));
    }
    Ok(item)
}

/// A quota that is not there, or without what its first use writes, is one of nothing.
fn quota_from(item: &Item, mut quota: Quota) -> Result<Quota, PortFault> {
    const OPERATION: &str = "reading a quota";
    let number = |name: &str| item.get(name).and_then(|value| value.as_n().ok()).and_then(|text| text.parse().ok());
    for upload_id in item.get("open").and_then(|open| open.as_ss().ok()).into_iter().flatten() {
        quota.open.insert(UploadId::parse(upload_id).map_err(|cause| item::broken(OPERATION, &cause))?);
    }
    if let Some(day) = item.get("day").and_then(|day| day.as_s().ok()) {
        quota.day = Date::parse(day, DAY).map_err(|cause| item::broken(OPERATION, &cause))?;
    }
    quota.bytes = number("bytes").unwrap_or_default();
    quota.version = number("version").unwrap_or_default();
    Ok(quota)
}

/// Takes an upload that is open no more out of its sender's quota. Imports are in nobody's.
fn leave_quota(table: &str, upload: &Upload) -> Result<Option<Update>, PortFault> {
    if matches!(upload.origin, Origin::Import { .. }) {
        return Ok(None);
    }
    let update = Update::builder()
        .table_name(table)
        .key("pk", text(quota_pk(&upload.tenant_id, &upload.user_id)))
        .key("sk", text("QUOTA"))
        .update_expression("DELETE #open :upload ADD #version :one")
        .expression_attribute_names("#open", "open")
        .expression_attribute_names("#version", "version")
        .expression_attribute_values(":upload", AttributeValue::Ss(vec![upload.upload_id.to_string()]))
        .expression_attribute_values(":one", number(1))
        .build();
    update.map(Some).map_err(|cause| item::broken("TransactWriteItems upload", &cause))
}

#[async_trait]
impl UploadStore for Table {
    async fn upload(&self, upload_id: &UploadId) -> Result<Option<Upload>, PortFault> {
        let request = self.client.get_item().table_name(&self.name).consistent_read(true);
        let request = request.key("pk", text(pk(upload_id))).key("sk", text("UPLOAD"));
        request.send().await.map_err(fault("GetItem upload"))?.item.map(item::parse).transpose()
    }

    async fn quota(&self, tenant_id: &TenantId, user_id: &UserId) -> Result<Quota, PortFault> {
        let request = self.client.get_item().table_name(&self.name).consistent_read(true);
        let request = request.key("pk", text(quota_pk(tenant_id, user_id))).key("sk", text("QUOTA"));
        let answer = request.send().await.map_err(fault("GetItem quota"))?;
        quota_from(&answer.item.unwrap_or_default(), Quota::new(tenant_id.clone(), user_id.clone()))
    }

    async fn open(&self, upload: &Upload, quota: Option<&Quota>) -> Result<(), PortFault> {
        const OPERATION: &str = "TransactWriteItems upload";
        let mut puts = vec![put(&self.name, upload)?];
        if let Some(quota) = quota {
            let unchanged = Put::builder()
                .table_name(&self.name)
                .set_item(Some(quota_item(quota, upload.created_at)?))
                .condition_expression("attribute_not_exists(pk) OR #version = :before")
                .expression_attribute_names("#version", "version")
                .expression_attribute_values(":before", number(quota.version.saturating_sub(1)));
            puts.push(unchanged);
        }
        let mut request = self.client.transact_write_items();
        for put in puts {
            let put = put.build().map_err(|cause| item::broken(OPERATION, &cause))?;
            request = request.transact_items(TransactWriteItem::builder().put(put).build());
        }
        transact(request, OPERATION).await
    }

    async fn change(&self, upload: &Upload) -> Result<(), PortFault> {
        const OPERATION: &str = "TransactWriteItems upload";
        let put = put(&self.name, upload)?.build().map_err(|cause| item::broken(OPERATION, &cause))?;
        let leave = if upload.status.is_open() { None } else { leave_quota(&self.name, upload)? };
        let mut request =
            self.client.transact_write_items().transact_items(TransactWriteItem::builder().put(put).build());
        if let Some(leave) = leave {
            request = request.transact_items(TransactWriteItem::builder().update(leave).build());
        }
        transact(request, OPERATION).await
    }

    async fn complete(&self, upload: &Upload, stored: &StoredFile, keeping: Keeping) -> Result<(), PortFault> {
        const OPERATION: &str = "TransactWriteItems file";
        let put = put(&self.name, upload)?.build().map_err(|cause| item::broken(OPERATION, &cause))?;
        let mut request =
            self.client.transact_write_items().transact_items(TransactWriteItem::builder().put(put).build());
        for step in file::keep(&self.name, stored, keeping)? {
            request = request.transact_items(step);
        }
        if let Some(leave) = leave_quota(&self.name, upload)? {
            request = request.transact_items(TransactWriteItem::builder().update(leave).build());
        }
        transact(request, OPERATION).await
    }

    async fn due(&self, status: Status, now: OffsetDateTime, limit: u32) -> Result<Vec<UploadId>, PortFault> {
        const OPERATION: &str = "Query due uploads";
        let keys = self.due_keys(&kind(status), now, limit, OPERATION).await?;
        let ids = keys.iter().filter_map(|key| key.get("pk")?.as_s().ok()?.strip_prefix(PREFIX));
        ids.map(|id| UploadId::parse(id).map_err(|cause| item::broken(OPERATION, &cause))).collect()
    }
}

impl Table {
    /// The keys of what is on the index under `kind` up to `now`, the oldest first.
    pub(crate) async fn due_keys(
        &self,
        kind: &str,
        now: OffsetDateTime,
        limit: u32,
        operation: &'static str,
    ) -> Result<Vec<Item>, PortFault> {
        let page = self
            .client
            .query()
            .table_name(&self.name)
            .index_name("by_time")
            .key_condition_expression("#kind = :kind AND #at <= :now")
            .expression_attribute_names("#kind", "kind")
            .expression_attribute_names("#at", "at")
            .expression_attribute_values(":kind", text(kind))
            .expression_attribute_values(":now", instant(now))
            .limit(i32::try_from(limit).unwrap_or(i32::MAX))
            .send()
            .await
            .map_err(fault(operation))?;
        Ok(page.items.unwrap_or_default())
    }
}
