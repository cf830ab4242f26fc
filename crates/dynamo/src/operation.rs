//! The DynamoDB operations that the embedded engine supports.

use dynoxide::{Database, DynoxideError};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// Runs an operation. Takes the request and returns the response as JSON.
type Run = fn(&Database, &[u8]) -> Result<String, DynoxideError>;

const OPERATIONS: [(&str, Run); 17] = [
    ("BatchGetItem", |database, body| transcode(body, |it| database.batch_get_item(it))),
    ("BatchWriteItem", |database, body| transcode(body, |it| database.batch_write_item(it))),
    ("CreateTable", create_table),
    ("DeleteItem", |database, body| transcode(body, |it| database.delete_item(it))),
    ("DeleteTable", |database, body| transcode(body, |it| database.delete_table(it))),
    ("DescribeTable", |database, body| transcode(body, |it| database.describe_table(it))),
    ("DescribeTimeToLive", |database, body| {
        transcode(body, |it| database.describe_time_to_live(it))
    }),
    ("GetItem", |database, body| transcode(body, |it| database.get_item(it))),
    ("ListTables", |database, body| transcode(body, |it| database.list_tables(it))),
    ("PutItem", |database, body| transcode(body, |it| database.put_item(it))),
    ("Query", |database, body| transcode(body, |it| database.query(it))),
    ("Scan", |database, body| transcode(body, |it| database.scan(it))),
    ("TransactGetItems", |database, body| transcode(body, |it| database.transact_get_items(it))),
    ("TransactWriteItems", |database, body| {
        transcode(body, |it| database.transact_write_items(it))
    }),
    ("UpdateItem", |database, body| transcode(body, |it| database.update_item(it))),
    ("UpdateTable", |database, body| transcode(body, |it| database.update_table(it))),
    ("UpdateTimeToLive", |database, body| transcode(body, |it| database.update_time_to_live(it))),
];

/// Returns whether an operation, such as `PutItem`, is supported.
pub(crate) fn is_supported(operation: &str) -> bool {
    OPERATIONS.iter().any(|(name, _)| *name == operation)
}

/// Runs an operation, such as `PutItem`. Takes the request and returns the response as JSON.
pub(crate) fn run(
    database: &Database,
    operation: &str,
    body: &[u8],
) -> Result<String, DynoxideError> {
    match OPERATIONS.iter().find(|(name, _)| *name == operation) {
        Some((_, run)) => run(database, body),
        None => Err(DynoxideError::ValidationException(format!(
            "the embedded DynamoDB does not support the operation {operation:?}"
        ))),
    }
}

/// Creates a table. If the process was killed while it created the same table before, starts over.
fn create_table(database: &Database, body: &[u8]) -> Result<String, DynoxideError> {
    let create = || transcode(body, |it| database.create_table(it));
    match create() {
        Err(DynoxideError::ResourceInUseException(_)) if is_incomplete(database, body) => {
            let name = serde_json::from_slice::<Parts>(body).map(|parts| parts.table_name);
            let delete = json!({"TableName": name.unwrap_or_default()}).to_string();
            transcode(delete.as_bytes(), |it| database.delete_table(it))?;
            create()
        }
        created => created,
    }
}

/// The parts of a table, each of which the engine creates in a commit of its own.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Parts {
    table_name: String,
    #[serde(default)]
    global_secondary_indexes: Vec<Index>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Index {
    index_name: String,
}

/// Returns whether a table lacks a part. Then it has no items, because its creation was never acknowledged.
fn is_incomplete(database: &Database, body: &[u8]) -> bool {
    let Ok(Parts { table_name, global_secondary_indexes }) = serde_json::from_slice(body) else {
        return false;
    };
    let is_missing = |mut scan: Value| {
        scan["TableName"] = table_name.as_str().into();
        scan["Limit"] = 1.into();
        match run(database, "Scan", scan.to_string().as_bytes()) {
            Ok(_) => false,
            Err(error) => error.to_string().contains("no such table"),
        }
    };
    is_missing(json!({}))
        || global_secondary_indexes.iter().any(|it| is_missing(json!({"IndexName": it.index_name})))
}

fn transcode<Q: DeserializeOwned, A: Serialize>(
    body: &[u8],
    run: impl FnOnce(Q) -> Result<A, DynoxideError>,
) -> Result<String, DynoxideError> {
    let request = serde_json::from_slice(body).map_err(|error| invalid(&error))?;
    serde_json::to_string(&run(request)?)
        .map_err(|error| DynoxideError::InternalServerError(error.to_string()))
}

/// Returns DynamoDB's error for a request that cannot be read.
fn invalid(error: &serde_json::Error) -> DynoxideError {
    if !error.is_data() {
        // DynamoDB gives no details about a request that is not JSON.
        return DynoxideError::SerializationException(String::new());
    }
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
    // The types of the engine begin some of their messages with the kind of the error.
    let is_kind = |kind: &str| kind.bytes().all(|byte| byte == b'_' || byte.is_ascii_uppercase());
    if let Some((kind, text)) = text.split_once(':').filter(|(kind, _)| is_kind(kind)) {
        return match kind.starts_with("SERIALIZATION") {
            true => DynoxideError::SerializationException(text.to_owned()),
            false => DynoxideError::ValidationException(text.to_owned()),
        };
    }
    match text.starts_with("invalid type") && !text.starts_with("invalid type: null") {
        true => DynoxideError::SerializationException(text.to_owned()),
        false => DynoxideError::ValidationException(text.to_owned()),
    }
}
