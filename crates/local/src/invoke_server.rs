//! Lambda's `Invoke` API, served over HTTP (Lambda API reference, "Invoke").

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use domain::chain::Chain;
use gateway::{FunctionError, Functions as _};
use serde_json::json;
use tracing::warn;

use crate::in_process::{AUTHORIZE, CONNECTION, DirectFunctions, PUSH, REST};

/// The largest event of a synchronous invocation (Lambda quota: 6 MB).
const EVENT_BYTES: usize = 6 * 1_024 * 1_024;

/// The functions that can be invoked.
const FUNCTIONS: [&str; 4] = [AUTHORIZE, CONNECTION, PUSH, REST];

/// Returns the routes of the API and `/healthz`.
pub(crate) fn router(functions: Arc<DirectFunctions>) -> Router {
    Router::new()
        .route("/2015-03-31/functions/{name}/invocations", post(invoke))
        .route("/healthz", get(async || StatusCode::OK))
        .layer(DefaultBodyLimit::max(EVENT_BYTES))
        .with_state(functions)
}

async fn invoke(
    State(functions): State<Arc<DirectFunctions>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    event: Bytes,
) -> Response {
    // The path has a function name or an ARN that ends with one.
    let name = name.rsplit(':').next().unwrap_or_default();
    let Some(name) = FUNCTIONS.into_iter().find(|function| *function == name) else {
        let message = format!("Function not found: {name}");
        return reject(StatusCode::NOT_FOUND, "ResourceNotFoundException", &message);
    };
    let event = if event.is_empty() { Bytes::from_static(b"{}") } else { event };
    match headers.get("x-amz-invocation-type").map(HeaderValue::as_bytes) {
        None | Some(b"RequestResponse") => {}
        Some(b"DryRun") => return StatusCode::NO_CONTENT.into_response(),
        Some(b"Event") => {
            tokio::spawn(async move {
                if let Err(error) = functions.invoke(name, event).await {
                    warn!(function.name = name, error = %Chain(&error), "invocation failed");
                }
            });
            return StatusCode::ACCEPTED.into_response();
        }
        Some(_) => {
            let message = "the invocation type must be RequestResponse, Event or DryRun";
            return reject(StatusCode::BAD_REQUEST, "InvalidParameterValueException", message);
        }
    }
    let json = [(header::CONTENT_TYPE, "application/json")];
    match functions.invoke(name, event).await {
        Ok(response) => (json, response).into_response(),
        Err(error) => {
            warn!(function.name = name, error = %Chain(&error), "invocation failed");
            let (error_type, message) = match error {
                FunctionError::Handled { error_type, message } => (error_type, message),
                other => ("Runtime.Unknown".to_owned(), Chain(&other).to_string()),
            };
            let body = json!({ "errorType": error_type, "errorMessage": message });
            (json, [("x-amz-function-error", "Unhandled")], body.to_string()).into_response()
        }
    }
}

fn reject(status: StatusCode, error_type: &str, message: &str) -> Response {
    let body = json!({ "Type": "User", "Message": message }).to_string();
    (status, [("x-amzn-errortype", error_type), ("content-type", "application/json")], body)
        .into_response()
}
