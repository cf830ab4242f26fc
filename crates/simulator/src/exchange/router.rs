//! The routes of the exchange: the feed on `/`, and the REST interface.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};

use super::{rest, subscriber::Subscriber, trading::Exchange};
use crate::{faults::Fault, host, upgrade::Upgrade};

/// Returns all routes of the exchange.
pub(crate) fn router(exchange: &Arc<Exchange>) -> Router {
    let own = Router::new()
        .route("/", get(connect))
        .route("/_simulator/trades/{id}", get(rest::traded))
        .with_state(Arc::clone(exchange));
    rest::router(Arc::clone(exchange)).merge(own).merge(host::controls(Arc::clone(&exchange.host)))
}

async fn connect(State(exchange): State<Arc<Exchange>>, mut request: Request) -> Response {
    if exchange.host.switch.is_on(Fault::Refuse) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let rejection = exchange.state().rejection;
    if let Some(status) = rejection {
        return status.into_response();
    }
    let Some((upgrade, response)) = Upgrade::accept(&mut request) else {
        return StatusCode::UPGRADE_REQUIRED.into_response();
    };
    let events = exchange.events.subscribe();
    let host = Arc::clone(&exchange.host);
    let timing = exchange.timing;
    host.serve(upgrade, Subscriber::new(exchange), events, timing);
    response
}
