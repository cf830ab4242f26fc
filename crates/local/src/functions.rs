//! The four functions in this process, called with the JSON events that Lambda would hand them.

use std::sync::Arc;

use ::functions::{
    app::{App, Clock},
    authorize, connection,
    failure::Failure,
    push::Pusher,
    rest,
};
use axum::Router;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use lambda_http::{
    Adapter,
    lambda_runtime::{Context, LambdaEvent},
    request::LambdaRequest,
    tower::Service as _,
};
use serde::{Serialize, de::DeserializeOwned};

use gateway::{FunctionError, Functions};

/// The name of the authorizer.
pub const AUTHORIZE: &str = "authorize";
/// The name of the function behind the WebSocket API.
pub const CONNECTION: &str = "connection";
/// The name of the function behind the HTTP API.
pub const REST: &str = "rest";

/// The name of the function that the poller invokes.
pub const PUSH: &str = "push";

/// The functions, called directly.
pub struct InProcess {
    app: Arc<App>,
    pusher: Arc<Pusher>,
    router: Router,
    clock: Clock,
}

impl InProcess {
    /// The functions of `app`, and `push`.
    pub fn new(app: Arc<App>, pusher: Arc<Pusher>, clock: Clock) -> Self {
        let router = rest::router(app.clone(), clock.clone());
        Self { app, pusher, router, clock }
    }

    async fn call(&self, function: &str, event: Bytes) -> Result<Bytes, FunctionError> {
        let now = (self.clock)();
        match function {
            AUTHORIZE => {
                let answer = authorize::handle(&self.app, now, decode(&event)?).await;
                encode(&answer.map_err(|error| failed(error.into()))?)
            }
            CONNECTION => {
                let answer = connection::handle(&self.app, now, decode(&event)?).await;
                encode(&answer.map_err(|error| failed(error.into()))?)
            }
            REST => {
                let request: LambdaRequest = decode(&event)?;
                let event = LambdaEvent::new(request, Context::default());
                // A router is always ready to be called.
                let answer = Adapter::from(self.router.clone()).call(event);
                let answer = answer.await;
                encode(&answer.unwrap_or_else(|never| match never {}))
            }
            PUSH => {
                let report = self.pusher.handle(decode(&event)?).await;
                encode(&report.map_err(|error| failed(error.into()))?)
            }
            other => Err(FunctionError::Unavailable(format!("no function {other}").into())),
        }
    }
}

impl Functions for InProcess {
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

fn encode(answer: &impl Serialize) -> Result<Bytes, FunctionError> {
    let json = serde_json::to_vec(answer).map_err(|error| FunctionError::Handled {
        error_type: "Runtime.InvalidAnswer".to_owned(),
        message: error.to_string(),
    })?;
    Ok(json.into())
}

fn failed(failure: Failure) -> FunctionError {
    let Failure { error_type, message } = failure;
    FunctionError::Handled { error_type: error_type.to_owned(), message }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
