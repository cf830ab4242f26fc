//! A cluster of plain processes behind a load balancer, as `make cluster` runs it.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
};

use reqwest::Method;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time,
};

use crate::{Client, ExchangeServer, PATIENCE, Ports, Rest, SECRET, program, skip, until};

/// The number of consecutive ports that a cluster uses.
const PORTS: u16 = 21;

/// The settings of parts that accept tokens.
const WITH_TOKENS: [(&str, &str); 1] = [("HEADWATER_JWT_SECRET", SECRET)];

/// A running cluster.
pub struct Cluster {
    /// The address for clients.
    pub address: SocketAddr,
    child: Child,
    ports: Ports,
    /// Kept open, because the script must be able to write to it.
    _output: Lines<BufReader<ChildStdout>>,
    folder: tempfile::TempDir,
}

impl Cluster {
    /// Starts a cluster that reads an exchange. Without `HAProxy`, prints the reason and returns `None`.
    ///
    /// # Panics
    ///
    /// Under `CI=true`, when `HAProxy` is not installed.
    pub async fn start(exchange: &ExchangeServer) -> Option<Self> {
        Self::start_with(exchange, &[]).await
    }

    /// Starts a cluster that accepts tokens, so that the default rules apply.
    ///
    /// # Panics
    ///
    /// As [`Self::start`].
    pub async fn start_with_tokens(exchange: &ExchangeServer) -> Option<Self> {
        Self::start_with(exchange, &WITH_TOKENS).await
    }

    /// Starts the functions under `cargo lambda watch`, as `make lambda` does, with the other parts. They accept
    /// tokens. `cargo-lambda` must be in the path.
    pub async fn start_lambda_with_tokens(exchange: &ExchangeServer) -> Self {
        Self::run("lambda", exchange, &WITH_TOKENS).await
    }

    async fn start_with(exchange: &ExchangeServer, variables: &[(&str, &str)]) -> Option<Self> {
        let paths = ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy", "/opt/homebrew/bin/haproxy"];
        let is_installed = paths.iter().any(|path| Path::new(path).exists());
        if !is_installed {
            skip("HAProxy is not installed (apt-get install haproxy)");
            return None;
        }
        Some(Self::run("cluster", exchange, variables).await)
    }

    /// Runs a script that starts all parts.
    async fn run(script: &str, exchange: &ExchangeServer, variables: &[(&str, &str)]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../infra").join(script);
        let programs = program::folder();
        let poller = programs.join("headwater-poller");
        assert!(poller.exists(), "{} is missing: `make test` builds it", poller.display());
        let folder = tempfile::tempdir().unwrap();
        let ports = Ports::reserve(PORTS);
        let address = ports.at(0);
        let mut command = Command::new(script);
        program::without_settings(&mut command);
        command
            .env("HEADWATER_BIN", programs)
            .env("HEADWATER_RUN", folder.path())
            .env("HEADWATER_LISTEN", address.to_string())
            .env("HEADWATER_COINBASE_URL", exchange.url())
            .env("HEADWATER_COINBASE_REST_URL", exchange.rest_url())
            .env("HEADWATER_MASTODON_SERVERS", "")
            .envs(variables.iter().copied());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        let up = async {
            while let Some(line) = output.next_line().await.unwrap() {
                if line.starts_with("Headwater is up") {
                    return;
                }
            }
            panic!("the cluster ended before it was up");
        };
        time::timeout(PATIENCE, up).await.expect("the cluster is up");
        let cluster = Self { address, ports, child, _output: output, folder };
        let rest = cluster.rest();
        until("the catalog lists the products of the exchange", async || {
            let answer = rest.try_ask(Method::GET, "/api/v1/topics?source=coinbase").await.ok()?;
            let is_known = answer.status == 200 && answer.text.contains("BTC-USD");
            is_known.then_some(())
        })
        .await;
        cluster
    }

    /// Connects a client through the load balancer.
    pub async fn client(&self) -> Client {
        Client::try_connect(self.address, "/live", &[]).await.unwrap()
    }

    /// Returns a client of the REST interface, through the load balancer.
    pub fn rest(&self) -> Rest {
        Rest::new(self.address)
    }

    /// Returns the address of a part by its offset from the first port: 1 to 3 are the gateways, 15 and 16
    /// the health checks of the pollers.
    pub fn part(&self, offset: u16) -> SocketAddr {
        self.ports.at(offset)
    }

    /// Waits until a poller leads, and returns its name.
    pub async fn leader(&self) -> String {
        until("a poller leads", async || {
            for (name, offset) in [("poller-1", 15), ("poller-2", 16)] {
                let health = Rest::new(self.part(offset));
                let Ok(answer) = health.try_ask(Method::GET, "/healthz").await else { continue };
                let leads = answer.json()["leads"].as_array().is_some_and(|it| !it.is_empty());
                if leads {
                    return Some(name.to_owned());
                }
            }
            None
        })
        .await
    }

    /// Kills a part as `kill -9` does.
    pub async fn kill(&self, name: &str) {
        signal("-KILL", &self.id_of(name)).await;
    }

    fn id_of(&self, name: &str) -> String {
        let path: PathBuf = self.folder.path().join(format!("{name}.pid"));
        std::fs::read_to_string(path).unwrap().trim().to_owned()
    }

    /// Stops the cluster with `SIGTERM`, and checks that no part is left.
    pub async fn stop(mut self) {
        signal("-TERM", &self.child.id().unwrap().to_string()).await;
        let ended = time::timeout(PATIENCE, self.child.wait()).await;
        let status = ended.expect("the cluster ends on SIGTERM").unwrap();
        assert!(status.success(), "{status}");
        for offset in 0..PORTS {
            let part = self.part(offset);
            assert!(TcpListener::bind(part).is_ok(), "something still listens at {part}");
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // After a failed test, `SIGTERM` makes the script stop all parts.
        if let Some(id) = self.child.id() {
            let _ = std::process::Command::new("kill").args(["-TERM", &id.to_string()]).status();
        }
    }
}

async fn signal(signal: &str, id: &str) {
    assert!(Command::new("kill").args([signal, id]).status().await.unwrap().success());
}
