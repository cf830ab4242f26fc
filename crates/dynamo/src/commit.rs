//! Group commit: writes that wait at the same time share one commit, which waits for the disk once.

use serde::Deserialize;

use crate::storage::Storage;

/// Most writes in a transaction of DynamoDB.
pub(crate) const MOST_WRITES: usize = 100;

/// Most bytes of requests in a transaction. DynamoDB's limit of 4 MB is for the items.
pub(crate) const MOST_BYTES: usize = 3_000_000;

/// The parts of a request to which a transaction has no answer.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Asks {
    return_values: Option<String>,
    return_consumed_capacity: Option<String>,
    return_item_collection_metrics: Option<String>,
    update_expression: Option<serde::de::IgnoredAny>,
    expected: Option<serde::de::IgnoredAny>,
}

/// Returns whether an operation can be part of a transaction: it writes an item and returns nothing.
pub(crate) fn can_share(operation: &str, request: &[u8]) -> bool {
    if kind(operation).is_none() {
        return false;
    }
    let Ok(asks) = serde_json::from_slice::<Asks>(request) else { return false };
    let is_none = |asked: Option<String>| asked.is_none_or(|it| it == "NONE");
    is_none(asks.return_values)
        && is_none(asks.return_consumed_capacity)
        && is_none(asks.return_item_collection_metrics)
        && asks.expected.is_none()
        && (operation != "UpdateItem" || asks.update_expression.is_some())
}

/// Runs writes as one transaction. Returns `false` if nothing was written, because a condition was not
/// met or a request is invalid.
pub(crate) fn together(storage: &Storage, writes: &[(&str, &[u8])]) -> bool {
    let size: usize = writes.iter().map(|(_, request)| request.len() + 20).sum();
    let mut transaction = Vec::with_capacity(size + 20);
    transaction.extend_from_slice(br#"{"TransactItems":["#);
    for (index, (operation, request)) in writes.iter().enumerate() {
        let Some(kind) = kind(operation) else { return false };
        if index > 0 {
            transaction.push(b',');
        }
        transaction.extend_from_slice(br#"{""#);
        transaction.extend_from_slice(kind.as_bytes());
        transaction.extend_from_slice(br#"":"#);
        transaction.extend_from_slice(request);
        transaction.push(b'}');
    }
    transaction.extend_from_slice(b"]}");
    storage.call("TransactWriteItems", &transaction).0 == 200
}

/// Returns what a transaction calls an operation.
fn kind(operation: &str) -> Option<&'static str> {
    match operation {
        "PutItem" => Some("Put"),
        "UpdateItem" => Some("Update"),
        "DeleteItem" => Some("Delete"),
        _ => None,
    }
}
