//! What a function does on a cold start: reads the environment and builds what its handler uses.

use std::{fmt, sync::Arc};

use aws::{clients::Clients, settings::explain};
use clap::{CommandFactory as _, Parser};
use domain::{chain::Chain, clock::Clock, rules::SetText};

use crate::{
    access::{rules::Rules, secrets::parse_secrets},
    app::App,
    push::Pusher,
    settings::Environment,
};

#[derive(Debug, Parser)]
#[command(name = "headwater")]
struct Cli {
    #[command(flatten)]
    environment: Environment,
}

/// Why a function cannot start: one line that names the setting that is missing or not valid.
#[derive(thiserror::Error)]
#[error("{0}")]
pub struct StartError(String);

/// The runtime prints the error of `main` in this form.
impl fmt::Debug for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StartError {
    fn new(error: &(dyn std::error::Error + 'static)) -> Self {
        Self(Chain(error).to_string())
    }
}

impl App {
    /// Builds the state of a function behind an API from the environment of the process.
    ///
    /// # Errors
    ///
    /// [`StartError`] that names the setting that is missing or not valid.
    pub async fn from_env() -> Result<Self, StartError> {
        let environment = Environment::read()?;
        let clients = Clients::from_env().await.map_err(|error| StartError::new(&error))?;
        environment.app(&clients).await
    }
}

impl Environment {
    /// Reads the environment of the process.
    ///
    /// # Errors
    ///
    /// [`StartError`] that names the variable whose value is not valid.
    pub fn read() -> Result<Self, StartError> {
        let cli = Cli::try_parse_from(["headwater"]).map_err(|error| {
            let explanation = explain(&Cli::command(), &error);
            StartError(explanation.unwrap_or_else(|| error.to_string()))
        })?;
        Ok(cli.environment)
    }

    /// Builds the state of a function behind an API.
    ///
    /// # Errors
    ///
    /// [`StartError`] when the secret of the connection tokens is missing, or when the secrets or the
    /// initial rules cannot be read.
    pub async fn app(self, clients: &Clients) -> Result<App, StartError> {
        let tables = clients.tables(&self.tables);
        let outlet = Arc::new(clients.management());
        let mut options = self.options;
        if let Some(id) = &self.secret_id {
            let secrets = clients.secrets(id).await.map_err(|error| StartError::new(&error))?;
            let read = |name, text: Option<String>| match text.as_deref().map(parse_secrets) {
                None => Ok(None),
                Some(Ok(secrets)) => Ok(Some(secrets)),
                Some(Err(reason)) => Err(StartError(format!("{name} of secret {id}: {reason}"))),
            };
            if let Some(secret) = read("connectionSecret", secrets.connection_secret)? {
                options.connection_secret = Some(secret);
            }
            if let Some(secret) = read("jwtSecret", secrets.jwt_secret)? {
                options.identity.jwt_secret = Some(secret);
            }
        }
        let Some(secret) = options.connection_secret.clone() else {
            let text = "the secret of the connection tokens is missing: \
                        set HEADWATER_SECRET_ID or HEADWATER_CONNECTION_SECRET";
            return Err(StartError(text.to_owned()));
        };
        let preset = options.preset(SetText::preset()).map_err(|error| StartError::new(&error))?;
        Ok(App::new(tables, outlet, options, preset, secret))
    }

    /// Builds the handler of `push`, which needs no secret.
    ///
    /// # Errors
    ///
    /// [`StartError`] when the initial rules cannot be read.
    pub fn pusher(&self, clients: &Clients, clock: Clock) -> Result<Pusher, StartError> {
        let tables = clients.tables(&self.tables);
        let outlet = Arc::new(clients.management());
        let preset =
            self.options.preset(SetText::preset()).map_err(|error| StartError::new(&error))?;
        let rules = Rules::new(tables.control.clone(), preset, self.options.overrides());
        Ok(Pusher::new(&tables, outlet, Arc::new(rules), clock))
    }
}
