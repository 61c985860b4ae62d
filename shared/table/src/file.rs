//! Files and the content that equal ones share.

use async_trait::async_trait;
use aws_sdk_dynamodb::types::{Delete, Put, TransactWriteItem, Update};
use domain::chat::FileCatalog;
use domain::fault::PortFault;
use domain::id::{ConversationId, FileId, TenantId};
use domain::upload::file::{Content, FileStore, Keeping, StoredFile};
use time::OffsetDateTime;

use crate::Table;
use crate::item::{self, fault, instant, number, text, transact};

/// Where content that nothing refers to is on the index.
const UNREFERENCED: &str = "content.unreferenced";

/// How often content is read again that another file changed.
const TRIES: usize = 8;

fn pk(file_id: &FileId) -> String {
    format!("FILE#{file_id}")
}

fn content_pk(tenant_id: &TenantId, content_id: &str) -> String {
    format!("CONTENT#{tenant_id}#{content_id}")
}

/// The steps that keep a file, to be done with the end of its upload.
pub(crate) fn keep(table: &str, file: &StoredFile, keeping: Keeping) -> Result<[TransactWriteItem; 2], PortFault> {
    const OPERATION: &str = "TransactWriteItems file";
    let new = |item| {
        let put =
            Put::builder().table_name(table).set_item(Some(item)).condition_expression("attribute_not_exists(pk)");
        let put = put.build().map_err(|cause| item::broken(OPERATION, &cause))?;
        Ok::<_, PortFault>(TransactWriteItem::builder().put(put).build())
    };
    let content_pk = content_pk(&file.tenant_id, &file.content_id);
    let content = match keeping {
        Keeping::First => {
            let content = Content {
                tenant_id: file.tenant_id.clone(),
                content_id: file.content_id.clone(),
                object_key: file.object_key.clone(),
                checksum_sha256: file.checksum_sha256,
                references: 1,
            };
            new(item::item("content", content_pk, &content)?)?
        }
        Keeping::Shared => {
            let update = Update::builder()
                .table_name(table)
                .key("pk", text(content_pk))
                .key("sk", text("CONTENT"))
                .update_expression("SET #references = #references + :one")
                .condition_expression("object_key = :object AND #references > :none")
                .expression_attribute_names("#references", "references")
                .expression_attribute_values(":one", number(1))
                .expression_attribute_values(":none", number(0))
                .expression_attribute_values(":object", text(&file.object_key))
                .build()
                .map_err(|cause| item::broken(OPERATION, &cause))?;
            TransactWriteItem::builder().update(update).build()
        }
    };
    Ok([new(item::item("file", pk(&file.file_id), file)?)?, content])
}

#[async_trait]
impl FileStore for Table {
    async fn file(&self, file_id: &FileId) -> Result<Option<StoredFile>, PortFault> {
        let request = self.client.get_item().table_name(&self.name).consistent_read(true);
        let request = request.key("pk", text(pk(file_id))).key("sk", text("FILE"));
        request.send().await.map_err(fault("GetItem file"))?.item.map(item::parse).transpose()
    }

    async fn content(&self, tenant_id: &TenantId, content_id: &str) -> Result<Option<Content>, PortFault> {
        let request = self.client.get_item().table_name(&self.name).consistent_read(true);
        let request = request.key("pk", text(content_pk(tenant_id, content_id))).key("sk", text("CONTENT"));
        request.send().await.map_err(fault("GetItem content"))?.item.map(item::parse).transpose()
    }

    async fn remove(&self, file: &StoredFile, now: OffsetDateTime) -> Result<Content, PortFault> {
        const OPERATION: &str = "TransactWriteItems file removal";
        for _ in 0..TRIES {
            let content = self.content(&file.tenant_id, &file.content_id).await?;
            let Some(before) = content.filter(|content| content.references > 0) else { break };
            let left = Content { references: before.references - 1, ..before };
            match transact(self.removal(file, &left, now)?, OPERATION).await {
                Ok(()) => return Ok(left),
                Err(PortFault::Conflict { .. }) if self.file(&file.file_id).await?.is_some() => {}
                Err(fault) => return Err(fault),
            }
        }
        Err(PortFault::Conflict { operation: OPERATION })
    }

    async fn forget(&self, content: &Content) -> Result<(), PortFault> {
        let result = self
            .client
            .delete_item()
            .table_name(&self.name)
            .key("pk", text(content_pk(&content.tenant_id, &content.content_id)))
            .key("sk", text("CONTENT"))
            .condition_expression("object_key = :object AND #references = :none")
            .expression_attribute_names("#references", "references")
            .expression_attribute_values(":object", text(&content.object_key))
            .expression_attribute_values(":none", number(0))
            .send()
            .await
            .map_err(fault("DeleteItem content"));
        match result {
            Ok(_) | Err(PortFault::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn unreferenced(&self, before: OffsetDateTime, limit: u32) -> Result<Vec<Content>, PortFault> {
        let keys = self.due_keys(UNREFERENCED, before, limit, "Query unreferenced contents").await?;
        let mut contents = Vec::new();
        for key in keys {
            let pk = key.get("pk").and_then(|pk| pk.as_s().ok()).and_then(|pk| pk.strip_prefix("CONTENT#"));
            let Some((tenant_id, content_id)) = pk.and_then(|pk| pk.split_once('#')) else { continue };
            let tenant_id = TenantId::parse(tenant_id).map_err(|cause| item::broken("Query contents", &cause))?;
            // It may have been forgotten since the index was read.
            let content = self.content(&tenant_id, content_id).await?;
            contents.extend(content.filter(|content| content.references == 0));
        }
        Ok(contents)
    }
}

impl Table {
    /// Forgets the file and leaves `left` of its content.
    fn removal(
        &self,
        file: &StoredFile,
        left: &Content,
        now: OffsetDateTime,
    ) -> Result<aws_sdk_dynamodb::operation::transact_write_items::builders::TransactWriteItemsFluentBuilder, PortFault>
    {
        const OPERATION: &str = "TransactWriteItems file removal";
        let delete = Delete::builder()
            .table_name(&self.name)
            .key("pk", text(pk(&file.file_id)))
            .key("sk", text("FILE"))
            .condition_expression("attribute_exists(pk)")
            .build()
            .map_err(|cause| item::broken(OPERATION, &cause))?;
        let update = Update::builder()
            .table_name(&self.name)
            .key("pk", text(content_pk(&left.tenant_id, &left.content_id)))
            .key("sk", text("CONTENT"))
            .condition_expression("object_key = :object AND #references = :before")
            .expression_attribute_names("#references", "references")
            .expression_attribute_values(":object", text(&left.object_key))
            .expression_attribute_values(":before", number(left.references + 1))
            .expression_attribute_values(":left", number(left.references));
        let update = if left.references > 0 {
            update.update_expression("SET #references = :left")
        } else {
            // From now on the sweep finds it.
            update
                .update_expression("SET #references = :left, #kind = :kind, #at = :now")
                .expression_attribute_names("#kind", "kind")
                .expression_attribute_names("#at", "at")
                .expression_attribute_values(":kind", text(UNREFERENCED))
                .expression_attribute_values(":now", instant(now))
        };
        let update = update.build().map_err(|cause| item::broken(OPERATION, &cause))?;
        let request = self.client.transact_write_items();
        let request = request.transact_items(TransactWriteItem::builder().delete(delete).build());
        Ok(request.transact_items(TransactWriteItem::builder().update(update).build()))
    }
}

#[async_trait]
impl FileCatalog for Table {
    async fn ready(
        &self,
        tenant_id: &TenantId,
        conversation_id: &ConversationId,
        file_id: &FileId,
    ) -> Result<bool, PortFault> {
        let file = self.file(file_id).await?;
        Ok(file.is_some_and(|file| file.tenant_id == *tenant_id && file.conversation_id == *conversation_id))
    }
}
