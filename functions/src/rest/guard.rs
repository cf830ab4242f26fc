//! Middleware of every REST request: the caller, its rate limit, and the security headers.

use std::collections::HashMap;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use domain::access::Right;
use lambda_http::request::RequestContext;

use super::{problem::Problem, state::RestState};
use crate::access::caller::Caller;

/// Headers that every response gets unless it sets them itself. They keep frames, scripts, caches and other
/// sites from using a response.
const HEADERS: [(&str, &str); 7] = [
    ("cache-control", "no-store"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
    ("strict-transport-security", "max-age=31536000"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
];

/// Identifies the caller, checks that it has permission and stays under its rate limit, and sets the
/// security headers.
pub(super) async fn guard(
    State(state): State<RestState>,
    mut request: Request<Body>,
    next: Next,
) -> Response {
    let caller = match request.extensions().get::<RequestContext>() {
        Some(RequestContext::ApiGatewayV2(context)) => {
            let fields = context.authorizer.as_ref().map(|it| it.fields.clone());
            Caller::read(&fields.unwrap_or_default(), context.http.source_ip.as_deref())
        }
        _ => Caller::read(&HashMap::new(), None),
    };
    let mut response = match admit(&state, &caller, request.uri().path()).await {
        Ok(()) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    };
    for (name, value) in HEADERS {
        let name = HeaderName::from_static(name);
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// Replaces the router's response to an unsupported method with a problem document.
pub(super) async fn explain_method(request: Request<Body>, next: Next) -> Response {
    let response = next.run(request).await;
    let is_bare = response.headers().get(header::CONTENT_TYPE).is_none();
    if response.status() != StatusCode::METHOD_NOT_ALLOWED || !is_bare {
        return response;
    }
    Problem::method_not_allowed(response.headers().get(header::ALLOW).cloned())
}

async fn admit(state: &RestState, caller: &Caller, path: &str) -> Result<(), Problem> {
    // The page and the health check are public.
    if !path.contains("/api/") {
        return Ok(());
    }
    let rules = state.app.rules.current().await?;
    if let Some(rate) = rules.limits_of(&caller.principal).requests_per_second
        && let Err(limited) = state.app.rates.admit(&caller.counted_as, rate, state.now()).await
    {
        let detail = format!("the limit is {rate} requests per second");
        return Err(Problem::rate_limited(detail, limited));
    }
    // The authorizer has checked this already, but the rules can have changed since.
    state.permit(&caller.principal, Right::Connect).await
}
