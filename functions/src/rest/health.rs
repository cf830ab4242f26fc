//! `/healthz`: the health check.

use axum::{Router, extract::State, http::StatusCode, routing::get};

use super::{problem::Problem, state::RestState};

pub(super) fn router() -> Router<RestState> {
    Router::new().route("/healthz", get(health))
}

/// Returns whether the service can handle requests.
#[utoipa::path(
    get,
    path = "/healthz",
    responses(
        (status = 200, description = "The service can handle requests"),
        (status = 503, description = "The database does not respond"),
    )
)]
pub(super) async fn health(State(state): State<RestState>) -> Result<&'static str, Problem> {
    state.app.tables.check().await.map_err(|_| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the database does not respond")
    })?;
    Ok("ok\n")
}
