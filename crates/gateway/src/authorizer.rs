//! The Lambda authorizers of both APIs, and the evaluation of their responses.

use std::time::Duration;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};

use crate::{
    functions::FunctionError, http_server::request::HttpRequest, iam::Policy,
    invocation::InvocationError,
};

/// The largest result of an authorizer (API Gateway quota: 8 KB).
const RESULT_BYTES: usize = 8 * 1_024;

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

/// Why a request is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// No identity, or the function failed with the text `Unauthorized`.
    Unauthorized,
    /// The policy does not allow it.
    Forbidden,
    /// The function failed or its answer is malformed.
    Failed,
}

impl Denied {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<InvocationError> for Denied {
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

/// The authorizer's response for a caller that is permitted.
#[derive(Debug, PartialEq)]
pub(crate) struct Permit {
    principal: Option<String>,
    pub(crate) context: Map<String, Value>,
}

impl Permit {
    /// Returns `requestContext.authorizer` of the WebSocket API's events. Numbers and booleans of the
    /// context arrive as text.
    pub(crate) fn to_block(&self, latency: Duration) -> Box<RawValue> {
        let as_text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let principal = self.principal.iter().map(|id| ("principalId", Value::from(id.as_str())));
        let context = self.context.iter().map(|(key, value)| (key.as_str(), as_text(value).into()));
        let latency = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
        let latency = [("integrationLatency", Value::from(latency))];
        let block = Block(principal.chain(context).chain(latency).collect());
        serde_json::value::to_raw_value(&block).expect("text and numbers are JSON")
    }
}

struct Block<'a>(Vec<(&'a str, Value)>);

impl Serialize for Block<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PolicyAnswer {
    principal_id: String,
    policy_document: Policy,
    #[serde(default)]
    context: Option<Map<String, Value>>,
}

/// The "simple response" of an HTTP API.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SimpleAnswer {
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
pub(crate) fn judge(answer: &[u8], arn: &str) -> Result<Permit, Denied> {
    if answer.len() > RESULT_BYTES {
        return Err(Denied::Failed);
    }
    let answer: PolicyAnswer = serde_json::from_slice(answer).map_err(|_| Denied::Failed)?;
    let context = answer.context.unwrap_or_default();
    let is_flat = |value: &Value| value.is_string() || value.is_number() || value.is_boolean();
    if !context.values().all(is_flat) {
        return Err(Denied::Failed);
    }
    if !answer.policy_document.allows(arn) {
        return Err(Denied::Forbidden);
    }
    Ok(Permit { principal: Some(answer.principal_id), context })
}

/// Evaluates the response of an HTTP API's authorizer: a simple response or an IAM policy.
pub(crate) fn judge_http(answer: &[u8], arn: &str) -> Result<Permit, Denied> {
    if answer.len() > RESULT_BYTES {
        return Err(Denied::Failed);
    }
    if let Ok(answer) = serde_json::from_slice::<SimpleAnswer>(answer) {
        if !answer.is_authorized {
            return Err(Denied::Forbidden);
        }
        return Ok(Permit { principal: None, context: answer.context.unwrap_or_default() });
    }
    let answer: PolicyAnswer = serde_json::from_slice(answer).map_err(|_| Denied::Failed)?;
    if !answer.policy_document.allows(arn) {
        return Err(Denied::Forbidden);
    }
    let context = answer.context.unwrap_or_default();
    Ok(Permit { principal: Some(answer.principal_id), context })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:execute-api:us-east-1:123456789012:abcdef123/prod/$connect";

    fn answer(effect: &str, context: &str) -> String {
        format!(
            r#"{{"principalId":"user-42","policyDocument":{{"Version":"2012-10-17","Statement":[
            {{"Action":"execute-api:Invoke","Effect":"{effect}","Resource":"{ARN}"}}]}},
            "context":{context},"usageIdentifierKey":"key"}}"#
        )
    }

    #[test]
    fn judges_policies() {
        let large = format!(r#"{{"x":"{}"}}"#, "x".repeat(8_192));
        let cases = [
            ("denied", answer("Deny", "{}"), Denied::Forbidden),
            ("nested context", answer("Allow", r#"{"a":{}}"#), Denied::Failed),
            ("list in the context", answer("Allow", r#"{"a":[]}"#), Denied::Failed),
            ("over 8 KB", answer("Allow", &large), Denied::Failed),
            ("simple response", r#"{"isAuthorized":true}"#.to_owned(), Denied::Failed),
            ("no principal", answer("Allow", "{}").replace("principalId", "x"), Denied::Failed),
            ("null", "null".to_owned(), Denied::Failed),
        ];
        for (name, answer, expected) in cases {
            assert_eq!(judge(answer.as_bytes(), ARN), Err(expected), "case: {name}");
        }
    }

    #[test]
    fn the_context_is_text_in_events() {
        let answer = answer("Allow", r#"{"tenant":"t1","n":7,"ok":true}"#);
        let permit = judge(answer.as_bytes(), ARN).expect("allowed");
        // The order of the context's keys is no part of the contract.
        let block = permit.to_block(Duration::from_millis(123));
        let block: Value = serde_json::from_str(block.get()).expect("JSON");
        let expected = serde_json::json!({
            "principalId": "user-42", "tenant": "t1", "n": "7", "ok": "true",
            "integrationLatency": 123,
        });
        assert_eq!(block, expected);
    }

    #[test]
    fn judges_simple_responses() {
        let yes = br#"{"isAuthorized":true,"context":{"deep":{"er":[1]}}}"#;
        let permit = judge_http(yes, ARN).expect("authorized");
        assert_eq!(Value::Object(permit.context), serde_json::json!({"deep":{"er":[1]}}));
        assert_eq!(judge_http(br#"{"isAuthorized":false}"#, ARN), Err(Denied::Forbidden));
        assert_eq!(judge_http(answer("Deny", "{}").as_bytes(), ARN), Err(Denied::Forbidden));
        assert!(judge_http(answer("Allow", "{}").as_bytes(), ARN).is_ok());
        assert_eq!(judge_http(b"{}", ARN), Err(Denied::Failed));
    }
}
