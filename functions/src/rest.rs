//! The function `rest`: the REST interface under `/api/v1`, and the web page at all other paths.

mod config;
mod connection;
mod guard;
mod health;
mod history;
mod openapi;
mod page;
mod policy;
mod problem;
mod state;
mod status;
mod subscribe;
mod subscriptions;
mod topic_path;
mod topics;

use std::sync::Arc;

use axum::{Router, middleware};

use domain::clock::Clock;
use state::RestState;

use crate::app::App;

/// Returns the router for `/api/v1`, `/healthz` and the web page.
pub fn router(app: Arc<App>, clock: Clock) -> Router {
    let page = page::router(app.websocket_url.as_deref());
    let state = RestState::new(app, clock);
    Router::new()
        .merge(subscribe::router())
        .merge(subscriptions::router())
        .merge(history::router())
        .merge(topics::router())
        .merge(status::router())
        .merge(policy::router())
        .merge(config::router())
        .merge(openapi::router())
        .merge(health::router())
        .merge(page)
        .layer(middleware::from_fn(guard::explain_method))
        .layer(middleware::from_fn_with_state(state.clone(), guard::guard))
        .with_state(state)
}
