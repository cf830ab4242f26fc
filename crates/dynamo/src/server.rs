//! The database, served over HTTP.

use std::{io, net::SocketAddr};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, Method, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
    routing::any,
};
use dynoxide::auth_material::{self, AuthMaterial};
use serde::de::IgnoredAny;
use tokio::{
    net::TcpListener,
    task::{JoinError, JoinHandle},
};
use tokio_util::sync::CancellationToken;

use crate::{engine::Engine, operation};

/// Most bytes of a request. It is DynamoDB's limit.
const MOST_REQUEST_BYTES: usize = 16 * 1024 * 1024;

/// The types of requests that DynamoDB accepts. A response has the type of its request.
const TYPES: [&str; 2] = ["application/x-amz-json-1.0", "application/json"];

/// What the names of operations begin with in the header `x-amz-target`.
const TARGET: &str = "DynamoDB_20120810.";

/// The response to the health check of load balancers.
const HEALTHY: &str = "healthy: dynamodb.local ";

/// A running DynamoDB server.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    serving: JoinHandle<io::Result<()>>,
    expiry: JoinHandle<()>,
}

/// Why a server stopped before its shutdown.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The server could no longer accept connections.
    #[error("the DynamoDB server failed")]
    Failed(#[from] io::Error),
    /// The server panicked.
    #[error("the DynamoDB server panicked")]
    Panicked(#[from] JoinError),
}

impl Server {
    /// Serves the database of `engine` at `listen` until `shutdown`, and deletes its expired items once a
    /// minute. Requests that have begun are completed. Port 0 takes a free port.
    ///
    /// # Errors
    ///
    /// When the address cannot be bound.
    pub async fn start(
        listen: SocketAddr,
        engine: Engine,
        shutdown: CancellationToken,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let expiry = tokio::spawn(engine.clone().delete_expired(shutdown.clone()));
        let served = axum::serve(listener, router(engine))
            .with_graceful_shutdown(shutdown.cancelled_owned());
        let serving = tokio::spawn(async move { served.await });
        Ok(Self { address, serving, expiry })
    }

    /// Returns the address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the server has stopped.
    ///
    /// # Errors
    ///
    /// [`ServeError`] when the server stopped before its shutdown.
    pub async fn stopped(self) -> Result<(), ServeError> {
        let result = self.serving.await;
        self.expiry.abort();
        Ok(result??)
    }
}

fn router(engine: Engine) -> Router {
    Router::new()
        .route("/", any(handle))
        .fallback(async || not_found())
        .layer(DefaultBodyLimit::max(MOST_REQUEST_BYTES))
        .with_state(engine)
}

async fn handle(
    State(engine): State<Engine>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    match method {
        Method::GET => HEALTHY.into_response(),
        Method::POST => run(&engine, &uri, &headers, body).await,
        _ => not_found(),
    }
}

async fn run(engine: &Engine, uri: &Uri, headers: &HeaderMap, body: Bytes) -> Response {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let given = header("content-type").unwrap_or_default();
    let given = given.split(';').next().unwrap_or_default().trim();
    let kind = TYPES.into_iter().find(|kind| kind.eq_ignore_ascii_case(given));
    if kind.is_none() && !(given.is_empty() && body.is_empty()) {
        return not_found();
    }
    let json = |status: u16, body: String| {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [(CONTENT_TYPE, kind.unwrap_or(TYPES[1]))], body).into_response()
    };
    let error = |kind| json(400, format!(r#"{{"__type":"com.amazon.coral.service#{kind}"}}"#));
    let target = header("x-amz-target").and_then(|target| target.strip_prefix(TARGET));
    let Some(operation) = target.filter(|operation| operation::is_supported(operation)) else {
        let is_json = body.is_empty() || serde_json::from_slice::<IgnoredAny>(&body).is_ok();
        return error(if is_json { "UnknownOperationException" } else { "SerializationException" });
    };
    // Signatures are not checked, but a request without one is a mistake of the client.
    let signature = AuthMaterial {
        authorization: header("authorization"),
        query: uri.query().unwrap_or_default(),
        has_date_header: headers.contains_key("x-amz-date") || headers.contains_key("date"),
    };
    if let Some(response) = auth_material::validate(signature) {
        return json(400, response);
    }
    match engine.run(operation.to_owned(), body.into()).await {
        Some((status, response)) => json(status, response),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// The response to everything that is not a request to DynamoDB.
fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "<UnknownOperationException/>\n").into_response()
}
