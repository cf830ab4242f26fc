//! The Lambda authorizers of both APIs, and the evaluation of their responses.

use std::time::Duration;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};

use crate::{
    functions::FunctionError, http_server::request::HttpRequest, iam::Policy,
    invocation::InvocationError,
};

/// The largest response of an authorizer (API Gateway quota: 8 KB).
const RESPONSE_BYTES: usize = 8 * 1_024;

/// A Lambda authorizer of type `REQUEST`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorizer {
    /// The function that decides.
    pub function: String,
    /// The values that a request must carry. Without them it gets 401, and the function is not invoked.
    pub identity_sources: Vec<IdentitySource>,
}

impl Authorizer {
    /// Creates an authorizer that is invoked for every request.
    pub fn new(function: impl Into<String>) -> Self {
        Self { function: function.into(), identity_sources: Vec::new() }
    }
}

/// The place of a caller's identity in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentitySource {
    /// `route.request.header.NAME`, in an HTTP API `$request.header.NAME`.
    Header(String),
    /// `route.request.querystring.NAME`, in an HTTP API `$request.querystring.NAME`.
    Query(String),
}

impl IdentitySource {
    /// Parses an expression such as `route.request.header.Auth` or `$request.querystring.token`.
    /// Returns `None` for other expressions.
    pub(crate) fn parse(expression: &str) -> Option<Self> {
        let path = expression.strip_prefix("route.").or_else(|| expression.strip_prefix('$'))?;
        let (place, name) = path.strip_prefix("request.")?.split_once('.')?;
        match place {
            "header" => Some(Self::Header(name.to_owned())),
            "querystring" => Some(Self::Query(name.to_owned())),
            _ => None,
        }
    }
}

/// Why a request is not authorized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuthorizationError {
    /// The request has no identity, or the function failed with the text `Unauthorized`.
    Unauthorized,
    /// The policy does not allow the request.
    Forbidden,
    /// The function failed, or its response is malformed.
    Failed,
}

impl AuthorizationError {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<InvocationError> for AuthorizationError {
    fn from(error: InvocationError) -> Self {
        match error {
            InvocationError::Function(FunctionError::Handled { message, .. })
                if message == "Unauthorized" =>
            {
                Self::Unauthorized
            }
            InvocationError::Function(_) | InvocationError::TimedOut => Self::Failed,
        }
    }
}

/// What the authorizer returned about an authorized caller. Events carry it as
/// `requestContext.authorizer`.
#[derive(Debug, PartialEq)]
pub(crate) struct AuthorizerContext {
    principal_id: Option<String>,
    pub(crate) values: Map<String, Value>,
}

impl AuthorizerContext {
    /// Returns `requestContext.authorizer` as the events of the WebSocket API have it, where numbers
    /// and booleans are text.
    pub(crate) fn to_web_socket_json(&self, latency: Duration) -> Box<RawValue> {
        let as_text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let latency_ms = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
        let principal_id =
            self.principal_id.iter().map(|id| ("principalId", Value::from(id.as_str())));
        let values = self.values.iter().map(|(key, value)| (key.as_str(), as_text(value).into()));
        let latency = [("integrationLatency", Value::from(latency_ms))];
        let members = Members(principal_id.chain(values).chain(latency).collect());
        serde_json::value::to_raw_value(&members).expect("text and numbers are JSON")
    }
}

/// The members of a JSON object, in order.
struct Members<'a>(Vec<(&'a str, Value)>);

impl Serialize for Members<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// A response with an IAM policy.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PolicyResponse {
    principal_id: String,
    policy_document: Policy,
    #[serde(default)]
    context: Option<Map<String, Value>>,
}

/// The "simple response" of an HTTP API.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SimpleResponse {
    is_authorized: bool,
    #[serde(default)]
    context: Option<Map<String, Value>>,
}

/// Returns the identity in a request, or `None` if a part of it is missing or empty.
pub(crate) fn identity(sources: &[IdentitySource], request: &HttpRequest) -> Option<Vec<String>> {
    let find = |source: &IdentitySource| match source {
        IdentitySource::Header(name) => request.header(name.as_str()).map(str::to_owned),
        IdentitySource::Query(name) => request.query_value(name),
    };
    sources.iter().map(|source| find(source).filter(|value| !value.is_empty())).collect()
}

/// Evaluates the response of a WebSocket API's authorizer: an IAM policy.
pub(crate) fn evaluate_web_socket(
    response: &[u8],
    arn: &str,
) -> Result<AuthorizerContext, AuthorizationError> {
    if response.len() > RESPONSE_BYTES {
        return Err(AuthorizationError::Failed);
    }
    let response: PolicyResponse =
        serde_json::from_slice(response).map_err(|_| AuthorizationError::Failed)?;
    let values = response.context.unwrap_or_default();
    let is_flat = |value: &Value| value.is_string() || value.is_number() || value.is_boolean();
    if !values.values().all(is_flat) {
        return Err(AuthorizationError::Failed);
    }
    if !response.policy_document.allows(arn) {
        return Err(AuthorizationError::Forbidden);
    }
    Ok(AuthorizerContext { principal_id: Some(response.principal_id), values })
}

/// Evaluates the response of an HTTP API's authorizer: a simple response or an IAM policy.
pub(crate) fn evaluate_http(
    response: &[u8],
    arn: &str,
) -> Result<AuthorizerContext, AuthorizationError> {
    if response.len() > RESPONSE_BYTES {
        return Err(AuthorizationError::Failed);
    }
    if let Ok(response) = serde_json::from_slice::<SimpleResponse>(response) {
        if !response.is_authorized {
            return Err(AuthorizationError::Forbidden);
        }
        return Ok(AuthorizerContext {
            principal_id: None,
            values: response.context.unwrap_or_default(),
        });
    }
    let response: PolicyResponse =
        serde_json::from_slice(response).map_err(|_| AuthorizationError::Failed)?;
    if !response.policy_document.allows(arn) {
        return Err(AuthorizationError::Forbidden);
    }
    let values = response.context.unwrap_or_default();
    Ok(AuthorizerContext { principal_id: Some(response.principal_id), values })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:execute-api:us-east-1:123456789012:abcdef123/prod/$connect";

    fn response(effect: &str, context: &str) -> String {
        format!(
            r#"{{"principalId":"user-42","policyDocument":{{"Version":"2012-10-17","Statement":[
            {{"Action":"execute-api:Invoke","Effect":"{effect}","Resource":"{ARN}"}}]}},
            "context":{context},"usageIdentifierKey":"key"}}"#
        )
    }

    #[test]
    fn evaluates_policies() {
        let large = format!(r#"{{"x":"{}"}}"#, "x".repeat(8_192));
        let cases = [
            ("denied", response("Deny", "{}"), AuthorizationError::Forbidden),
            ("nested context", response("Allow", r#"{"a":{}}"#), AuthorizationError::Failed),
            ("list in the context", response("Allow", r#"{"a":[]}"#), AuthorizationError::Failed),
            ("over 8 KB", response("Allow", &large), AuthorizationError::Failed),
            ("simple response", r#"{"isAuthorized":true}"#.to_owned(), AuthorizationError::Failed),
            (
                "no principal",
                response("Allow", "{}").replace("principalId", "x"),
                AuthorizationError::Failed,
            ),
            ("null", "null".to_owned(), AuthorizationError::Failed),
        ];
        for (name, response, expected) in cases {
            assert_eq!(
                evaluate_web_socket(response.as_bytes(), ARN),
                Err(expected),
                "case: {name}"
            );
        }
    }

    #[test]
    fn numbers_and_booleans_of_the_context_are_text_in_events() {
        let response = response("Allow", r#"{"tenant":"t1","n":7,"ok":true}"#);
        let context = evaluate_web_socket(response.as_bytes(), ARN).expect("allowed");
        // The order of the keys is not part of the contract.
        let json = context.to_web_socket_json(Duration::from_millis(123));
        let json: Value = serde_json::from_str(json.get()).expect("JSON");
        let expected = serde_json::json!({
            "principalId": "user-42", "tenant": "t1", "n": "7", "ok": "true",
            "integrationLatency": 123,
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn evaluates_simple_responses() {
        let yes = br#"{"isAuthorized":true,"context":{"deep":{"er":[1]}}}"#;
        let context = evaluate_http(yes, ARN).expect("authorized");
        assert_eq!(Value::Object(context.values), serde_json::json!({"deep":{"er":[1]}}));
        assert_eq!(
            evaluate_http(br#"{"isAuthorized":false}"#, ARN),
            Err(AuthorizationError::Forbidden)
        );
        assert_eq!(
            evaluate_http(response("Deny", "{}").as_bytes(), ARN),
            Err(AuthorizationError::Forbidden)
        );
        assert!(evaluate_http(response("Allow", "{}").as_bytes(), ARN).is_ok());
        assert_eq!(evaluate_http(b"{}", ARN), Err(AuthorizationError::Failed));
    }
}
