//! The DynamoDB operations that the embedded engine supports.

use dynoxide::{Database, DynoxideError};
use serde::{Serialize, de::DeserializeOwned};

/// Runs an operation, such as `PutItem`. Takes the request and returns the response as JSON.
pub(crate) fn run(
    database: &Database,
    operation: &str,
    body: &[u8],
) -> Result<String, DynoxideError> {
    match operation {
        "PutItem" => transcode(body, |request| database.put_item(request)),
        "GetItem" => transcode(body, |request| database.get_item(request)),
        "UpdateItem" => transcode(body, |request| database.update_item(request)),
        "DeleteItem" => transcode(body, |request| database.delete_item(request)),
        "TransactWriteItems" => transcode(body, |request| database.transact_write_items(request)),
        "Query" => transcode(body, |request| database.query(request)),
        "Scan" => transcode(body, |request| database.scan(request)),
        "CreateTable" => transcode(body, |request| database.create_table(request)),
        "DescribeTable" => transcode(body, |request| database.describe_table(request)),
        "ListTables" => transcode(body, |request| database.list_tables(request)),
        "UpdateTimeToLive" => transcode(body, |request| database.update_time_to_live(request)),
        _ => Err(DynoxideError::ValidationException(format!(
            "the embedded DynamoDB does not support the operation {operation:?}"
        ))),
    }
}

fn transcode<Q: DeserializeOwned, A: Serialize>(
    body: &[u8],
    run: impl FnOnce(Q) -> Result<A, DynoxideError>,
) -> Result<String, DynoxideError> {
    let invalid = |error: serde_json::Error| DynoxideError::ValidationException(error.to_string());
    let request = serde_json::from_slice(body).map_err(invalid)?;
    serde_json::to_string(&run(request)?).map_err(invalid)
}
