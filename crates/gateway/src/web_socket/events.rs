//! Events of the WebSocket API, with the fields and their order as in captured events of API Gateway.

use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::{
    clock,
    config::ApiIdentity,
    http_server::request::{Fields, HttpRequest},
    ids,
    sockets::socket::{Client, CloseStatus},
};

/// The event of a Lambda authorizer of type `REQUEST`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AuthorizerEvent<'a, S, M, Q, P> {
    r#type: &'static str,
    method_arn: &'a str,
    headers: S,
    multi_value_headers: M,
    query_string_parameters: Q,
    multi_value_query_string_parameters: P,
    stage_variables: Empty,
    request_context: Context<'a, AuthorizerIdentity<'a>>,
}

/// The event of a route with proxy integration.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProxyEvent<'a, S, M, Q, P> {
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<S>,
    #[serde(skip_serializing_if = "Option::is_none")]
    multi_value_headers: Option<M>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query_string_parameters: Option<Q>,
    #[serde(skip_serializing_if = "Option::is_none")]
    multi_value_query_string_parameters: Option<P>,
    request_context: Context<'a, Identity<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    is_base64_encoded: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Context<'a, I> {
    route_key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disconnect_status_code: Option<u16>,
    event_type: &'static str,
    extended_request_id: &'a str,
    request_time: String,
    message_direction: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    disconnect_reason: Option<&'a str>,
    stage: &'a str,
    connected_at: u64,
    request_time_epoch: u64,
    identity: I,
    request_id: &'a str,
    domain_name: &'a str,
    connection_id: &'a str,
    api_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    authorizer: Option<&'a RawValue>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Identity<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
    source_ip: String,
}

/// An [`Identity`] with the order of fields that authorizer events have.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AuthorizerIdentity<'a> {
    source_ip: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
}

/// An object without fields.
struct Empty;

impl Serialize for Empty {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map([(); 0].map(|()| ("", "")))
    }
}

/// Builds the events of one client.
pub(crate) struct EventBuilder<'a> {
    pub(crate) api: &'a ApiIdentity,
    pub(crate) client: &'a Client,
    pub(crate) request_id: &'a str,
    /// Milliseconds since 1970.
    pub(crate) at: u64,
}

impl EventBuilder<'_> {
    /// Returns the authorizer's event for a handshake.
    pub(crate) fn authorize(&self, request: &HttpRequest) -> Bytes {
        let mut headers = request.forwarded_headers();
        if !request.headers.contains_key(http::header::CONTENT_LENGTH) {
            headers.push("content-length".to_owned(), "0".to_owned());
        }
        let query = request.query_fields();
        to_json(&AuthorizerEvent {
            r#type: "REQUEST",
            method_arn: &self.api.connect_arn(),
            headers: headers.single(),
            multi_value_headers: headers.multi(),
            query_string_parameters: query.single(),
            multi_value_query_string_parameters: query.multi(),
            stage_variables: Empty,
            request_context: self.context("$connect", "CONNECT").with_identity(
                AuthorizerIdentity {
                    source_ip: self.client.source_ip.to_string(),
                    user_agent: self.client.user_agent.as_deref(),
                },
            ),
        })
    }

    /// Returns the event of `$connect`.
    pub(crate) fn connect(&self, request: &HttpRequest) -> Bytes {
        let headers =
            request.forwarded_headers().without(&["connection", "upgrade", "content-length"]);
        let query = request.query_fields();
        let has_query = !query.is_empty();
        to_json(&ProxyEvent {
            headers: Some(headers.single()),
            multi_value_headers: Some(headers.multi()),
            query_string_parameters: has_query.then(|| query.single()),
            multi_value_query_string_parameters: has_query.then(|| query.multi()),
            request_context: self.context("$connect", "CONNECT"),
            body: None,
            is_base64_encoded: false,
        })
    }

    /// Returns the event of a message on the route `route_key`.
    pub(crate) fn message(&self, route_key: &str, body: &str) -> Bytes {
        to_json(&ProxyEvent::<(), (), (), ()> {
            headers: None,
            multi_value_headers: None,
            query_string_parameters: None,
            multi_value_query_string_parameters: None,
            request_context: Context {
                message_id: Some(ids::message(self.at, &self.client.id)),
                ..self.context(route_key, "MESSAGE")
            },
            body: Some(body),
            is_base64_encoded: false,
        })
    }

    /// Returns the event of `$disconnect`.
    pub(crate) fn disconnect(&self, status: &CloseStatus) -> Bytes {
        let mut headers = Fields::default();
        headers.push("Host".to_owned(), self.client.domain_name.to_string());
        for name in ["x-api-key", "X-Forwarded-For", "x-restapi"] {
            headers.push(name.to_owned(), String::new());
        }
        to_json(&ProxyEvent::<_, _, (), ()> {
            headers: Some(headers.single()),
            multi_value_headers: Some(headers.multi()),
            query_string_parameters: None,
            multi_value_query_string_parameters: None,
            request_context: Context {
                disconnect_status_code: Some(status.code),
                disconnect_reason: Some(&status.reason),
                ..self.context("$disconnect", "DISCONNECT")
            },
            body: None,
            is_base64_encoded: false,
        })
    }

    fn context<'a>(
        &'a self,
        route_key: &'a str,
        event_type: &'static str,
    ) -> Context<'a, Identity<'a>> {
        Context {
            route_key,
            message_id: None,
            disconnect_status_code: None,
            event_type,
            extended_request_id: self.request_id,
            request_time: clock::common_log(self.at),
            message_direction: "IN",
            disconnect_reason: None,
            stage: &self.api.stage,
            connected_at: self.client.connected_at,
            request_time_epoch: self.at,
            identity: Identity {
                user_agent: self.client.user_agent.as_deref(),
                source_ip: self.client.source_ip.to_string(),
            },
            request_id: self.request_id,
            domain_name: &self.client.domain_name,
            connection_id: &self.client.id,
            api_id: &self.api.id,
            authorizer: self.client.authorizer.as_deref(),
        }
    }
}

impl<'a> Context<'a, Identity<'a>> {
    fn with_identity<I>(self, identity: I) -> Context<'a, I> {
        Context {
            route_key: self.route_key,
            message_id: self.message_id,
            disconnect_status_code: self.disconnect_status_code,
            event_type: self.event_type,
            extended_request_id: self.extended_request_id,
            request_time: self.request_time,
            message_direction: self.message_direction,
            disconnect_reason: self.disconnect_reason,
            stage: self.stage,
            connected_at: self.connected_at,
            request_time_epoch: self.request_time_epoch,
            identity,
            request_id: self.request_id,
            domain_name: self.domain_name,
            connection_id: self.connection_id,
            api_id: self.api_id,
            authorizer: self.authorizer,
        }
    }
}

/// Serializes an event. Every value in an event can be represented in JSON.
pub(crate) fn to_json(event: &impl Serialize) -> Bytes {
    serde_json::to_vec(event).expect("an event is JSON").into()
}
