//! Reading the functions' secrets from AWS Secrets Manager.

use aws_sdk_secretsmanager::Client;
use serde::Deserialize;

use crate::error::BoxError;

/// What the secret of a deployment holds: a JSON object.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Secrets {
    /// What `HEADWATER_CONNECTION_SECRET` is on one machine.
    pub connection_secret: Option<String>,
    /// What `HEADWATER_JWT_SECRET` is on one machine.
    pub jwt_secret: Option<String>,
}

/// Why the secrets could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// There is none with this name or ARN, or it may not be read.
    #[error("secret {id} cannot be read")]
    Unreadable {
        /// Its name or ARN.
        id: String,
        /// What the SDK says.
        #[source]
        source: BoxError,
    },
    /// Its text is not a JSON object with the names expected.
    #[error("secret {id} is not a JSON object with connectionSecret and jwtSecret")]
    Malformed {
        /// Its name or ARN.
        id: String,
    },
}

/// Reads the newest version of the secret `id`, a name or an ARN.
///
/// # Errors
///
/// [`SecretError`]; no part of the secret is in it.
pub async fn read(client: &Client, id: &str) -> Result<Secrets, SecretError> {
    let answer = client
        .get_secret_value()
        .secret_id(id)
        .send()
        .await
        .map_err(|error| SecretError::Unreadable { id: id.to_owned(), source: error.into() })?;
    answer
        .secret_string
        .and_then(|text| serde_json::from_str(&text).ok())
        .ok_or_else(|| SecretError::Malformed { id: id.to_owned() })
}
