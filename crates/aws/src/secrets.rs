//! Reading the functions' secrets from AWS Secrets Manager.

use aws_config::{SdkConfig, timeout::TimeoutConfig};
use domain::chain::BoxError;
use serde::Deserialize;
use serde_json::json;

use crate::call::{Call, Input, Target};

/// Secrets Manager's `GetSecretValue` (AWS Secrets Manager API reference).
const GET_SECRET_VALUE: Target =
    Target { service: "Secrets Manager", host: "secretsmanager", operation: "GetSecretValue" };

/// The secret of a deployment: a JSON object.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Secrets {
    /// The value of `HEADWATER_CONNECTION_SECRET` in a local setup.
    pub connection_secret: Option<String>,
    /// The value of `HEADWATER_JWT_SECRET` in a local setup.
    pub jwt_secret: Option<String>,
}

/// Why the secrets could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The secret does not exist, or the program lacks permission to read it.
    #[error("secret {id} cannot be read")]
    Unreadable {
        /// Its name or ARN.
        id: String,
        /// The error of the SDK.
        #[source]
        source: BoxError,
    },
    /// The text of the secret is not a JSON object with the expected names.
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
pub async fn read(config: &SdkConfig, id: &str) -> Result<Secrets, SecretError> {
    /// The part of the response that is used.
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct SecretValue {
        secret_string: Option<String>,
    }
    let timeouts =
        config.timeout_config().cloned().unwrap_or_else(|| TimeoutConfig::builder().build());
    let call = Call::new(config, GET_SECRET_VALUE, timeouts, config.retry_config());
    let input = Input {
        path: "/".to_owned(),
        headers: vec![
            ("content-type", "application/x-amz-json-1.1"),
            ("x-amz-target", "secretsmanager.GetSecretValue"),
        ],
        body: json!({ "SecretId": id }).to_string().into_bytes(),
    };
    let response = call
        .send(input)
        .await
        .map_err(|error| SecretError::Unreadable { id: id.to_owned(), source: error.into() })?;
    serde_json::from_slice(&response.body)
        .ok()
        .and_then(|value: SecretValue| serde_json::from_str(&value.secret_string?).ok())
        .ok_or_else(|| SecretError::Malformed { id: id.to_owned() })
}

#[cfg(test)]
mod tests {
    use domain::chain::Chain;

    use super::*;
    use crate::call::canned::Canned;

    const VALUE: &str = r#"{"Name":"x","SecretString":"{\"connectionSecret\":\"hush\"}"}"#;

    #[tokio::test]
    async fn a_secret_is_read_and_a_failure_of_the_service_retried() {
        let canned = Canned::new([(500, &[][..], "{}"), (200, &[], VALUE)]);
        let secrets = read(&canned.config(), "x").await.expect("the secret");
        assert_eq!(secrets.connection_secret.as_deref(), Some("hush"));
        assert_eq!(secrets.jwt_secret, None);
        let requests = canned.requests();
        assert_eq!(requests.len(), 2);
        assert_eq!(requests[1].uri, "http://aws.test/");
        assert_eq!(requests[1].body, r#"{"SecretId":"x"}"#);
        assert!(requests[1].authorization.contains("/eu-central-1/secretsmanager/aws4_request"));
    }

    #[tokio::test]
    async fn a_secret_that_cannot_be_read_says_why_and_a_malformed_one_does_not_show_itself() {
        let refused = r#"{"__type":"ResourceNotFoundException","Message":"no such secret"}"#;
        let cases = [
            (
                400,
                refused,
                "secret x cannot be read: service error: HTTP 400, ResourceNotFoundException: no such secret",
            ),
            (
                200,
                r#"{"SecretString":"hush"}"#,
                "secret x is not a JSON object with connectionSecret and jwtSecret",
            ),
            (
                200,
                r#"{"SecretBinary":"aHVzaA=="}"#,
                "secret x is not a JSON object with connectionSecret and jwtSecret",
            ),
        ];
        for (status, body, expected) in cases {
            let canned = Canned::new([(status, &[][..], body)]);
            let error = read(&canned.config(), "x").await.err().expect("an error");
            assert_eq!(Chain(&error).to_string(), expected, "case: {body}");
        }
    }
}
