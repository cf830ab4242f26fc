//! What every REST request passes: who makes it, how often, and the headers of the answer.

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode},
    middleware::Next,
    response::{IntoResponse, Response},
};
use domain::access::Right;
use lambda_http::request::RequestContext;

use crate::{access::caller::Caller, rest::Rest, rest::problem::Problem};

/// What browsers are told of each answer, unless the answer says otherwise. Nothing of the interface
/// is for a frame, a script, a cache or another site.
const HEADERS: [(&str, &str); 7] = [
    ("cache-control", "no-store"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
    ("strict-transport-security", "max-age=31536000"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
];

/// Lets in who may come in, and hands on who that is.
pub(crate) async fn guard(
    State(rest): State<Rest>,
    mut request: Request<Body>,
    next: Next,
) -> Response {
    let caller = match request.extensions().get::<RequestContext>() {
        Some(RequestContext::ApiGatewayV2(context)) => {
            let said = context.authorizer.as_ref().map(|it| it.fields.clone());
            Caller::read(&said.unwrap_or_default(), context.http.source_ip.as_deref())
        }
        _ => Caller::read(&std::collections::HashMap::new(), None),
    };
    let mut response = match admit(&rest, &caller, request.uri().path()).await {
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

async fn admit(rest: &Rest, caller: &Caller, path: &str) -> Result<(), Problem> {
    // The page and the health check are for everybody.
    if !path.contains("/api/") {
        return Ok(());
    }
    let rules = rest.app.in_force().await?;
    if let Some(rate) = rules.limits_of(&caller.principal).requests_per_second
        && let Err(too_often) = rest.app.rates.admit(&caller.counted_as, rate, (rest.clock)()).await
    {
        let detail = format!("you may make {rate} requests a second");
        let seconds = too_often.0.as_secs_f64().ceil().max(1.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a second or so"
        )]
        let retry_after_s = Some(seconds as u64);
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, detail);
        return Err(Problem { retry_after_s, ..problem });
    }
    // The authorizer knew that, unless the rules have changed since.
    rest.permit(&caller.principal, Right::Connect).await
}
