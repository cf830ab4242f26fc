//! The HTTP API: requests become events of payload format 2.0.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    addresses::Address,
    authorizer::{self, AuthorizationError},
    clock,
    functions::FunctionError,
    http_api::routes::RouteMatch,
    http_server::request::{Fields, HttpRequest},
    http_server::response::{self, HttpResponse},
    ids,
    invocation::{InvocationError, invoke},
    state::GatewayState,
    web_socket::events::to_json,
};

/// The event of a request, and of its authorizer.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a, H, Q> {
    version: &'static str,
    #[serde(flatten)]
    authorizer: Option<AuthorizerPart<'a>>,
    route_key: &'a str,
    raw_path: &'a str,
    raw_query_string: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cookies: &'a Vec<String>,
    headers: H,
    #[serde(skip_serializing_if = "Option::is_none")]
    query_string_parameters: Option<Q>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_parameters: Option<&'a BTreeMap<&'a str, String>>,
    request_context: Context<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_base64_encoded: Option<bool>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AuthorizerPart<'a> {
    r#type: &'static str,
    route_arn: &'a str,
    identity_source: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Context<'a> {
    account_id: &'a str,
    api_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    authorizer: Option<Lambda<'a>>,
    domain_name: &'a str,
    domain_prefix: &'a str,
    http: Http<'a>,
    request_id: &'a str,
    route_key: &'a str,
    stage: &'static str,
    time: String,
    time_epoch: u64,
}

#[derive(Serialize)]
struct Lambda<'a> {
    lambda: &'a Map<String, Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Http<'a> {
    method: &'a str,
    path: &'a str,
    protocol: &'static str,
    source_ip: String,
    user_agent: &'a str,
}

/// A function's response in format 2.0.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FunctionResponse {
    status_code: u16,
    #[serde(default)]
    headers: Option<BTreeMap<String, Value>>,
    #[serde(default)]
    multi_value_headers: Option<BTreeMap<String, Vec<Value>>>,
    #[serde(default)]
    cookies: Option<Vec<String>>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: Option<bool>,
}

/// Handles a request by invoking its function. The body is `None` if it exceeded the size limit, and the address if
/// the request must not wait for others.
pub(crate) async fn handle(
    state: &GatewayState,
    address: Option<&Address>,
    request: &HttpRequest,
    body: Option<Bytes>,
) -> HttpResponse {
    if !*state.config.ready.borrow() && request.path == "/healthz" {
        return response::error(StatusCode::SERVICE_UNAVAILABLE);
    }
    let Some(body) = body else {
        return response::message(StatusCode::PAYLOAD_TOO_LARGE, "Request Entity Too Large");
    };
    if !state.sockets.admits_request() {
        return response::error(StatusCode::TOO_MANY_REQUESTS);
    }
    let Some(matched) = state.config.http.select(&request.method, &request.path) else {
        return response::error(StatusCode::NOT_FOUND);
    };
    let route = matched.route;
    let call = Call::new(state, address, request, matched);
    let context = match call.authorize().await {
        Ok(context) => context,
        Err(error) => return response::error(error.status()),
    };
    let limit = state.sockets.limits().integration;
    let event = call.event(context.as_ref(), body);
    let mut response = match call.invoke(&route.function, event, limit).await {
        Ok(response) => to_response(&response).unwrap_or_else(response::failed),
        Err(InvocationError::Function(FunctionError::Handled { .. })) => response::failed(),
        Err(InvocationError::TimedOut | InvocationError::Function(_)) => {
            response::error(StatusCode::SERVICE_UNAVAILABLE)
        }
    };
    if let Ok(id) = HeaderValue::from_str(&call.request_id) {
        response.headers_mut().insert(HeaderName::from_static("apigw-requestid"), id);
    }
    response
}

/// A request for which a function is invoked.
struct Call<'a> {
    state: &'a GatewayState,
    address: Option<&'a Address>,
    request: &'a HttpRequest,
    matched: RouteMatch<'a>,
    request_id: String,
    headers: Fields,
    query: Fields,
    cookies: Vec<String>,
}

impl<'a> Call<'a> {
    fn new(
        state: &'a GatewayState,
        address: Option<&'a Address>,
        request: &'a HttpRequest,
        matched: RouteMatch<'a>,
    ) -> Self {
        let mut headers = Fields::default();
        for (name, value) in &request.headers {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            match name.as_str() {
                "cookie" | "connection" | "x-forwarded-for" | "x-forwarded-port"
                | "x-forwarded-proto" => {}
                name => headers.push(name.to_owned(), value),
            }
        }
        if !request.headers.contains_key("x-amzn-trace-id") {
            headers.push("x-amzn-trace-id".to_owned(), request.trace_id());
        }
        headers.push("x-forwarded-for".to_owned(), request.forwarded_for());
        headers.push("x-forwarded-port".to_owned(), request.local_port.to_string());
        headers.push("x-forwarded-proto".to_owned(), "http".to_owned());
        let cookies = request
            .headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(';'))
            .map(str::trim)
            .filter(|cookie| !cookie.is_empty())
            .map(str::to_owned)
            .collect();
        Self {
            state,
            address,
            request,
            matched,
            request_id: ids::request(request.received_at),
            headers,
            query: request.query_fields(),
            cookies,
        }
    }

    /// Invokes the authorizer, if there is one, and returns its context.
    async fn authorize(&self) -> Result<Option<Map<String, Value>>, AuthorizationError> {
        let Some(authorizer) = &self.matched.route.authorizer else { return Ok(None) };
        let identity = authorizer::identity(&authorizer.identity_sources, self.request);
        let identity_source = identity.ok_or(AuthorizationError::Unauthorized)?;
        let HttpRequest { method, path, .. } = self.request;
        let route_arn = self.state.config.api.http_arn(method.as_str(), path);
        let part = AuthorizerPart { r#type: "REQUEST", route_arn: &route_arn, identity_source };
        let event = self.to_event(Some(part), None, None);
        let limit = self.state.sockets.limits().authorizer;
        let response = self.invoke(&authorizer.function, event, limit).await?;
        Ok(Some(authorizer::evaluate_http(&response, &route_arn)?.values))
    }

    async fn invoke(
        &self,
        function: &str,
        event: Bytes,
        limit: Duration,
    ) -> Result<Bytes, InvocationError> {
        invoke(self.address, &*self.state.functions, function, event, limit).await
    }

    fn event(&self, context: Option<&Map<String, Value>>, body: Bytes) -> Bytes {
        let is_text = body.is_empty() || is_text(self.request.header(header::CONTENT_TYPE));
        let body = match String::from_utf8(body.into()) {
            Ok(text) if is_text => (text, false),
            Ok(text) => (STANDARD.encode(text), true),
            Err(error) => (STANDARD.encode(error.as_bytes()), true),
        };
        self.to_event(None, context, Some(body))
    }

    fn to_event(
        &self,
        authorizer: Option<AuthorizerPart<'_>>,
        context: Option<&Map<String, Value>>,
        body: Option<(String, bool)>,
    ) -> Bytes {
        let api = &self.state.config.api;
        let request = self.request;
        let is_base64_encoded = body.as_ref().map(|(_, is_base64_encoded)| *is_base64_encoded);
        let route_key = self.matched.route.key.as_str();
        let variables = &self.matched.variables;
        to_json(&Event {
            version: "2.0",
            authorizer,
            route_key,
            raw_path: &request.path,
            raw_query_string: &request.query,
            cookies: &self.cookies,
            headers: self.headers.joined(),
            query_string_parameters: (!self.query.is_empty()).then(|| self.query.joined()),
            path_parameters: (!variables.is_empty()).then_some(variables),
            request_context: Context {
                account_id: &api.account,
                api_id: &api.id,
                authorizer: context.map(|lambda| Lambda { lambda }),
                domain_name: &request.host,
                domain_prefix: request.host.split('.').next().unwrap_or_default(),
                http: Http {
                    method: request.method.as_str(),
                    path: &request.path,
                    protocol: "HTTP/1.1",
                    source_ip: request.source_ip.to_string(),
                    user_agent: request.header(header::USER_AGENT).unwrap_or_default(),
                },
                request_id: &self.request_id,
                route_key,
                stage: "$default",
                time: clock::common_log(request.received_at),
                time_epoch: request.received_at,
            },
            body: body.map(|(text, _)| text).filter(|text| !text.is_empty()),
            is_base64_encoded,
        })
    }
}

/// Whether API Gateway passes a body of this type as text.
fn is_text(content_type: Option<&str>) -> bool {
    let Some(content_type) = content_type else { return true };
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.starts_with("text/")
        || essence.ends_with("+json")
        || essence.ends_with("+xml")
        || matches!(
            essence.as_str(),
            "application/json" | "application/xml" | "application/javascript"
        )
}

/// Converts a function's response to an HTTP response. Returns `None` if it is malformed.
fn to_response(json: &[u8]) -> Option<HttpResponse> {
    let response: Value = serde_json::from_slice(json).ok()?;
    if response.get("statusCode").is_none() {
        // A value that is not a response object is the body of a response.
        let body = match response {
            Value::String(text) => text,
            other => other.to_string(),
        };
        return Some(response::json(StatusCode::OK, body));
    }
    let function: FunctionResponse = serde_json::from_value(response).ok()?;
    let body = function.body.unwrap_or_default();
    let body = if function.is_base64_encoded == Some(true) {
        STANDARD.decode(body).ok()?
    } else {
        body.into_bytes()
    };
    let status =
        StatusCode::from_u16(function.status_code).ok().filter(|status| status.as_u16() >= 200)?;
    let mut response = response::plain(status, body);
    let headers = response.headers_mut();
    let multi = function
        .multi_value_headers
        .unwrap_or_default()
        .into_iter()
        .flat_map(|(name, values)| values.into_iter().map(move |value| (name.clone(), value)));
    for (name, value) in function.headers.unwrap_or_default().into_iter().chain(multi) {
        let name = HeaderName::try_from(name).ok()?;
        let value = match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let is_framing =
            matches!(name, header::CONTENT_LENGTH | header::TRANSFER_ENCODING | header::CONNECTION);
        if !is_framing {
            headers.append(name, HeaderValue::try_from(value).ok()?);
        }
    }
    for cookie in function.cookies.into_iter().flatten() {
        headers.append(header::SET_COOKIE, HeaderValue::try_from(cookie).ok()?);
    }
    if !headers.contains_key(header::CONTENT_TYPE) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    Some(response)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn converts_function_responses() {
        let full = json!({
            "statusCode": 201,
            "headers": {"Content-Type": "text/html", "X-Number": 7, "content-length": "9"},
            "multiValueHeaders": {"vary": ["a", "b"]},
            "cookies": ["a=1", "b=2"],
            "body": "PGI+",
            "isBase64Encoded": true,
        });
        let response = to_response(full.to_string().as_bytes()).expect("a response");
        assert_eq!(response.status(), StatusCode::CREATED);
        let header = |name: &str| -> Vec<&str> {
            let all = response.headers().get_all(name).iter();
            all.map(|value| value.to_str().expect("text")).collect()
        };
        assert_eq!(header("content-type"), ["text/html"]);
        assert_eq!(header("x-number"), ["7"]);
        assert_eq!(header("vary"), ["a", "b"]);
        assert_eq!(header("set-cookie"), ["a=1", "b=2"]);
        assert_eq!(header("content-length"), [""; 0], "hyper sets it");
    }

    #[test]
    fn malformed_responses_are_rejected() {
        let cases = [
            "",
            "{",
            r#"{"statusCode":"x"}"#,
            r#"{"statusCode":101}"#,
            r#"{"statusCode":200,"body":{}}"#,
            r#"{"statusCode":200,"body":"?","isBase64Encoded":true}"#,
            r#"{"statusCode":200,"headers":{"a b":"c"}}"#,
        ];
        for json in cases {
            assert!(to_response(json.as_bytes()).is_none(), "case: {json}");
        }
    }

    #[test]
    fn json_without_a_status_is_the_body() {
        for json in [r#"{"a":1}"#, "[1]", "7"] {
            let response = to_response(json.as_bytes()).expect("a response");
            assert_eq!(response.status(), StatusCode::OK, "case: {json}");
            assert_eq!(response.headers()["content-type"], "application/json", "case: {json}");
        }
    }

    #[test]
    fn the_content_type_decides_whether_a_body_is_text() {
        let cases = [
            (None, true),
            (Some("text/plain"), true),
            (Some("Application/JSON; charset=utf-8"), true),
            (Some("application/problem+json"), true),
            (Some("application/x-www-form-urlencoded"), false),
            (Some("application/octet-stream"), false),
        ];
        for (content_type, expected) in cases {
            assert_eq!(is_text(content_type), expected, "case: {content_type:?}");
        }
    }
}
