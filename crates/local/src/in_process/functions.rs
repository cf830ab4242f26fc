//! The four functions, called directly with the JSON events that Lambda would pass to them.

use std::sync::Arc;

use ::functions::{access::authorize, app::App, connection, failure::Failure, push::Pusher, rest};
use axum::Router;
use bytes::Bytes;
use domain::clock::Clock;
use futures_util::future::BoxFuture;
use gateway::{FunctionError, Functions};
use lambda_http::{
    Adapter,
    lambda_runtime::{Context, LambdaEvent},
    request::LambdaRequest,
    tower::Service as _,
};
use serde::{Serialize, de::DeserializeOwned};

/// The name of the function that authorizes handshakes and requests.
pub const AUTHORIZE: &str = "authorize";
/// The name of the function behind the WebSocket API.
pub const CONNECTION: &str = "connection";
/// The name of the function behind the HTTP API.
pub const REST: &str = "rest";
/// The name of the function that the poller invokes.
pub const PUSH: &str = "push";

/// The four functions in this process.
pub struct DirectFunctions {
    app: Arc<App>,
    pusher: Arc<Pusher>,
    router: Router,
    clock: Clock,
}

impl DirectFunctions {
    /// Returns the functions of `app`, and `push`, which read the time from `clock`.
    pub fn new(app: Arc<App>, pusher: Arc<Pusher>, clock: Clock) -> Self {
        let router = rest::router(app.clone(), clock.clone());
        Self { app, pusher, router, clock }
    }

    async fn call(&self, function: &str, event: Bytes) -> Result<Bytes, FunctionError> {
        let now = self.clock.now();
        match function {
            AUTHORIZE => {
                let result = authorize::handle(&self.app, now, decode(&event)?).await;
                encode(&result.map_err(|error| failed(error.into()))?)
            }
            CONNECTION => {
                let result = connection::handle(&self.app, now, decode(&event)?).await;
                encode(&result.map_err(|error| failed(error.into()))?)
            }
            REST => {
                let request: LambdaRequest = decode(&event)?;
                let event = LambdaEvent::new(request, Context::default());
                // A router is always ready, so `poll_ready` is not needed. The adapter is not `Send`,
                // so it must be dropped before the response is awaited.
                let response = Adapter::from(self.router.clone()).call(event);
                encode(&response.await.unwrap_or_else(|never| match never {}))
            }
            PUSH => {
                let result = self.pusher.handle(decode(&event)?).await;
                encode(&result.map_err(|error| failed(error.into()))?)
            }
            other => Err(FunctionError::Unavailable(format!("no function {other}").into())),
        }
    }
}

impl Functions for DirectFunctions {
    fn invoke<'a>(
        &'a self,
        function: &'a str,
        event: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, FunctionError>> {
        Box::pin(self.call(function, event))
    }
}

fn decode<T: DeserializeOwned>(event: &[u8]) -> Result<T, FunctionError> {
    serde_json::from_slice(event).map_err(|error| FunctionError::Handled {
        error_type: "Runtime.InvalidEvent".to_owned(),
        message: error.to_string(),
    })
}

fn encode(response: &impl Serialize) -> Result<Bytes, FunctionError> {
    let json = serde_json::to_vec(response).map_err(|error| FunctionError::Handled {
        error_type: "Runtime.InvalidAnswer".to_owned(),
        message: error.to_string(),
    })?;
    Ok(json.into())
}

fn failed(failure: Failure) -> FunctionError {
    let Failure { error_type, message } = failure;
    FunctionError::Handled { error_type: error_type.to_owned(), message }
}
