//! The engine and the server, as the AWS SDK sees them.

#![allow(clippy::unwrap_used, missing_docs)]

use std::net::{Ipv4Addr, SocketAddr};

use aws_sdk_dynamodb::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    operation::create_table::builders::CreateTableFluentBuilder,
    types::{
        AttributeDefinition, AttributeValue, BillingMode, GlobalSecondaryIndex, KeySchemaElement,
        KeyType, Projection, ProjectionType, ScalarAttributeType,
    },
};
use dynamo::{Engine, Fault, Faults, OpenError, Server, Storage};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn the_sdk_reads_what_it_wrote() {
    let engine = Engine::open(None).unwrap();
    let client = Client::new(&engine.sdk_config());
    create_table(&client).await;
    put(&client, "a").await;
    assert!(has(&client, "a").await);
    assert!(!has(&client, "b").await);
}

#[tokio::test]
async fn an_error_has_the_type_that_the_sdk_knows() {
    let engine = Engine::open(None).unwrap();
    let client = Client::new(&engine.sdk_config());
    let request = client.get_item().table_name("items").key("pk", text("a"));
    let error = request.send().await.unwrap_err().into_service_error();
    assert!(error.is_resource_not_found_exception(), "{error:?}");
}

#[tokio::test]
async fn an_unsupported_operation_is_named() {
    let engine = Engine::open(None).unwrap();
    let client = Client::new(&engine.sdk_config());
    let error = client.list_backups().send().await.unwrap_err().into_service_error();
    assert!(error.meta().message().unwrap().contains("ListBackups"), "{error:?}");
}

#[tokio::test]
async fn one_process_uses_a_data_folder_at_a_time_and_the_data_stays() {
    let folder = tempfile::tempdir().unwrap();
    {
        let engine = Engine::open(Some(folder.path())).unwrap();
        let second = Engine::open(Some(folder.path())).err();
        assert!(matches!(second, Some(OpenError::InUse { .. })), "{second:?}");
        let client = Client::new(&engine.sdk_config());
        create_table(&client).await;
        put(&client, "a").await;
    }
    // The thread unlocks the folder shortly after the last handle is dropped; `open` retries.
    let engine = Engine::open(Some(folder.path())).unwrap();
    assert!(has(&Client::new(&engine.sdk_config()), "a").await);
}

/// A process can be killed after each commit of the engine.
#[tokio::test]
async fn a_table_whose_creation_was_interrupted_is_created_again() {
    let folder = tempfile::tempdir().unwrap();
    for part in ["items", "items::gsi::by_other"] {
        let client = Client::new(&Engine::open(Some(folder.path())).unwrap().sdk_config());
        create_indexed_table(&client).await;
        drop(client);
        {
            // The thread of the engine closes its database first.
            let _closed = Storage::open(Some(folder.path())).unwrap();
        }
        let file = rusqlite::Connection::open(folder.path().join("headwater.db")).unwrap();
        file.execute(&format!("DROP TABLE \"{part}\""), []).unwrap();
        drop(file);
        let client = Client::new(&Engine::open(Some(folder.path())).unwrap().sdk_config());
        create_indexed_table(&client).await;
        put(&client, "a").await;
        assert!(has(&client, "a").await, "case: {part}");
        // A complete table is not created again.
        let again = table(&client).send().await;
        assert!(again.is_err() && has(&client, "a").await, "case: {part}");
        client.delete_table().table_name("items").send().await.unwrap();
    }
}

/// Writes that wait at the same time share a commit, and each gets its own response.
#[tokio::test]
async fn concurrent_writes_get_their_own_responses() {
    let folder = tempfile::tempdir().unwrap();
    let engine = Engine::open(Some(folder.path())).unwrap();
    let client = Client::new(&engine.sdk_config());
    create_table(&client).await;
    put(&client, "5").await;
    let puts = (0..300).map(|count| {
        let put = client
            .put_item()
            .table_name("items")
            .item("pk", text(&(count % 150).to_string()))
            .item("count", AttributeValue::N(count.to_string()));
        // Some have a condition, which is not met for one.
        let put = if count % 10 == 5 {
            put.condition_expression("attribute_not_exists(pk) OR pk <> :taken")
                .expression_attribute_values(":taken", text("5"))
        } else {
            put
        };
        tokio::spawn(async move { put.send().await.is_ok() })
    });
    let puts: Vec<_> = puts.collect();
    for (count, put) in puts.into_iter().enumerate() {
        assert_eq!(put.await.unwrap(), count % 150 != 5, "case: {count}");
    }
    for key in 0..150 {
        assert!(has(&client, &key.to_string()).await);
    }
}

#[tokio::test(start_paused = true)]
async fn an_inline_engine_needs_no_other_thread_and_can_lose_messages() {
    let faults = Faults::default();
    let engine = Engine::inline(Storage::open(None).unwrap()).with_faults(faults.clone());
    let client = Client::new(&engine.sdk_config());
    create_table(&client).await;
    for (fault, is_done) in [(Fault::LoseRequest, false), (Fault::LoseResponse, true)] {
        faults.set(move |operation, _| (operation == "PutItem").then_some(fault));
        let put = client.put_item().table_name("items").item("pk", text("a"));
        assert!(put.send().await.is_err(), "case: {fault:?}");
        faults.clear();
        assert_eq!(has(&client, "a").await, is_done, "case: {fault:?}");
    }
}

#[tokio::test]
async fn a_file_is_not_a_data_folder() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Engine::open(Some(file.path())).err();
    let Some(OpenError::CreateFolder { folder, .. }) = error else { panic!("{error:?}") };
    assert_eq!(folder, file.path());
}

#[tokio::test]
async fn the_server_serves_the_database_over_http() {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let shutdown = CancellationToken::new();
    let engine = Engine::open(None).unwrap();
    let server = Server::start(listen, engine, shutdown.clone()).await.unwrap();
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .endpoint_url(format!("http://{}", server.address()))
        .credentials_provider(Credentials::new("local", "local", None, None, "local"))
        .build();
    let client = Client::from_conf(config);
    create_table(&client).await;
    put(&client, "a").await;
    assert!(has(&client, "a").await);
    drop(client);
    shutdown.cancel();
    server.stopped().await.unwrap();
}

async fn create_table(client: &Client) {
    table(client).send().await.unwrap();
}

async fn create_indexed_table(client: &Client) {
    let index = GlobalSecondaryIndex::builder()
        .index_name("by_other")
        .key_schema(hash("other"))
        .projection(Projection::builder().projection_type(ProjectionType::All).build());
    let table = table(client).attribute_definitions(attribute("other"));
    table.global_secondary_indexes(index.build().unwrap()).send().await.unwrap();
}

fn table(client: &Client) -> CreateTableFluentBuilder {
    client
        .create_table()
        .table_name("items")
        .billing_mode(BillingMode::PayPerRequest)
        .key_schema(hash("pk"))
        .attribute_definitions(attribute("pk"))
}

fn hash(name: &str) -> KeySchemaElement {
    KeySchemaElement::builder().attribute_name(name).key_type(KeyType::Hash).build().unwrap()
}

fn attribute(name: &str) -> AttributeDefinition {
    let attribute = AttributeDefinition::builder().attribute_name(name);
    attribute.attribute_type(ScalarAttributeType::S).build().unwrap()
}

async fn put(client: &Client, key: &str) {
    client.put_item().table_name("items").item("pk", text(key)).send().await.unwrap();
}

async fn has(client: &Client, key: &str) -> bool {
    let request = client.get_item().table_name("items").key("pk", text(key));
    request.send().await.unwrap().item.is_some()
}

fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}
