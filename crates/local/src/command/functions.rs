//! `headwater functions`: the four functions in one process, behind Lambda's `Invoke`.

use std::{net::SocketAddr, sync::Arc};

use ::functions::app::{Clock, Environment};
use anyhow::Context as _;
use aws::{clients::Clients, error::Chain};
use axum::{
    Router,
    extract::{DefaultBodyLimit, Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    gateway::{FunctionError, Functions as _},
    in_process::{AUTHORIZE, CONNECTION, DirectFunctions, PUSH, REST},
};

/// Largest event of a synchronous invocation (Lambda quota: 6 MB).
const EVENT_BYTES: usize = 6 * 1_024 * 1_024;

/// The functions that are served.
const FUNCTIONS: [&str; 4] = [AUTHORIZE, CONNECTION, PUSH, REST];

/// The settings of `headwater functions`.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Address to serve `Invoke` at.
    #[arg(long, env = "HEADWATER_FUNCTIONS_LISTEN", default_value = "127.0.0.1:9000")]
    pub listen: SocketAddr,

    /// What the functions have in their environment on AWS.
    #[command(flatten)]
    pub environment: Environment,
}

/// Serves the functions until `shutdown`.
///
/// # Errors
///
/// When the address cannot be listened at, a setting is missing, or the tables cannot be read.
pub async fn run(options: Options, shutdown: CancellationToken) -> anyhow::Result<()> {
    let clients = Clients::from_env().await?;
    let clock: Clock = Arc::new(Timestamp::now);
    let pusher = Arc::new(options.environment.pusher(&clients, clock.clone())?);
    let app = Arc::new(options.environment.app(&clients).await?);
    app.tables.check().await?;
    let functions = Arc::new(DirectFunctions::new(app, pusher, clock));
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("cannot listen at {}", options.listen))?;
    info!(address = %listener.local_addr()?, "functions are up");
    axum::serve(listener, router(functions))
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
        .context("the functions' server broke")
}

fn router(functions: Arc<DirectFunctions>) -> Router {
    Router::new()
        .route("/2015-03-31/functions/{name}/invocations", post(invoke))
        .route("/healthz", get(async || StatusCode::OK))
        .layer(DefaultBodyLimit::max(EVENT_BYTES))
        .with_state(functions)
}

/// Answers as Lambda does (Lambda API reference, "Invoke").
async fn invoke(
    State(functions): State<Arc<DirectFunctions>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    event: Bytes,
) -> Response {
    // The name alone, or at the end of an ARN.
    let name = name.rsplit(':').next().unwrap_or_default();
    let Some(name) = FUNCTIONS.into_iter().find(|function| *function == name) else {
        let message = format!("Function not found: {name}");
        return refuse(StatusCode::NOT_FOUND, "ResourceNotFoundException", &message);
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
            let message = "the invocation type is RequestResponse, Event or DryRun";
            return refuse(StatusCode::BAD_REQUEST, "InvalidParameterValueException", message);
        }
    }
    let json = [(header::CONTENT_TYPE, "application/json")];
    match functions.invoke(name, event).await {
        Ok(answer) => (json, answer).into_response(),
        Err(error) => {
            warn!(function.name = name, error = %Chain(&error), "invocation failed");
            let (error_type, message) = match error {
                FunctionError::Handled { error_type, message } => (error_type, message),
                other => ("Runtime.Unknown".to_owned(), Chain(&other).to_string()),
            };
            let answer = json!({ "errorType": error_type, "errorMessage": message });
            (json, [("x-amz-function-error", "Unhandled")], answer.to_string()).into_response()
        }
    }
}

fn refuse(status: StatusCode, error_type: &str, message: &str) -> Response {
    let body = json!({ "Type": "User", "Message": message }).to_string();
    (status, [("x-amzn-errortype", error_type), ("content-type", "application/json")], body)
        .into_response()
}
