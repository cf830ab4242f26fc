//! `headwater token`: signs tokens for local use.

use std::time::Duration;

use ::functions::access::{identity, secrets::parse_secrets};
use anyhow::Context as _;
use domain::{access::Principal, duration::parse_duration};
use jiff::Timestamp;
use secrecy::SecretString;

use crate::output::print;

/// Make a token for local use.
///
/// Signs it with the secret of the server. Clients send it to `headwater up`, as in
/// `headwater tail --token "$(headwater token --class trader)" coinbase/ticker/BTC-USD`.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Give the token these classes, such as `member` or `trader`, separated by commas.
    #[arg(long, default_value = "member", value_delimiter = ',')]
    class: Vec<String>,

    /// Issue the token to this subject (claim `sub`).
    #[arg(long, default_value = "local")]
    subject: String,

    /// Let the token expire after this time, such as `30min`, `12h` or `7days`.
    #[arg(long, value_name = "DURATION", default_value = "12h", value_parser = parse_duration)]
    term: Duration,

    /// Sign with this secret, which must be the server's. Of several, separated by commas, the
    /// first is used.
    #[arg(
        long,
        env = "HEADWATER_JWT_SECRET",
        value_name = "SECRET",
        hide_env_values = true,
        value_parser = parse_secrets
    )]
    jwt_secret: Option<SecretString>,

    /// Name this issuer (claim `iss`). By default, the token names none.
    #[arg(long, env = "HEADWATER_JWT_ISSUER", value_name = "ISSUER")]
    jwt_issuer: Option<String>,

    /// Name this audience (claim `aud`). Of several, separated by commas, the first is used. By
    /// default, the token names none.
    #[arg(long, env = "HEADWATER_JWT_AUDIENCE", value_name = "AUDIENCE", value_delimiter = ',')]
    jwt_audience: Vec<String>,
}

/// Prints a new token.
///
/// # Errors
///
/// When there is no secret, or a class or the subject is not valid.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let secret = options
        .jwt_secret
        .as_ref()
        .context("HEADWATER_JWT_SECRET is not set; set it to the secret of the server")?;
    let classes = options.class.iter().map(String::as_str);
    let token = identity::make(
        secret,
        &Principal::named(&options.subject, classes)?,
        options.term,
        Timestamp::now(),
        options.jwt_issuer.as_deref(),
        options.jwt_audience.first().map(String::as_str),
    )?;
    print(&format!("{token}\n"));
    Ok(())
}
