//! Measures how many items the database writes per second, with each durability, by the number of
//! writes that wait at the same time. Takes the folder of the database, which should be on the disk that is
//! to be measured, or the address of a server, such as `http://127.0.0.1:8000`.

#![expect(clippy::print_stdout, reason = "it is a program")]

use std::{path::PathBuf, time::Instant};

use aws_sdk_dynamodb::{
    Client, Config,
    config::{BehaviorVersion, Credentials, Region},
    primitives::Blob,
    types::{
        AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType,
        ScalarAttributeType,
    },
};
use dynamo::{Durability, Engine, Storage};

/// The items that are written for each figure.
const ITEMS: usize = 2_000;

/// The size of an item: a compressed frame.
const ITEM_BYTES: usize = 1_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let target = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    if let Some(url) = target.to_str().filter(|it| it.starts_with("http://")) {
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static("local"))
            .endpoint_url(url)
            .credentials_provider(Credentials::new("key", "secret", None, None, "example"));
        return measure("server", &Client::from_conf(config.build()), 64).await;
    }
    for durability in [Durability::Fast, Durability::Full] {
        for at_once in [1, 8, 64] {
            let folder = tempfile::tempdir_in(&target)?;
            let storage = Storage::open_with(Some(folder.path()), durability)?;
            let client = Client::new(&Engine::start(storage)?.sdk_config());
            measure(&format!("{durability:?}"), &client, at_once).await?;
        }
    }
    Ok(())
}

async fn measure(
    name: &str,
    client: &Client,
    at_once: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    create_table(client).await?;
    let started = Instant::now();
    let writers = (0..at_once).map(|writer| {
        let client = client.clone();
        tokio::spawn(async move { write(&client, writer, ITEMS / at_once).await })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await?;
    }
    let millis = started.elapsed().as_millis();
    println!("{name}: {at_once} at once, {ITEMS} items in {millis} ms");
    Ok(())
}

async fn write(client: &Client, writer: usize, items: usize) {
    for item in 0..items {
        let put = client
            .put_item()
            .table_name("items")
            .item("pk", AttributeValue::S(writer.to_string()))
            .item("sk", AttributeValue::N(item.to_string()))
            .item("body", AttributeValue::B(Blob::new(vec![b'x'; ITEM_BYTES])))
            .condition_expression("attribute_not_exists(sk)");
        if let Err(error) = put.send().await {
            println!("could not write: {error:?}");
        }
    }
}

async fn create_table(client: &Client) -> Result<(), Box<dyn std::error::Error>> {
    let key =
        |name: &str, kind| KeySchemaElement::builder().attribute_name(name).key_type(kind).build();
    let attribute = |name: &str, kind| {
        AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build()
    };
    client
        .create_table()
        .table_name("items")
        .billing_mode(BillingMode::PayPerRequest)
        .key_schema(key("pk", KeyType::Hash)?)
        .key_schema(key("sk", KeyType::Range)?)
        .attribute_definitions(attribute("pk", ScalarAttributeType::S)?)
        .attribute_definitions(attribute("sk", ScalarAttributeType::N)?)
        .send()
        .await?;
    Ok(())
}
