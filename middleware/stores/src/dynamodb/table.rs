//! The table: how it is made, and whether one that is there can be ours. What is in it, it never looks at.

use std::time::Duration;

use aws_sdk_dynamodb::error::ProvideErrorMetadata as _;
use aws_sdk_dynamodb::operation::create_table::CreateTableError;
use aws_sdk_dynamodb::operation::describe_table::DescribeTableError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, LocalSecondaryIndex, Projection,
    ProjectionType, ScalarAttributeType, TableDescription, TableStatus, TimeToLiveSpecification,
    TimeToLiveStatus,
};
use sessile_engine::store::{StoreError, StoreErrorKind};
use tokio::time::{sleep, timeout};

use super::item::{BY_DUE, BY_OWNER, DUE, ID, OWNER, SHARD, TTL};
use super::link::Link;
use super::{NAME, error};

/// How often the service is asked whether the table is there by now.
const LOOK: Duration = Duration::from_millis(250);
/// Our own keys and indexes, each with its two attributes.
const KEYS: (&str, &str) = (SHARD, ID);
const INDEXES: [(&str, &str); 2] = [(BY_DUE, DUE), (BY_OWNER, OWNER)];
const ATTRIBUTES: [(&str, ScalarAttributeType); 4] = [
    (SHARD, ScalarAttributeType::S),
    (ID, ScalarAttributeType::S),
    (DUE, ScalarAttributeType::N),
    (OWNER, ScalarAttributeType::S),
];
const FAILED: &str = "its table could not be made";

fn incomplete(e: aws_sdk_dynamodb::error::BuildError) -> StoreError {
    error::own(StoreErrorKind::Config, FAILED).with_source(e)
}

fn schema(sort: &str) -> Result<Vec<KeySchemaElement>, StoreError> {
    let key = |name: &str, kind| {
        KeySchemaElement::builder().attribute_name(name).key_type(kind).build().map_err(incomplete)
    };
    Ok(vec![key(SHARD, KeyType::Hash)?, key(sort, KeyType::Range)?])
}

/// Makes the table unless it is there, and waits until it can be used. `patience` is for one exchange with the service.
pub(super) async fn migrate(link: &Link, patience: Duration) -> Result<(), StoreError> {
    loop {
        let step = async {
            let Some(table) = describe(link).await? else {
                create(link).await?;
                return Ok(false);
            };
            check(&table)?;
            match table.table_status {
                Some(TableStatus::Active | TableStatus::Updating) => Ok(true),
                Some(TableStatus::Creating) => Ok(false),
                status => {
                    let status = status.as_ref().map_or("of no status", TableStatus::as_str);
                    Err(error::own(StoreErrorKind::Unavailable, format!("its table is {status}")))
                }
            }
        };
        if within(patience, step).await? {
            break;
        }
        sleep(LOOK).await;
    }
    if let Err(e) = within(patience, end_by_itself(link)).await {
        if e.kind() == StoreErrorKind::Unavailable {
            return Err(e);
        }
        // Nothing relies on it: who may not set it, or a server that has none, is told that rows may stay.
        tracing::warn!(store = NAME, error = %e, "rows of apps that are gone for good will stay");
    }
    Ok(())
}

async fn within<T>(
    patience: Duration,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let late = || error::own(StoreErrorKind::Unavailable, format!("{FAILED}: the service does not answer"));
    timeout(patience, call).await.unwrap_or_else(|_| Err(late()))
}

async fn describe(link: &Link) -> Result<Option<TableDescription>, StoreError> {
    match link.client.describe_table().table_name(&link.table).send().await {
        Ok(described) => Ok(described.table),
        Err(e) if e.as_service_error().is_some_and(DescribeTableError::is_resource_not_found_exception) => {
            Ok(None)
        }
        Err(e) => Err(error::of(FAILED)(e)),
    }
}

async fn create(link: &Link) -> Result<(), StoreError> {
    let mut create = link
        .client
        .create_table()
        .table_name(&link.table)
        .billing_mode(BillingMode::PayPerRequest)
        .set_key_schema(Some(schema(ID)?));
    for (name, kind) in ATTRIBUTES {
        let attribute = AttributeDefinition::builder().attribute_name(name).attribute_type(kind);
        create = create.attribute_definitions(attribute.build().map_err(incomplete)?);
    }
    for (index, sort) in INDEXES {
        let index = LocalSecondaryIndex::builder()
            .index_name(index)
            .set_key_schema(Some(schema(sort)?))
            .projection(Projection::builder().projection_type(ProjectionType::KeysOnly).build());
        create = create.local_secondary_indexes(index.build().map_err(incomplete)?);
    }
    match create.send().await {
        Ok(_) => Ok(()),
        // Somebody else is making it.
        Err(e) if e.as_service_error().is_some_and(CreateTableError::is_resource_in_use_exception) => Ok(()),
        Err(e) => Err(error::of(FAILED)(e)),
    }
}

/// Has the service remove rows itself, long after they are due.
async fn end_by_itself(link: &Link) -> Result<(), StoreError> {
    let is_set = async || {
        let said = link.client.describe_time_to_live().table_name(&link.table).send().await;
        let said = said.map_err(error::of(FAILED))?.time_to_live_description;
        let status = said.and_then(|said| said.time_to_live_status);
        // Also if it is set to another attribute: then somebody wants that.
        Ok(matches!(status, Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling)))
    };
    if is_set().await? {
        return Ok(());
    }
    let wanted = TimeToLiveSpecification::builder().enabled(true).attribute_name(TTL).build();
    let set = link.client.update_time_to_live().table_name(&link.table);
    match set.time_to_live_specification(wanted.map_err(incomplete)?).send().await {
        Ok(_) => Ok(()),
        // Somebody else has set it meanwhile.
        Err(e) if e.code() == Some("ValidationException") && is_set().await? => Ok(()),
        Err(e) => Err(error::of(FAILED)(e)),
    }
}

/// Refuses a table that has other keys, or not our indexes. More of them do no harm.
fn check(table: &TableDescription) -> Result<(), StoreError> {
    let is = |schema: &[KeySchemaElement], (hash, range): (&str, &str)| {
        let has = |name: &str, kind: &KeyType| {
            schema.iter().any(|key| key.attribute_name == name && key.key_type == *kind)
        };
        schema.len() == 2 && has(hash, &KeyType::Hash) && has(range, &KeyType::Range)
    };
    let has_index = |(name, sort): (&str, &str)| {
        table
            .local_secondary_indexes()
            .iter()
            .any(|index| index.index_name.as_deref() == Some(name) && is(index.key_schema(), (SHARD, sort)))
    };
    let has_type = |(name, kind): &(&str, ScalarAttributeType)| {
        let mut attributes = table.attribute_definitions().iter();
        attributes.any(|attribute| attribute.attribute_name == *name && attribute.attribute_type == *kind)
    };
    if is(table.key_schema(), KEYS) && INDEXES.into_iter().all(has_index) && ATTRIBUTES.iter().all(has_type) {
        return Ok(());
    }
    Err(error::own(
        StoreErrorKind::Config,
        "its table is there, and has other keys or indexes than sessile's",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(keys: &str, index: &str, kind: ScalarAttributeType) -> TableDescription {
        let mut table = TableDescription::builder().set_key_schema(Some(schema(keys).unwrap()));
        for (name, sort) in [(BY_DUE, DUE), (index, OWNER)] {
            let index = aws_sdk_dynamodb::types::LocalSecondaryIndexDescription::builder()
                .index_name(name)
                .set_key_schema(Some(schema(sort).unwrap()));
            table = table.local_secondary_indexes(index.build());
        }
        for (name, own) in ATTRIBUTES {
            let kind = if name == DUE { kind.clone() } else { own };
            let attribute = AttributeDefinition::builder().attribute_name(name).attribute_type(kind);
            table = table.attribute_definitions(attribute.build().unwrap());
        }
        table.build()
    }

    #[test]
    fn other_tables_are_refused() {
        let kind = |keys, index, kind| check(&described(keys, index, kind)).map_err(|e| e.kind());
        assert_eq!(kind(ID, BY_OWNER, ScalarAttributeType::N), Ok(()));
        for (keys, index, number) in [
            ("sort", BY_OWNER, ScalarAttributeType::N),
            (ID, "by-owner", ScalarAttributeType::N),
            (ID, BY_OWNER, ScalarAttributeType::S),
        ] {
            assert_eq!(kind(keys, index, number), Err(StoreErrorKind::Config));
        }
        assert!(check(&TableDescription::builder().build()).is_err());
    }
}
