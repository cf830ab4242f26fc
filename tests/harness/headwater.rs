//! A complete Headwater, in the process of the test or in a process of its own.

use std::{net::SocketAddr, path::Path, time::Duration};

use clap::{CommandFactory as _, Parser as _};
use local::{command::up::Options, in_process::Server};
use reqwest::Method;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::{Client, ExchangeServer, MastodonServer, Program, Rest, Serverless, until};

/// The command line of `headwater up`.
#[derive(Clone, Debug)]
pub struct Setup {
    arguments: Vec<String>,
    retention: Option<Duration>,
    has_catalog: bool,
    is_one_process: bool,
}

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

impl Setup {
    /// Creates a setup without upstreams, on a free port, with its data in memory.
    fn new() -> Self {
        let nowhere = ["--coinbase-url=ws://127.0.0.1:9", "--coinbase-rest-url=http://127.0.0.1:9"];
        let common = ["--listen=127.0.0.1:0", "--mastodon-servers="];
        let arguments = common.into_iter().chain(nowhere).map(str::to_owned).collect();
        Self { arguments, retention: None, has_catalog: false, is_one_process: false }
    }

    /// Sets an option, such as `--flush-ms`.
    #[must_use]
    pub fn option(self, name: &str, value: &str) -> Self {
        let mut setup = self.without(name);
        setup.arguments.push(format!("{name}={value}"));
        setup
    }

    /// Removes an option, so that its variable or its default applies.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        let prefix = format!("{name}=");
        self.arguments.retain(|argument| !argument.starts_with(&prefix));
        self
    }

    /// Reads an exchange.
    #[must_use]
    pub fn exchange(self, exchange: &ExchangeServer) -> Self {
        let setup = self
            .option("--coinbase-url", &exchange.url())
            .option("--coinbase-rest-url", &exchange.rest_url());
        Self { has_catalog: true, ..setup }
    }

    /// Reads Mastodon servers, with their tokens.
    #[must_use]
    pub fn servers(self, servers: &[&MastodonServer]) -> Self {
        let list = |of: fn(&MastodonServer) -> String| {
            servers.iter().map(|server| of(server)).collect::<Vec<_>>().join(",")
        };
        self.option("--mastodon-servers", &list(MastodonServer::url))
            .option("--mastodon-tokens", &list(MastodonServer::token))
    }

    /// Keeps its data in a folder.
    #[must_use]
    pub fn folder(self, folder: &Path) -> Self {
        self.option("--data-dir", folder.to_str().unwrap())
    }

    /// Keeps events for a shorter time than the command line allows. Only for [`Setup::start`].
    #[must_use]
    pub fn retention(self, retention: Duration) -> Self {
        Self { retention: Some(retention), ..self }
    }

    /// Never deploys it, because the test relies on what only one process can do: all its parts see a change
    /// at once, and no post is repeated because its response is late.
    #[must_use]
    pub fn in_one_process(self) -> Self {
        Self { is_one_process: true, ..self }
    }

    /// Uses simulated upstreams.
    #[must_use]
    pub fn simulated(mut self) -> Self {
        self.arguments.push("--simulated".to_owned());
        self
    }

    /// Returns the command line, including `up`.
    pub fn arguments(&self) -> Vec<&str> {
        ["up"].into_iter().chain(self.arguments.iter().map(String::as_str)).collect()
    }

    /// Starts the programs that run on AWS, on a stand-in for AWS that enforces their roles.
    ///
    /// # Panics
    ///
    /// With options that only `headwater up` has.
    pub async fn deploy(&self) -> Serverless {
        let options = Cli::try_parse_from(self.arguments()).unwrap().options;
        assert!(self.can_be_deployed(), "{self:?} needs `headwater up`");
        // What `headwater up` does without these options.
        let mut settings = vec![("HEADWATER_ALLOWED_ORIGINS".to_owned(), "same".to_owned())];
        if options.functions.is_open() {
            settings.push(("HEADWATER_POLICY".to_owned(), "open".to_owned()));
        }
        let command = Cli::command();
        let mut jwt_secret = None;
        for argument in &self.arguments {
            let Some((name, value)) = argument.split_once('=') else { continue };
            let is_it = |it: &&clap::Arg| it.get_long() == name.strip_prefix("--");
            let option = command.get_arguments().find(is_it).unwrap();
            let variable = option.get_env().unwrap().to_str().unwrap().to_owned();
            match name {
                "--listen" => {}
                "--jwt-secret" => jwt_secret = Some(value),
                _ => settings.push((variable, value.to_owned())),
            }
        }
        let serverless = Serverless::start(settings, jwt_secret).await;
        wait_until_ready(&serverless.rest(), self.has_catalog).await;
        serverless
    }

    fn can_be_deployed(&self) -> bool {
        let is_for_up =
            |argument: &String| argument == "--simulated" || argument.starts_with("--data-dir=");
        !self.is_one_process && self.retention.is_none() && !self.arguments.iter().any(is_for_up)
    }

    /// Starts Headwater in this process. With `HEADWATER_TEST_ROLES`, deploys it if possible.
    pub async fn start(&self) -> Headwater {
        let filter = std::env::var("HEADWATER_TEST_LOG").unwrap_or_else(|_| "warn".to_owned());
        let _ = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(filter))
            .with_test_writer()
            .try_init();
        if std::env::var_os("HEADWATER_TEST_ROLES").is_some() && self.can_be_deployed() {
            let serverless = Box::new(self.deploy().await);
            let address = serverless.address;
            return Headwater { address, running: Running::Serverless(serverless) };
        }
        let mut options = Cli::try_parse_from(self.arguments()).unwrap().options;
        if let Some(retention) = self.retention {
            options.tables.retention = retention;
        }
        let shutdown = CancellationToken::new();
        let up = Box::pin(options.start(shutdown.clone())).await.unwrap();
        let headwater = Headwater {
            address: up.address(),
            running: Running::InProcess { up: Box::new(up), shutdown },
        };
        wait_until_ready(&headwater.rest(), self.has_catalog).await;
        headwater
    }

    /// Starts Headwater in a process of its own.
    pub async fn spawn(&self) -> Headwater {
        let mut program = Program::start(&self.arguments(), &[]);
        let address = program.address().await;
        let headwater = Headwater { address, running: Running::Process(Box::new(program)) };
        wait_until_ready(&headwater.rest(), self.has_catalog).await;
        headwater
    }
}

/// A running Headwater.
pub struct Headwater {
    /// The address that it listens on.
    pub address: SocketAddr,
    running: Running,
}

enum Running {
    InProcess { up: Box<Server>, shutdown: CancellationToken },
    Process(Box<Program>),
    Serverless(Box<Serverless>),
}

impl Headwater {
    /// Returns a setup without upstreams.
    pub fn setup() -> Setup {
        Setup::new()
    }

    /// Starts Headwater without upstreams.
    pub async fn start() -> Self {
        Setup::new().start().await
    }

    /// Connects a client.
    pub async fn client(&self) -> Client {
        Client::try_connect(self.address, "/live", &[]).await.unwrap()
    }

    /// Returns a client of the REST interface.
    pub fn rest(&self) -> Rest {
        Rest::new(self.address)
    }

    /// Returns the URL for `headwater tail`.
    pub fn url(&self) -> String {
        format!("ws://{}/live", self.address)
    }

    /// Returns the most memory that the process has had, in bytes.
    pub fn peak_memory(&self) -> u64 {
        match &self.running {
            Running::Process(program) => program.peak_memory(),
            Running::InProcess { .. } | Running::Serverless(_) => {
                panic!("only a process of its own has memory of its own")
            }
        }
    }

    /// Kills the process as `kill -9` does.
    pub async fn kill(self) {
        match self.running {
            Running::Process(program) => program.kill().await,
            Running::InProcess { .. } | Running::Serverless(_) => {
                panic!("only a process of its own can be killed")
            }
        }
    }

    /// Shuts Headwater down.
    pub async fn stop(self) {
        match self.running {
            Running::InProcess { up, shutdown } => {
                shutdown.cancel();
                up.stopped().await.unwrap();
            }
            Running::Process(program) => program.terminate().await,
            Running::Serverless(serverless) => drop(serverless),
        }
    }
}

async fn wait_until_ready(rest: &Rest, has_catalog: bool) {
    until("the health endpoint returns 200", async || {
        let answer = rest.try_ask(Method::GET, "/healthz").await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    if has_catalog {
        until("the catalog lists the products of the exchange", async || {
            let answer = rest.get("/api/v1/topics?source=coinbase").await;
            (!answer.json()["topics"].as_array()?.is_empty()).then_some(())
        })
        .await;
    }
}
