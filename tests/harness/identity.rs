//! Tokens and access rules.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{Client, Headwater, Program, RestResponse, Setup};

/// The secret of a server that accepts tokens.
pub const SECRET: &str = "a secret of at least thirty-two bytes";

impl Setup {
    /// Accepts tokens, so that the default rules apply.
    #[must_use]
    pub fn with_tokens(self) -> Self {
        self.option("--jwt-secret", SECRET)
    }
}

/// Creates a token with `headwater token`; options such as `--class trader` set its claims.
pub async fn token(more: &[&str]) -> String {
    let arguments: Vec<&str> = ["token"].iter().chain(more).copied().collect();
    let made = Program::run(&arguments, &[("HEADWATER_JWT_SECRET", SECRET)]).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    made.stdout.trim().to_owned()
}

impl Headwater {
    /// Connects a client with a token.
    ///
    /// # Errors
    ///
    /// The status, when the server rejects the handshake.
    pub async fn client_with(&self, token: &str) -> Result<Client, u16> {
        let bearer = format!("bearer.{token}");
        Client::try_connect(self.address, "/live", &["headwater.v1", &bearer]).await
    }

    /// Replaces the policies, and the limits if there are any.
    pub async fn put_policies(
        &self,
        token: &str,
        policies: &str,
        limits: Option<&str>,
    ) -> RestResponse {
        let rest = self.rest().with("authorization", &format!("Bearer {token}"));
        let mut body = json!({"policies": policies});
        if let Some(limits) = limits {
            body["limits"] = Value::from(limits);
        }
        rest.send(Method::PUT, "/api/v1/policy", body.to_string()).await
    }
}
