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

use crate::{Client, Exchange, PATIENCE, Ports, Rest, program, skip, until};

/// Ports in a row that a cluster uses.
const PORTS: u16 = 21;

/// A running cluster.
pub struct Cluster {
    /// Where clients connect.
    pub address: SocketAddr,
    child: Child,
    ports: Ports,
    /// Kept open, because the script must be able to write to it.
    _output: Lines<BufReader<ChildStdout>>,
    folder: tempfile::TempDir,
}

impl Cluster {
    /// Starts a cluster that reads an exchange. Without `HAProxy` it returns nothing and prints the
    /// reason.
    ///
    /// # Panics
    ///
    /// Under `CI=true`, when there is no `HAProxy`.
    pub async fn start(exchange: &Exchange) -> Option<Self> {
        let known = ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy", "/opt/homebrew/bin/haproxy"];
        let is_there = known.iter().any(|path| Path::new(path).exists());
        if !is_there {
            skip("HAProxy is not installed (apt-get install haproxy)");
            return None;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../infra/cluster");
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
            .env("HEADWATER_MASTODON_SERVERS", "");
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
        until("the catalogue lists the products of the exchange", async || {
            let answer = rest.try_ask(Method::GET, "/api/v1/topics?source=coinbase").await.ok()?;
            let is_known = answer.status == 200 && answer.text.contains("BTC-USD");
            is_known.then_some(())
        })
        .await;
        Some(cluster)
    }

    /// Connects a client through the load balancer.
    pub async fn client(&self) -> Client {
        Client::try_connect(self.address, "/live", &[]).await.unwrap()
    }

    /// Its REST interface, through the load balancer.
    pub fn rest(&self) -> Rest {
        Rest::new(self.address)
    }

    /// An address of a part, by its distance from the first port: 1 to 3 are gateways, 15 and 16 the
    /// pollers' health.
    pub fn part(&self, distance: u16) -> SocketAddr {
        self.ports.at(distance)
    }

    /// The name of the poller that leads.
    pub async fn leader(&self) -> String {
        until("a poller leads", async || {
            for (name, distance) in [("poller-1", 15), ("poller-2", 16)] {
                let health = Rest::new(self.part(distance));
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

    /// Stops it in the regular way and checks that no part is left.
    pub async fn stop(mut self) {
        signal("-TERM", &self.child.id().unwrap().to_string()).await;
        let ended = time::timeout(PATIENCE, self.child.wait()).await;
        let status = ended.expect("the cluster ends on SIGTERM").unwrap();
        assert!(status.success(), "{status}");
        for distance in 0..PORTS {
            let part = self.part(distance);
            assert!(TcpListener::bind(part).is_ok(), "something still listens at {part}");
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // After a failed test, the script stops its parts on `SIGTERM`.
        if let Some(id) = self.child.id() {
            let _ = std::process::Command::new("kill").args(["-TERM", &id.to_string()]).status();
        }
    }
}

async fn signal(signal: &str, id: &str) {
    assert!(Command::new("kill").args([signal, id]).status().await.unwrap().success());
}
