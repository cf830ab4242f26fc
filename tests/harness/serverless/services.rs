//! The services of AWS that the programs call, at one address. They know the caller by the access key of
//! its signature, and admit what its role grants.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::{Bytes, to_bytes},
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderMap, Method, StatusCode, header::CONTENT_TYPE, request::Parts},
    response::{IntoResponse, Response},
};
use dynamo::Storage;
use gateway::{PostError, Sockets};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::{
    lambda::Lambda,
    roles::{Call, Roles},
    template::{self, API},
};

/// Largest request (Lambda quota: 6 MB; DynamoDB and API Gateway accept less).
const REQUEST_BYTES: usize = 6 * 1_024 * 1_024;

/// The path of the Runtime API.
pub(super) const RUNTIME: &str = "/runtime";

/// The services.
pub(super) struct Services {
    pub(super) roles: Arc<Roles>,
    pub(super) database: Storage,
    pub(super) lambda: Lambda,
    /// The value of the secret of the functions.
    pub(super) secret: String,
    /// The connections of the gateway.
    pub(super) sockets: Arc<Sockets>,
}

/// The error of a service.
struct Refusal {
    status: StatusCode,
    kind: &'static str,
    message: String,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self { status, kind, message } = self;
        let named = format!("com.amazon.coral.service#{kind}");
        let body = json!({"__type": named, "message": message});
        (status, [("x-amzn-errortype", kind)], Json(body)).into_response()
    }
}

impl Services {
    /// Returns the routes of all services.
    pub(super) fn router(self: Arc<Self>) -> Router {
        let runtime = self.lambda.runtime_api();
        Router::new()
            .fallback(serve)
            .with_state(self)
            .nest(RUNTIME, runtime)
            .layer(DefaultBodyLimit::max(REQUEST_BYTES))
    }

    fn admit(&self, headers: &HeaderMap, call: &Call) -> Result<(), Refusal> {
        let program = access_key(headers).unwrap_or("an unsigned caller");
        if self.roles.admit(program, call) {
            return Ok(());
        }
        let message = format!("{program} is not authorized to perform: {call}");
        let status = match call.action.split(':').next() {
            Some("dynamodb" | "secretsmanager") => StatusCode::BAD_REQUEST,
            _ => StatusCode::FORBIDDEN,
        };
        Err(Refusal { status, kind: "AccessDeniedException", message })
    }

    async fn dynamodb(
        &self,
        operation: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response, Refusal> {
        let request: Value = serde_json::from_slice(&body).unwrap();
        self.admit(headers, &Call::of_dynamodb(operation, &request))?;
        let database = self.database.clone();
        let operation = operation.to_owned();
        let (status, json) =
            spawn_blocking(move || database.call(&operation, &body)).await.unwrap();
        let status = StatusCode::from_u16(status).unwrap();
        Ok((status, [(CONTENT_TYPE, "application/x-amz-json-1.0")], json).into_response())
    }

    fn secrets_manager(
        &self,
        operation: &str,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Response, Refusal> {
        let request: Value = serde_json::from_slice(body).unwrap();
        let id = request["SecretId"].as_str().unwrap_or_default().to_owned();
        let is_known = id == self.roles.secret();
        let action = format!("secretsmanager:{operation}");
        self.admit(headers, &Call { action, resource: id, partition: None })?;
        if operation != "GetSecretValue" || !is_known {
            return Err(not_found(StatusCode::BAD_REQUEST, "no such operation or secret"));
        }
        Ok(Json(json!({"SecretString": self.secret})).into_response())
    }

    async fn invoke(
        &self,
        function: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response, Refusal> {
        let action = "lambda:InvokeFunction".to_owned();
        let resource = template::function(function);
        self.admit(headers, &Call { action, resource, partition: None })?;
        let Some(binary) = self.roles.binary_of(function) else {
            return Err(not_found(StatusCode::NOT_FOUND, "no such function"));
        };
        Ok(match self.lambda.call(binary, body).await {
            Ok(response) => response.into_response(),
            Err(failure) => failure.into_response(),
        })
    }

    /// Handles a call of the management API, `/{stage}/@connections/{id}`.
    async fn manage(&self, request: &Parts, body: Bytes) -> Result<Response, Refusal> {
        let (method, path) = (&request.method, request.uri.path());
        let (stage, rest) = path[1..].split_once('/').unwrap_or_default();
        let call = Call {
            action: "execute-api:ManageConnections".to_owned(),
            resource: template::arn("execute-api", &format!("{API}/{stage}/{method}/{rest}")),
            partition: None,
        };
        self.admit(&request.headers, &call)?;
        let id = rest.strip_prefix("@connections/").unwrap_or_default();
        let id = percent_decode_str(id).decode_utf8_lossy();
        let failed = match *method {
            Method::POST => self.sockets.post(&[&id], body).await.pop().map(|(_, error)| error),
            Method::DELETE => self.sockets.close(&id).err(),
            _ => return Ok(StatusCode::NOT_IMPLEMENTED.into_response()),
        };
        Ok(match failed {
            None => StatusCode::OK,
            Some(PostError::Gone) => StatusCode::GONE,
            Some(PostError::Busy) => StatusCode::TOO_MANY_REQUESTS,
            Some(PostError::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
            Some(PostError::NotText) => StatusCode::BAD_REQUEST,
            Some(PostError::Injected) => StatusCode::INTERNAL_SERVER_ERROR,
        }
        .into_response())
    }
}

async fn serve(State(services): State<Arc<Services>>, request: Request) -> Response {
    let (request, body) = request.into_parts();
    let Ok(body) = to_bytes(body, REQUEST_BYTES).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let headers = &request.headers;
    let target = headers.get("x-amz-target").map_or("", |target| target.to_str().unwrap());
    let path = request.uri.path();
    let function = path
        .strip_prefix("/2015-03-31/functions/")
        .and_then(|rest| rest.strip_suffix("/invocations"));
    let served = match (target.split_once('.'), function) {
        (Some(("secretsmanager", operation)), _) => {
            services.secrets_manager(operation, headers, &body)
        }
        (Some((_, operation)), _) => services.dynamodb(operation, headers, body).await,
        (None, Some(function)) => services.invoke(function, headers, body).await,
        (None, None) => services.manage(&request, body).await,
    };
    served.unwrap_or_else(IntoResponse::into_response)
}

/// Returns the access key in a signature (Signature Version 4). The programs have their own names as
/// access keys.
fn access_key(headers: &HeaderMap) -> Option<&str> {
    let signature = headers.get("authorization")?.to_str().ok()?;
    signature.split_once("Credential=")?.1.split('/').next()
}

fn not_found(status: StatusCode, message: &str) -> Refusal {
    Refusal { status, kind: "ResourceNotFoundException", message: message.to_owned() }
}
