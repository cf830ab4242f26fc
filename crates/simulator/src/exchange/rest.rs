//! The exchange's REST interface: products, trades and books.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, Query, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{messages, trading::Exchange};
use crate::{
    faults::Fault,
    market::{Market, PRODUCTS, Product, Trade},
    stats::Stats,
};

/// Returns the REST routes.
pub(super) fn router(exchange: Arc<Exchange>) -> Router {
    Router::new()
        .route("/products", get(products))
        .route("/products/{id}/trades", get(trades))
        .fallback(async || not_found())
        .layer(middleware::from_fn_with_state(Arc::clone(&exchange), gate))
        .with_state(exchange)
}

/// Rejects requests that the real interface rejects before it looks at the path.
async fn gate(State(exchange): State<Arc<Exchange>>, request: Request, next: Next) -> Response {
    Stats::add(&exchange.host.stats.requests, 1);
    if exchange.host.switch.is_on(Fault::Refuse) {
        return failure(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable");
    }
    if !request.headers().contains_key(header::USER_AGENT) {
        return failure(StatusCode::BAD_REQUEST, "User-Agent header is required");
    }
    next.run(request).await
}

async fn products() -> Json<Value> {
    Json(PRODUCTS.iter().map(Product::describe).collect())
}

#[derive(Deserialize)]
struct Page {
    limit: Option<String>,
    before: Option<String>,
    after: Option<String>,
}

async fn trades(
    State(exchange): State<Arc<Exchange>>,
    Path(id): Path<String>,
    Query(page): Query<Page>,
) -> Response {
    let number = |text: Option<String>| text.map(|text| text.parse::<u64>()).transpose();
    let (Ok(limit), Ok(before), Ok(after)) =
        (number(page.limit), number(page.before), number(page.after))
    else {
        return failure(StatusCode::BAD_REQUEST, "Invalid pagination parameter");
    };
    if before.is_some() && after.is_some() {
        return failure(StatusCode::BAD_REQUEST, "before and after are mutually exclusive");
    }
    let limit = usize::try_from(limit.unwrap_or(1_000)).unwrap_or(1_000).clamp(1, 1_000);
    on_market(&exchange, &id, |market| {
        let in_page = |trade: &&Trade| {
            after.is_none_or(|after| trade.id < after) && before.is_none_or(|it| trade.id > it)
        };
        // The page has the newest trades that match, even for `before`, as on the real exchange.
        let page: Vec<_> = market.trades.iter().rev().filter(in_page).take(limit).collect();
        let listed: Vec<_> =
            page.iter().map(|trade| messages::rest_trade(market.product, trade)).collect();
        let mut response = Json(listed).into_response();
        if let (Some(newest), Some(oldest)) = (page.first(), page.last()) {
            response.headers_mut().insert("cb-before", HeaderValue::from(newest.id));
            response.headers_mut().insert("cb-after", HeaderValue::from(oldest.id));
        }
        response
    })
}

/// Handles `GET /_simulator/trades/{product}`, which lists all trades, streamed or not.
pub(super) async fn traded(
    State(exchange): State<Arc<Exchange>>,
    Path(id): Path<String>,
) -> Response {
    on_market(&exchange, &id, |market| {
        let trades = &market.trades;
        let edge = |trade: Option<&Trade>| trade.map(|trade| trade.id);
        let first = edge(trades.front());
        let last = edge(trades.back());
        Json(json!({"product_id": market.product.id, "first": first, "last": last, "count": trades.len()}))
            .into_response()
    })
}

fn on_market(exchange: &Exchange, id: &str, respond: impl FnOnce(&Market) -> Response) -> Response {
    let state = exchange.state();
    let found = state.markets.all.iter().find(|market| market.product.id == id);
    found.map_or_else(not_found, respond)
}

fn not_found() -> Response {
    failure(StatusCode::NOT_FOUND, "NotFound")
}

fn failure(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({"message": message}))).into_response()
}
