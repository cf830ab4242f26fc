//! `/api/v1/policy`: the rules, for principals with the right `admin`.

use std::time::Duration;

use aws::rules::Current;
use axum::{Extension, Json, Router, body::Bytes, extract::State, http::StatusCode, routing::get};
use domain::{
    access::Right,
    rules::{RuleSet, SetText},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::info;
use utoipa::ToSchema;

use super::{problem::Problem, state::RestState};
use crate::access::caller::Caller;

pub(super) fn router() -> Router<RestState> {
    Router::new().route("/api/v1/policy", get(show).put(put))
}

/// The rules in force.
#[derive(Serialize, ToSchema)]
pub(super) struct RulesInForce {
    /// Increases by one each time rules are put in force; 0 for the initial rules.
    version: u64,
    /// When the rules were put in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    at: Option<Timestamp>,
    /// The principal that put the rules in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    /// The policies, in Cedar.
    policies: String,
    /// Limits by class, in JSON.
    limits: String,
}

/// Rules to put in force.
#[derive(Deserialize, ToSchema)]
pub(super) struct NewRules {
    /// The policies, in Cedar.
    policies: String,
    /// Limits by class, in JSON. By default, the limits in force are kept.
    limits: Option<String>,
}

/// Returns the rules in force.
#[utoipa::path(
    get,
    path = "/api/v1/policy",
    responses(
        (status = 200, body = RulesInForce),
        (status = 403, description = "The caller does not have permission", body = Problem),
    )
)]
pub(super) async fn show(
    State(state): State<RestState>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<RulesInForce>, Problem> {
    state.permit(&caller.principal, Right::Admin).await?;
    let control = &state.app.tables.control;
    let rules = match control.current_rules().await? {
        Some(current) => RulesInForce::new(Some(&current), control.rules(&current).await?),
        None => RulesInForce::new(None, state.app.rules.current().await?.set().text().clone()),
    };
    Ok(Json(rules))
}

/// Replaces the rules in force. The new rules apply everywhere within five seconds.
#[utoipa::path(
    put,
    path = "/api/v1/policy",
    request_body = NewRules,
    responses(
        (status = 200, body = RulesInForce),
        (status = 403, description = "The caller does not have permission", body = Problem),
        (status = 409, description = "The new rules would not permit the caller to replace them", body = Problem),
        (status = 422, description = "The rules are not valid; `faults` lists the errors and their positions", body = Problem),
    )
)]
pub(super) async fn put(
    State(state): State<RestState>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Result<Json<RulesInForce>, Problem> {
    state.permit(&caller.principal, Right::Admin).await?;
    let new: NewRules = serde_json::from_slice(&body).map_err(|error| {
        let detail = format!("the body is not {{\"policies\":…,\"limits\":…}}: {error}");
        Problem::unprocessable(detail)
    })?;
    let limits = match new.limits {
        Some(limits) => limits,
        None => state.app.rules.current().await?.set().text().limits.clone(),
    };
    let set = RuleSet::read(SetText { policies: new.policies, limits })?;
    if !set.allows(&caller.principal, Right::Admin) {
        let detail = "these rules would not permit you to replace them";
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    let control = &state.app.tables.control;
    let current = control.put_rules(set.text(), &caller.principal.id, state.now()).await?;
    info!(version = current.version, "put new rules in force");
    state.app.rules.at_least(current.version, Duration::ZERO).await?;
    Ok(Json(RulesInForce::new(Some(&current), set.text().clone())))
}

impl RulesInForce {
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
