//! The routes of the Mastodon server: the streaming API and the REST interface.

use std::sync::Arc;

use axum::{
    Router,
    extract::{RawQuery, Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::{
    instance::{InvalidToken, Mastodon},
    query::Query,
    rest,
    subscriber::Subscriber,
};
use crate::{host, upgrade::Upgrade};

/// Returns all routes of the server.
pub(crate) fn router(server: &Arc<Mastodon>) -> Router {
    let streaming =
        Router::new().route("/api/v1/streaming", get(connect)).with_state(Arc::clone(server));
    rest::router(Arc::clone(server))
        .merge(streaming)
        .merge(host::controls(Arc::clone(&server.host)))
}

async fn connect(
    State(server): State<Arc<Mastodon>>,
    RawQuery(raw): RawQuery,
    mut request: Request,
) -> Response {
    let query = Query::parse(raw.as_deref());
    if let Err(InvalidToken(message)) = server.authorize(request.headers(), &query) {
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("text/plain")),
            (HeaderName::from_static("x-error-message"), HeaderValue::from_static(message)),
        ];
        return (StatusCode::UNAUTHORIZED, headers).into_response();
    }
    let offered = request.headers().get(header::SEC_WEBSOCKET_PROTOCOL).cloned();
    let Some((upgrade, mut response)) = Upgrade::accept(&mut request) else {
        return StatusCode::UPGRADE_REQUIRED.into_response();
    };
    if let Some(protocol) = offered {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    let events = server.events.subscribe();
    let host = Arc::clone(&server.host);
    let timing = server.timing;
    host.serve(upgrade, Subscriber::new(server, query), events, timing);
    response
}
