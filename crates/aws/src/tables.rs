//! The three tables together: their names, and creating them if they are missing.

use std::time::Duration;

use aws_sdk_dynamodb::{
    Client,
    operation::create_table::CreateTableError,
    types::{
        AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType,
        Projection, ProjectionType, ScalarAttributeType, TimeToLiveSpecification,
    },
};
use domain::{clock::Clock, topic::Topic};
use jiff::Timestamp;

use crate::{
    connections::{CHANGES_INDEX, Connections},
    control::Control,
    error::StoreError,
    head::head,
    log::Log,
    quota::Quotas,
};

/// Why a table cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("table {table} cannot be read")]
pub struct TableError {
    /// The name of the table.
    pub table: String,
    /// The error of the database.
    #[source]
    pub source: StoreError,
}

/// The three tables.
#[derive(Clone, Debug)]
pub struct Tables {
    /// Open connections and their subscriptions.
    pub connections: Connections,
    /// The log of frames.
    pub log: Log,
    /// Leases, states, catalogs and rules.
    pub control: Control,
    /// The quotas of principals, which are in the table of the connections.
    pub quotas: Quotas,
    client: Client,
}

impl Tables {
    /// The tables whose names start with `prefix`, with log entries that expire after `retention`.
    pub(crate) fn new(client: Client, prefix: &str, retention: Duration, clock: Clock) -> Self {
        let connections = Connections::new(client.clone(), format!("{prefix}connections"), clock);
        Self {
            quotas: Quotas::new(client.clone(), &connections),
            connections,
            log: Log::new(client.clone(), format!("{prefix}events"), retention),
            control: Control::new(client.clone(), format!("{prefix}control")),
            client,
        }
    }

    /// Creates the tables that are missing, as `template.yaml` does on AWS, and the id of the log.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn create_missing(&self) -> Result<(), StoreError> {
        use ScalarAttributeType::{N, S};
        let changes = GlobalSecondaryIndex::builder()
            .index_name(CHANGES_INDEX)
            .set_key_schema(Some(keys("shard", "changed_at")))
            .projection(Projection::builder().projection_type(ProjectionType::All).build())
            .build()
            .map_err(|error| StoreError::corrupt("connections", error))?;
        let tables = [
            (
                self.connections.table(),
                keys("shard", "connection_id"),
                vec![("shard", S), ("connection_id", S), ("changed_at", N)],
                Some(vec![changes]),
            ),
            (self.log.table(), keys("topic", "seq"), vec![("topic", S), ("seq", N)], None),
            (self.control.table(), keys("pk", "sk"), vec![("pk", S), ("sk", S)], None),
        ];
        for (table, keys, attributes, indexes) in tables {
            self.create(table, keys, attributes, indexes).await?;
        }
        self.control.claim_log_id().await?;
        Ok(())
    }

    async fn create(
        &self,
        table: &str,
        keys: Vec<KeySchemaElement>,
        attributes: Vec<(&str, ScalarAttributeType)>,
        indexes: Option<Vec<GlobalSecondaryIndex>>,
    ) -> Result<(), StoreError> {
        let attributes = attributes
            .into_iter()
            .map(|(name, kind)| {
                AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build()
            })
            .collect::<Result<_, _>>()
            .map_err(|error| StoreError::corrupt("control", error))?;
        let created = self
            .client
            .create_table()
            .table_name(table)
            .billing_mode(BillingMode::PayPerRequest)
            .set_key_schema(Some(keys))
            .set_attribute_definitions(Some(attributes))
            .set_global_secondary_indexes(indexes)
            .send()
            .await;
        match created {
            Ok(_) => {}
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(CreateTableError::is_resource_in_use_exception) => {}
            Err(error) => return Err(StoreError::from_sdk("CreateTable", error)),
        }
        // The process can have been killed between the two.
        let ttl = TimeToLiveSpecification::builder()
            .enabled(true)
            .attribute_name("expires_at")
            .build()
            .map_err(|error| StoreError::corrupt("control", error))?;
        let set = self
            .client
            .update_time_to_live()
            .table_name(table)
            .time_to_live_specification(ttl)
            .send()
            .await;
        set.map_err(|error| StoreError::from_sdk("UpdateTimeToLive", error))?;
        Ok(())
    }

    /// Returns the number of the newest event of a topic, or 0 before its first. It is known even after
    /// all events have expired. While a poller appends to such a topic, it may be up to a thousand too
    /// high.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn head(&self, topic: &Topic, now: Timestamp) -> Result<u64, StoreError> {
        Ok(head(&self.log, &self.control, topic, now).await?.last)
    }

    /// Checks that the database responds and has the tables.
    ///
    /// # Errors
    ///
    /// [`TableError`] with the table that cannot be read.
    pub async fn check(&self) -> Result<(), TableError> {
        let read = |table: &str| {
            let table = table.to_owned();
            |source| TableError { table, source }
        };
        self.control.provenance().await.map_err(read(self.control.table()))?;
        self.log.newest(&Topic::system_sources()).await.map_err(read(self.log.table()))?;
        // Every program may read the index; some may not read items.
        let changes = self.connections.changes(0, Timestamp::now()).await;
        changes.map_err(read(self.connections.table()))?;
        Ok(())
    }
}

fn keys(partition: &str, sort: &str) -> Vec<KeySchemaElement> {
    [(partition, KeyType::Hash), (sort, KeyType::Range)]
        .into_iter()
        .filter_map(|(name, kind)| {
            KeySchemaElement::builder().attribute_name(name).key_type(kind).build().ok()
        })
        .collect()
}
