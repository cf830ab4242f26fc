//! The response of a function of the WebSocket API (Lambda proxy integration, format 1.0).

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

/// A function's response. A response with any other field is malformed, as for API Gateway.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ProxyResponse {
    status_code: Option<Value>,
    headers: Option<BTreeMap<String, Value>>,
    multi_value_headers: Option<BTreeMap<String, Vec<Value>>>,
    body: Option<String>,
    is_base64_encoded: Option<bool>,
}

impl ProxyResponse {
    /// Parses a response. Returns `None` if it is malformed.
    pub(crate) fn parse(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    /// Returns the status. `$connect` requires one; other routes do not.
    pub(crate) fn status(&self) -> Option<StatusCode> {
        let code = match self.status_code.as_ref()? {
            Value::Number(code) => u16::try_from(code.as_u64()?).ok()?,
            Value::String(code) => code.parse().ok()?,
            _ => return None,
        };
        StatusCode::from_u16(code).ok().filter(|status| (200..600).contains(&status.as_u16()))
    }

    /// Returns a header. The case of the name does not matter.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let single = self.headers.iter().flatten();
        let multi = self
            .multi_value_headers
            .iter()
            .flatten()
            .filter_map(|(name, values)| Some((name, values.first()?)));
        let (_, value) =
            single.chain(multi).find(|(header, _)| header.eq_ignore_ascii_case(name))?;
        match value {
            Value::String(text) => Some(text.clone()),
            Value::Null => None,
            other => Some(other.to_string()),
        }
    }

    /// Returns the message that a two-way route sends to the client, or `None` if the body is missing or
    /// empty.
    pub(crate) fn into_message(self) -> Option<String> {
        let body = self.body.filter(|body| !body.is_empty())?;
        if self.is_base64_encoded == Some(true) {
            return String::from_utf8(STANDARD.decode(body).ok()?).ok();
        }
        Some(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_fields_are_accepted() {
        let cases = [
            (r#"{"statusCode":200}"#, true),
            (
                r#"{"statusCode":200,"headers":{"a":"b"},"multiValueHeaders":{},"body":null,"isBase64Encoded":false}"#,
                true,
            ),
            ("{}", true),
            (r#"{"statusCode":200,"extra":1}"#, false),
            (r#"{"statusCode":200,"body":{"a":1}}"#, false),
            ("null", false),
            ("\"ok\"", false),
            ("", false),
        ];
        for (json, expected) in cases {
            assert_eq!(ProxyResponse::parse(json.as_bytes()).is_some(), expected, "case: {json}");
        }
    }

    #[test]
    fn reads_the_status() {
        let cases = [
            (r#"{"statusCode":201}"#, Some(201)),
            (r#"{"statusCode":"403"}"#, Some(403)),
            (r#"{"statusCode":100}"#, None),
            (r#"{"statusCode":600}"#, None),
            (r#"{"statusCode":-1}"#, None),
            (r#"{"statusCode":"no"}"#, None),
            ("{}", None),
        ];
        for (json, expected) in cases {
            let response = ProxyResponse::parse(json.as_bytes()).expect(json);
            assert_eq!(response.status().map(|status| status.as_u16()), expected, "case: {json}");
        }
    }

    #[test]
    fn reads_headers_in_any_case() {
        for json in [
            r#"{"headers":{"sec-websocket-protocol":"b"}}"#,
            r#"{"multiValueHeaders":{"SEC-WEBSOCKET-PROTOCOL":["b"]}}"#,
        ] {
            let response = ProxyResponse::parse(json.as_bytes()).expect(json);
            assert_eq!(
                response.header("Sec-WebSocket-Protocol").as_deref(),
                Some("b"),
                "case: {json}"
            );
        }
    }

    #[test]
    fn a_two_way_route_sends_text() {
        let cases = [
            (r#"{"body":"hi","statusCode":500}"#, Some("hi")),
            (r#"{"body":"aGk=","isBase64Encoded":true}"#, Some("hi")),
            (r#"{"body":"/w==","isBase64Encoded":true}"#, None),
            (r#"{"body":""}"#, None),
            ("{}", None),
        ];
        for (json, expected) in cases {
            let response = ProxyResponse::parse(json.as_bytes()).expect(json);
            assert_eq!(response.into_message().as_deref(), expected, "case: {json}");
        }
    }
}
