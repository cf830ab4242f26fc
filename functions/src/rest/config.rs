//! `/api/v1/config`: what the web page needs to know before it connects.

use std::sync::Arc;

use axum::{Json, Router, extract::State, routing::get};
use serde::Serialize;
use utoipa::ToSchema;

use super::state::RestState;

pub(super) fn router() -> Router<RestState> {
    Router::new().route("/api/v1/config", get(config))
}

/// The configuration of the web page.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PageConfig {
    /// The URL of the WebSocket; absent if it is `/live` on this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "wss://live.example.org")]
    websocket_url: Option<Arc<str>>,
}

/// Returns what a web page needs to know before it connects.
#[utoipa::path(get, path = "/api/v1/config", responses((status = 200, body = PageConfig)))]
pub(super) async fn config(State(state): State<RestState>) -> Json<PageConfig> {
    Json(PageConfig { websocket_url: state.app.websocket_url.clone() })
}
