//! `/api/v1/openapi.json`: the description of the REST interface.

use axum::{Json, Router, routing::get};
use utoipa::OpenApi;

use super::{
    config, connection, health, history, policy, problem, state::RestState, status, subscribe,
    subscriptions, topics,
};

pub(super) fn router() -> Router<RestState> {
    Router::new().route("/api/v1/openapi.json", get(openapi))
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Headwater",
        description = "Public posts and market data in near real time. Errors are RFC 9457 problem documents.",
    ),
    paths(
        subscribe::subscribe_pair,
        subscribe::unsubscribe_pair,
        subscribe::list,
        subscriptions::subscribe,
        subscriptions::unsubscribe,
        history::history,
        topics::topics,
        status::status,
        config::config,
        policy::show,
        policy::put,
        health::health
    ),
    components(schemas(connection::Subscription, problem::Problem))
)]
struct Api;

async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(Api::openapi())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_document_is_the_recorded_one() {
        let Json(mut document) = openapi().await;
        "VERSION".clone_into(&mut document.info.version);
        let description = "The OpenAPI document has changed. If that is intended, record it with \
                           `make snapshots` and commit the snapshot.";
        insta::with_settings!({ description => description, omit_expression => true }, {
            insta::assert_json_snapshot!("openapi", document);
        });
    }
}
