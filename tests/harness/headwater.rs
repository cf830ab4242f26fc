//! Headwater as a whole, in this process or as one of its own.

use std::{net::SocketAddr, path::Path, time::Duration};

use clap::Parser as _;
use local::{command::up::Options, in_process::Server};
use reqwest::Method;
use simulator::MastodonServer;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::{Client, Exchange, Fediverse, Program, Rest, until};

/// The command line of `headwater up`.
#[derive(Clone, Debug)]
pub struct Setup {
    arguments: Vec<String>,
    retention: Option<Duration>,
    has_catalogue: bool,
}

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

impl Setup {
    /// Reads no upstream, listens on a free port and keeps its data in memory.
    fn new() -> Self {
        let nowhere = ["--coinbase-url=ws://127.0.0.1:9", "--coinbase-rest-url=http://127.0.0.1:9"];
        let common = ["--listen=127.0.0.1:0", "--mastodon-servers="];
        let arguments = common.into_iter().chain(nowhere).map(str::to_owned).collect();
        Self { arguments, retention: None, has_catalogue: false }
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
    pub fn exchange(self, exchange: &Exchange) -> Self {
        let setup = self.option("--coinbase-url", &exchange.url());
        let setup = setup.option("--coinbase-rest-url", &exchange.rest_url());
        Self { has_catalogue: true, ..setup }
    }

    /// Reads Mastodon servers, with their tokens.
    #[must_use]
    pub fn servers(self, servers: &[&Fediverse]) -> Self {
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

    /// Uses simulated upstreams.
    #[must_use]
    pub fn simulated(mut self) -> Self {
        self.arguments.push("--simulated".to_owned());
        self
    }

    /// The command line, with `up`.
    pub fn arguments(&self) -> Vec<&str> {
        ["up"].into_iter().chain(self.arguments.iter().map(String::as_str)).collect()
    }

    /// Starts it in this process.
    pub async fn start(&self) -> Headwater {
        let filter = std::env::var("HEADWATER_TEST_LOG").unwrap_or_else(|_| "warn".to_owned());
        let _ = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(filter))
            .with_test_writer()
            .try_init();
        let mut options = Cli::try_parse_from(self.arguments()).unwrap().options;
        if let Some(retention) = self.retention {
            options.tables.retention = retention;
        }
        let shutdown = CancellationToken::new();
        let up = Box::pin(options.start(shutdown.clone())).await.unwrap();
        let headwater = Headwater {
            address: up.address(),
            running: Running::Here { up: Box::new(up), shutdown },
        };
        headwater.is_ready(self.has_catalogue).await;
        headwater
    }

    /// Starts it as a process of its own.
    pub async fn spawn(&self) -> Headwater {
        let mut program = Program::start(&self.arguments(), &[]);
        let address = program.address().await;
        let headwater = Headwater { address, running: Running::There(Box::new(program)) };
        headwater.is_ready(self.has_catalogue).await;
        headwater
    }
}

/// A running Headwater.
pub struct Headwater {
    /// Where it listens.
    pub address: SocketAddr,
    running: Running,
}

enum Running {
    Here { up: Box<Server>, shutdown: CancellationToken },
    There(Box<Program>),
}

impl Headwater {
    /// Returns a setup without upstreams.
    pub fn setup() -> Setup {
        Setup::new()
    }

    /// Starts one without upstreams.
    pub async fn start() -> Self {
        Setup::new().start().await
    }

    /// Connects a client.
    pub async fn client(&self) -> Client {
        Client::try_connect(self.address, "/live", &[]).await.unwrap()
    }

    /// A client of its REST interface.
    pub fn rest(&self) -> Rest {
        Rest::new(self.address)
    }

    /// The address that `headwater tail` takes.
    pub fn url(&self) -> String {
        format!("ws://{}/live", self.address)
    }

    /// Kills the process as `kill -9` does.
    pub async fn kill(self) {
        match self.running {
            Running::There(program) => program.kill().await,
            Running::Here { .. } => panic!("only a process of its own can be killed"),
        }
    }

    /// Stops it in the regular way.
    pub async fn stop(self) {
        match self.running {
            Running::Here { up, shutdown } => {
                shutdown.cancel();
                up.stopped().await.unwrap();
            }
            Running::There(program) => program.terminate().await,
        }
    }

    async fn is_ready(&self, has_catalogue: bool) {
        let rest = self.rest();
        until("the health endpoint returns 200", async || {
            let answer = rest.try_ask(Method::GET, "/healthz").await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
        if has_catalogue {
            until("the catalogue lists the products of the exchange", async || {
                let answer = rest.get("/api/v1/topics?source=coinbase").await;
                (!answer.json()["topics"].as_array()?.is_empty()).then_some(())
            })
            .await;
        }
    }
}
