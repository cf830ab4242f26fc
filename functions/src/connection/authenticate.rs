//! `authenticate`: a new token for an open connection.

use domain::{
    access::Right,
    chain::Chain,
    protocol::{ErrorCode, Reply, Token},
};
use tracing::info;

use super::{client::Client, error::RequestError};
use crate::access::identity::TokenError;

/// Replaces the token of the connection with another one of the same principal. `push` notices that the
/// item has changed, and checks whether the new class has permission for the subscriptions.
pub(super) async fn authenticate(
    client: &Client<'_>,
    id: Option<String>,
    token: &Token,
) -> Result<(), RequestError> {
    let app = client.app;
    let checked = app.identities.check(&token.0, &client.caller.counted_as, client.now).await;
    let identity = checked.map_err(|error| rejection(&error))?;
    let connection = client.connection().await?;
    let principal = identity.principal;
    if principal.id != connection.principal.id {
        let message = "the token belongs to another principal; use it on a new connection";
        return Err(RequestError::rejected(ErrorCode::Forbidden, message, None));
    }
    if !app.rules.current().await?.allows(&principal, Right::Connect) {
        let message = "the class of the token does not have permission to connect";
        return Err(RequestError::rejected(ErrorCode::Forbidden, message, None));
    }
    let connection_id = &client.recipient.id;
    let connections = &app.tables.connections;
    let token_expires_at = identity.expires_at;
    connections.renew(connection.shard, connection_id, &principal, token_expires_at).await?;
    let reply = Reply::Authenticated {
        id,
        limits: client.limits(&principal).await?,
        principal: principal.id,
        class: principal.class,
        token_expires_at,
    };
    Ok(client.reply(&reply).await?)
}

fn rejection(error: &TokenError) -> RequestError {
    info!(error = %Chain(error), "rejected a token");
    let (code, message) = match error {
        TokenError::IssuerUnavailable(_) => {
            (ErrorCode::Unavailable, "the token could not be checked; try again")
        }
        TokenError::Expired => (ErrorCode::Unauthorized, "the token has expired"),
        TokenError::NotConfigured
        | TokenError::Invalid(_)
        | TokenError::TooLong
        | TokenError::Algorithm(_)
        | TokenError::Critical
        | TokenError::UnknownKey
        | TokenError::Claim(_)
        | TokenError::NotYet
        | TokenError::Principal(_) => (ErrorCode::Unauthorized, "the token is not valid"),
    };
    RequestError::rejected(code, message, None)
}
