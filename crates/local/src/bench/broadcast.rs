//! The broadcast benchmark: one server in a process of its own, and all its clients in this process.

use std::{
    net::SocketAddr,
    process::Stdio,
    rc::Rc,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    task::LocalSet,
    time,
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    client::{self, Statistics},
    load_generator::{LoadGenerator, PRODUCT},
    process, report,
};

/// The longest wait for the server to start, for the clients to subscribe, and for the last events.
const TIMEOUT: Duration = Duration::from_mins(1);

/// The time from a change of the rate to the start of its measurement.
const WARM_UP: Duration = Duration::from_secs(1);

/// The settings of the broadcast benchmark.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Options {
    /// Connect this many clients.
    #[arg(long, value_name = "COUNT", default_value_t = 1_000)]
    clients: usize,

    /// Measure at these rates, in events per second, one after the other.
    #[arg(long, value_delimiter = ',', default_value = "50,800,1600")]
    rate: Vec<f64>,

    /// Measure each rate for this many seconds, after one second of warm-up.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { clients: 1_000, rate: vec![50.0, 800.0, 1_600.0], seconds: 10 }
    }
}

/// Runs the benchmark at each rate.
pub(super) async fn run(options: &Options, shutdown: &CancellationToken) -> anyhow::Result<()> {
    // The clients share their statistics without locks, so all of them run on this thread.
    let clients = LocalSet::new();
    tokio::select! {
        result = clients.run_until(measure(options)) => result,
        () = shutdown.cancelled() => bail!("interrupted"),
    }
}

async fn measure(options: &Options) -> anyhow::Result<()> {
    let generator = LoadGenerator::start().await?;
    let server = Server::start(generator.address).await?;
    time::sleep(WARM_UP).await;
    let rss_before = process::memory_kib(server.pid, "VmRSS")?;

    info!(clients = options.clients, "connecting the clients");
    let statistics = Statistics::new(generator.epoch)?;
    connect(options.clients, server.address, &statistics).await?;
    time::sleep(2 * WARM_UP).await;
    let rss_connected = process::memory_kib(server.pid, "VmRSS")?;

    for &rate in &options.rate {
        info!(rate, seconds = options.seconds, "measuring");
        let run = measure_rate(rate, options.seconds, &generator, server.pid, &statistics).await?;
        let latency = statistics.latency.borrow();
        #[expect(clippy::cast_precision_loss, reason = "the figures are rounded for people")]
        let result = json!({
            "bench": "broadcast",
            "clients": options.clients,
            "rate": rate,
            "seconds": run.elapsed.as_secs_f64(),
            "sent": run.sent,
            "delivered": run.events,
            "lost": statistics.lost.get(),
            "closed": statistics.closed.get(),
            "events_per_message": run.events as f64 / run.messages.max(1) as f64,
            "cpu_seconds": run.cpu.as_secs_f64(),
            "delivered_per_cpu_second": run.events as f64 / run.cpu.as_secs_f64(),
            "p50_ms": latency.value_at_quantile(0.5) as f64 / 1e3,
            "p99_ms": latency.value_at_quantile(0.99) as f64 / 1e3,
            "rss_kib": {
                "before": rss_before,
                "connected": rss_connected,
                "peak": process::memory_kib(server.pid, "VmHWM")?,
            },
            "bytes_per_idle_connection":
                (rss_connected.saturating_sub(rss_before) * 1_024) / options.clients.max(1) as u64,
        });
        report(result);
    }
    server.kill().await
}

/// The counts of one measurement.
struct Run {
    /// Trades that the exchange sent.
    sent: u64,
    /// Events that all clients received.
    events: u64,
    /// WebSocket messages that all clients received.
    messages: u64,
    elapsed: Duration,
    /// CPU time of the server.
    cpu: Duration,
}

/// Lets the exchange trade at `rate`, and counts for some seconds.
async fn measure_rate(
    rate: f64,
    seconds: u64,
    generator: &LoadGenerator,
    pid: u32,
    statistics: &Statistics,
) -> anyhow::Result<Run> {
    generator.rate.send_replace(rate);
    time::sleep(WARM_UP).await;
    statistics.reset();
    let sent_before = generator.sent.load(Ordering::Relaxed);
    let cpu_before = process::cpu_time(pid)?;
    let start = Instant::now();
    time::sleep(Duration::from_secs(seconds)).await;
    let run = Run {
        sent: generator.sent.load(Ordering::Relaxed) - sent_before,
        events: statistics.events.get(),
        messages: statistics.messages.get(),
        elapsed: start.elapsed(),
        cpu: process::cpu_time(pid)?.saturating_sub(cpu_before),
    };
    generator.rate.send_replace(0.0);
    // Events that are still in flight count for the latency and the losses.
    let mut last = 0;
    wait_for("the last events", async || {
        let is_done = statistics.events.get() == last;
        last = statistics.events.get();
        time::sleep(Duration::from_millis(200)).await;
        is_done
    })
    .await?;
    ensure!(run.events > 0, "no events arrived");
    Ok(run)
}

/// Connects clients and waits until all of them are subscribed.
async fn connect(
    clients: usize,
    server: SocketAddr,
    statistics: &Rc<Statistics>,
) -> anyhow::Result<()> {
    let topic: Rc<str> = format!("coinbase/matches/{PRODUCT}").into();
    for started in 0..clients {
        let statistics = statistics.clone();
        let topic = topic.clone();
        tokio::task::spawn_local(async move {
            // Clients that were disconnected are counted and reported with the result.
            if let Err(error) = client::run(server, &topic, &statistics).await {
                tracing::debug!(%error, "a client was disconnected");
            }
        });
        // The delay keeps the queue of the listening socket short, which is not measured here.
        if started % 100 == 99 {
            time::sleep(Duration::from_millis(20)).await;
        }
    }
    wait_for("all clients to subscribe", async || statistics.subscribed.get() == clients).await
}

/// A `headwater up` in a process of its own.
struct Server {
    address: SocketAddr,
    pid: u32,
    process: Child,
    /// Kept open, because the server prints to it.
    _stdout: Lines<BufReader<ChildStdout>>,
}

impl Server {
    /// Starts a server that reads the exchange at this address and keeps its data in memory.
    async fn start(exchange: SocketAddr) -> anyhow::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("up")
            .env("HEADWATER_LISTEN", "127.0.0.1:0")
            .env("HEADWATER_COINBASE_URL", format!("ws://{exchange}"))
            .env("HEADWATER_COINBASE_REST_URL", format!("http://{exchange}"))
            .env("HEADWATER_MASTODON_SERVERS", "")
            .env("HEADWATER_LOG", "warn")
            .env_remove("HEADWATER_DATA_DIR")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the server")?;
        let pid = process.id().context("the server has exited")?;
        let stdout = process.stdout.take().context("the server has no standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let address = time::timeout(TIMEOUT, address(&mut lines))
            .await
            .context("the server did not start within a minute")??;
        Ok(Self { address, pid, process, _stdout: lines })
    }

    async fn kill(mut self) -> anyhow::Result<()> {
        self.process.kill().await.context("cannot end the server")
    }
}

/// Reads the address of the WebSocket API from what `headwater up` prints.
async fn address(lines: &mut Lines<BufReader<ChildStdout>>) -> anyhow::Result<SocketAddr> {
    while let Some(line) = lines.next_line().await? {
        if let Some((_, rest)) = line.split_once("ws://") {
            let address = rest.trim_end_matches("/live").parse();
            return address.with_context(|| format!("the server printed no address: {line}"));
        }
    }
    bail!("the server ended before it printed its address")
}

async fn wait_for(what: &str, mut is_done: impl AsyncFnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    while !is_done().await {
        ensure!(Instant::now() < deadline, "timed out after a minute while waiting for {what}");
        time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
