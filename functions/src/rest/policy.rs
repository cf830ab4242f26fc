//! The rules over REST, for those who may `admin`.

use aws::rules::Current;
use axum::{Extension, Json, body::Bytes, extract::State, http::StatusCode};
use domain::{
    access::Right,
    policy::{Policies, SetText},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::info;
use utoipa::ToSchema;

use crate::{access::caller::Caller, rest::Rest, rest::problem::Problem};

/// The rules in force.
#[derive(Serialize, ToSchema)]
pub(crate) struct Shown {
    /// Up by one at each put; 0 for those that hold before the first.
    version: u64,
    /// When they were put.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    at: Option<Timestamp>,
    /// Who put them.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    /// The policies, in Cedar.
    policies: String,
    /// Limits by class, in JSON.
    limits: String,
}

/// Rules to put in force.
#[derive(Deserialize, ToSchema)]
pub(crate) struct Wanted {
    /// The policies, in Cedar.
    policies: String,
    /// Limits by class, in JSON; without it, those in force stay.
    limits: Option<String>,
}

/// Returns the rules in force.
#[utoipa::path(
    get,
    path = "/api/v1/policy",
    responses(
        (status = 200, body = Shown),
        (status = 403, description = "The caller's class may not", body = Problem),
    )
)]
pub(crate) async fn show(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Shown>, Problem> {
    rest.permit(&caller.principal, Right::Admin).await?;
    let control = &rest.app.tables.control;
    let shown = match control.current_rules().await? {
        Some(current) => Shown::new(Some(&current), control.rules(&current).await?),
        None => Shown::new(None, rest.app.in_force().await?.policies().text().clone()),
    };
    Ok(Json(shown))
}

/// Puts rules in force, everywhere within five seconds.
#[utoipa::path(
    put,
    path = "/api/v1/policy",
    request_body = Wanted,
    responses(
        (status = 200, body = Shown),
        (status = 403, description = "The caller's class may not", body = Problem),
        (status = 409, description = "By these rules the caller could not replace them again", body = Problem),
        (status = 422, description = "The rules are not sound; `faults` says what and where", body = Problem),
    )
)]
pub(crate) async fn put(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Result<Json<Shown>, Problem> {
    rest.permit(&caller.principal, Right::Admin).await?;
    let wanted: Wanted = serde_json::from_slice(&body).map_err(|error| {
        let detail = format!("the body is not {{\"policies\":…,\"limits\":…}}: {error}");
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    })?;
    let limits = match wanted.limits {
        Some(limits) => limits,
        None => rest.app.in_force().await?.policies().text().limits.clone(),
    };
    let policies = Policies::read(SetText { policies: wanted.policies, limits })?;
    if !policies.allows(&caller.principal, Right::Admin) {
        let detail = "by these rules you could not replace them again";
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    let (control, by) = (&rest.app.tables.control, &caller.principal.id);
    let current = control.put_rules(policies.text(), by, (rest.clock)()).await?;
    info!(version = current.version, "rules put in force");
    rest.app.rules.at_least(current.version).await?;
    Ok(Json(Shown::new(Some(&current), policies.text().clone())))
}

impl Shown {
    fn new(current: Option<&Current>, text: SetText) -> Self {
        Self {
            version: current.map_or(0, |current| current.version),
            at: current.map(|current| current.at),
            by: current.map(|current| current.by.clone()),
            policies: text.policies,
            limits: text.limits,
        }
    }
}
