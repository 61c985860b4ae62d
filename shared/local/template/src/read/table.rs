//! AWS::DynamoDB::Table.

use std::collections::BTreeSet;

use super::Reader;
use crate::document::Resource;
use crate::fault::Result;
use crate::identity;
use crate::model::{AttributeType, Index, KeySchema, Projection, StreamView, Table};
use crate::props::Props;

impl Reader<'_> {
    pub(super) fn table(&mut self, resource: &Resource) -> Result<()> {
        let mut props = self.props(resource);
        let definitions_line = props.line_of("AttributeDefinitions");
        let attributes = attributes(&mut props)?;
        let key = key_schema(&mut props)?;
        let global_indexes = indexes(&mut props, "GlobalSecondaryIndexes")?;
        let local_indexes = indexes(&mut props, "LocalSecondaryIndexes")?;

        let indexes = || global_indexes.iter().chain(&local_indexes);
        let keys = std::iter::once(&key).chain(indexes().map(|index| &index.key));
        let used: BTreeSet<&str> =
            keys.flat_map(|key| [Some(&key.hash), key.range.as_ref()]).flatten().map(String::as_str).collect();
        let defined: BTreeSet<&str> = attributes.iter().map(|(name, _)| name.as_str()).collect();
        if let Some(name) = used.difference(&defined).next() {
            let what = format!("lacks `{name}`, which is part of a key");
            return Err(props.fault(definitions_line, "AttributeDefinitions", what));
        }
        if let Some(name) = defined.difference(&used).next() {
            let what = format!("has `{name}`, which is part of no key; DynamoDB refuses that");
            return Err(props.fault(definitions_line, "AttributeDefinitions", what));
        }
        let mut names = BTreeSet::new();
        if let Some(index) = indexes().find(|index| !names.insert(index.name.as_str())) {
            return Err(props.fault(resource.line, "IndexName", format!("`{}` is given twice", index.name)));
        }

        let stream = match props.child("StreamSpecification")? {
            None => None,
            Some(mut specification) => {
                let views = [
                    ("KEYS_ONLY", StreamView::KeysOnly),
                    ("NEW_IMAGE", StreamView::NewImage),
                    ("OLD_IMAGE", StreamView::OldImage),
                    ("NEW_AND_OLD_IMAGES", StreamView::NewAndOldImages),
                ];
                let missing = specification.missing("StreamViewType");
                let view = specification.choice("StreamViewType", &views)?.ok_or(missing)?;
                specification.without_effect(&["ResourcePolicy"]);
                specification.finish();
                Some(view)
            }
        };
        let ttl_attribute = match props.child("TimeToLiveSpecification")? {
            None => None,
            Some(mut specification) => {
                let missing = specification.missing("Enabled");
                let enabled = specification.flag("Enabled")?.ok_or(missing)?;
                let attribute = specification.text("AttributeName")?;
                if enabled && attribute.is_none() {
                    return Err(specification.missing("AttributeName"));
                }
                specification.finish();
                attribute.filter(|_| enabled)
            }
        };
        self.bundle.tables.push(Table {
            logical_id: resource.logical_id.clone(),
            name: self.scope.name_of(resource)?,
            arn: identity::arn(self.scope, resource, resource.line)?,
            attributes,
            key,
            global_indexes,
            local_indexes,
            stream,
            ttl_attribute,
            line: resource.line,
        });
        props.without_effect(&[
            "BillingMode",
            "ContributorInsightsSpecification",
            "DeletionProtectionEnabled",
            "OnDemandThroughput",
            "PointInTimeRecoverySpecification",
            "ProvisionedThroughput",
            "ResourcePolicy",
            "SSESpecification",
            "TableClass",
            "TableName",
            "Tags",
            "WarmThroughput",
        ]);
        props.finish();
        Ok(())
    }
}

fn attributes(props: &mut Props<'_>) -> Result<Vec<(String, AttributeType)>> {
    let types = [("S", AttributeType::String), ("N", AttributeType::Number), ("B", AttributeType::Binary)];
    let mut attributes: Vec<(String, AttributeType)> = Vec::new();
    for mut definition in props.children("AttributeDefinitions")? {
        let name = definition.required("AttributeName")?;
        let missing = definition.missing("AttributeType");
        let kind = definition.choice("AttributeType", &types)?.ok_or(missing)?;
        if attributes.iter().any(|(other, _)| *other == name) {
            return Err(definition.fault(definition.line(), "AttributeName", format!("`{name}` is given twice")));
        }
        attributes.push((name, kind));
        definition.finish();
    }
    Ok(attributes)
}

fn key_schema(props: &mut Props<'_>) -> Result<KeySchema> {
    let line = props.line_of("KeySchema");
    let mut hash = None;
    let mut range = None;
    for mut part in props.children("KeySchema")? {
        let name = part.required("AttributeName")?;
        let missing = part.missing("KeyType");
        let is_hash = part.choice("KeyType", &[("HASH", true), ("RANGE", false)])?.ok_or(missing)?;
        let slot = if is_hash { &mut hash } else { &mut range };
        if slot.replace(name).is_some() {
            return Err(part.fault(
                part.line(),
                "KeyType",
                "is given twice; a key has one `HASH` and at most one `RANGE`",
            ));
        }
        part.finish();
    }
    let hash = hash.ok_or_else(|| props.fault(line, "KeySchema", "has no `HASH` attribute"))?;
    Ok(KeySchema { hash, range })
}

fn indexes(props: &mut Props<'_>, key: &str) -> Result<Vec<Index>> {
    let mut indexes = Vec::new();
    for mut index in props.children(key)? {
        let name = index.required("IndexName")?;
        let key = key_schema(&mut index)?;
        let missing = index.missing("Projection");
        let mut projection = index.child("Projection")?.ok_or(missing)?;
        let included = projection.texts("NonKeyAttributes")?;
        let missing = projection.missing("ProjectionType");
        let kinds = [("ALL", Projection::All), ("KEYS_ONLY", Projection::KeysOnly)];
        let line = projection.line_of("ProjectionType");
        let kind = projection.text("ProjectionType")?.ok_or(missing)?;
        let projected = match kinds.into_iter().find(|(name, _)| *name == kind) {
            Some((_, projection)) => projection,
            None if kind == "INCLUDE" => Projection::Include(included),
            None => {
                let what = format!("must be `ALL` or `KEYS_ONLY` or `INCLUDE`, not `{kind}`");
                return Err(projection.fault(line, "ProjectionType", what));
            }
        };
        projection.finish();
        index.without_effect(&[
            "ContributorInsightsSpecification",
            "OnDemandThroughput",
            "ProvisionedThroughput",
            "WarmThroughput",
        ]);
        index.finish();
        indexes.push(Index { name, key, projection: projected });
    }
    Ok(indexes)
}
