//! The DynamoDB operations that the embedded engine supports.

use dynoxide::{Database, DynoxideError};
use serde::{Serialize, de::DeserializeOwned};

/// Runs an operation. Takes the request and returns the response as JSON.
type Run = fn(&Database, &[u8]) -> Result<String, DynoxideError>;

const OPERATIONS: [(&str, Run); 17] = [
    ("BatchGetItem", |database, body| transcode(body, |it| database.batch_get_item(it))),
    ("BatchWriteItem", |database, body| transcode(body, |it| database.batch_write_item(it))),
    ("CreateTable", |database, body| transcode(body, |it| database.create_table(it))),
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
        // Of a request that is not JSON, DynamoDB says nothing more.
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
