//! Broadcast: a server in a process of its own, and all its clients in this one.

use std::{
    net::SocketAddr,
    process::Stdio,
    rc::Rc,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::json;
use tokio::{process::Command, task::LocalSet, time};
use tokio_util::sync::CancellationToken;

use super::{
    client::{self, Seen},
    exchange::{Exchange, PRODUCT},
    process, report,
};

/// Longest wait for the server to start, for the clients to connect, and for the last events.
const PATIENCE: Duration = Duration::from_mins(1);

/// The settings of the broadcast benchmark.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Options {
    /// How many clients.
    #[arg(long, default_value_t = 1_000)]
    clients: usize,

    /// Events a second, one run for each.
    #[arg(long, value_delimiter = ',', default_value = "50,800,1600")]
    rate: Vec<f64>,

    /// Length of a run in seconds, after a second to warm up.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { clients: 1_000, rate: vec![50.0, 800.0, 1_600.0], seconds: 10 }
    }
}

/// Runs it at each rate.
pub(super) async fn run(options: &Options, shutdown: &CancellationToken) -> anyhow::Result<()> {
    // The clients share their counters without locks, so they share a thread.
    let clients = LocalSet::new();
    tokio::select! {
        done = clients.run_until(measure(options)) => done,
        () = shutdown.cancelled() => bail!("interrupted"),
    }
}

async fn measure(options: &Options) -> anyhow::Result<()> {
    let exchange = Exchange::start().await?;
    let server = free_address()?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg("up")
        .env("HEADWATER_LISTEN", server.to_string())
        .env("HEADWATER_COINBASE_URL", format!("ws://{}", exchange.address))
        .env("HEADWATER_COINBASE_REST_URL", format!("http://{}", exchange.address))
        .env("HEADWATER_MASTODON_SERVERS", "")
        .env("HEADWATER_LOG", "warn")
        .env_remove("HEADWATER_DATA_DIR")
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the server")?;
    let pid = child.id().context("the server has ended")?;
    wait_for("the server to start", async || tokio::net::TcpStream::connect(server).await.is_ok())
        .await?;
    time::sleep(Duration::from_secs(1)).await;
    let before = process::memory_kib(pid, "VmRSS")?;

    let seen = Seen::new(exchange.epoch)?;
    let topic: Rc<str> = format!("coinbase/matches/{PRODUCT}").into();
    for started in 0..options.clients {
        let (seen, topic) = (seen.clone(), topic.clone());
        tokio::task::spawn_local(async move {
            // Whoever falls out is counted, and told at the end.
            if let Err(error) = client::run(server, &topic, &seen).await {
                tracing::debug!(%error, "client ended");
            }
        });
        // A crowd, but not all in one instant: the listening queue is not what is measured.
        if started % 100 == 99 {
            time::sleep(Duration::from_millis(20)).await;
        }
    }
    wait_for("all clients to subscribe", async || seen.subscribed.get() == options.clients).await?;
    time::sleep(Duration::from_secs(2)).await;
    let connected = process::memory_kib(pid, "VmRSS")?;

    for rate in &options.rate {
        exchange.rate.send_replace(*rate);
        time::sleep(Duration::from_secs(1)).await;
        seen.reset();
        let (sent, cpu, start) =
            (exchange.sent.load(Ordering::Relaxed), process::cpu_time(pid)?, Instant::now());
        time::sleep(Duration::from_secs(options.seconds)).await;
        let (events, messages) = (seen.events.get(), seen.messages.get());
        let cpu = process::cpu_time(pid)?.checked_sub(cpu).unwrap();
        let (elapsed, sent) = (start.elapsed(), exchange.sent.load(Ordering::Relaxed) - sent);
        exchange.rate.send_replace(0.0);
        // What is still on its way counts for the latency and the losses.
        let mut last = 0;
        wait_for("the last events", async || {
            let done = seen.events.get() == last;
            last = seen.events.get();
            time::sleep(Duration::from_millis(200)).await;
            done
        })
        .await?;
        ensure!(events > 0, "no events arrived");
        let latency = seen.latency.borrow();
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let result = json!({
            "bench": "broadcast",
            "clients": options.clients,
            "rate": rate,
            "seconds": elapsed.as_secs_f64(),
            "sent": sent,
            "delivered": events,
            "lost": seen.lost.get(),
            "closed": seen.closed.get(),
            "events_per_message": events as f64 / messages.max(1) as f64,
            "cpu_seconds": cpu.as_secs_f64(),
            "delivered_per_cpu_second": events as f64 / cpu.as_secs_f64(),
            "p50_ms": latency.value_at_quantile(0.5) as f64 / 1e3,
            "p99_ms": latency.value_at_quantile(0.99) as f64 / 1e3,
            "rss_kib": {
                "before": before,
                "connected": connected,
                "peak": process::memory_kib(pid, "VmHWM")?,
            },
            "bytes_per_idle_connection":
                (connected.saturating_sub(before) * 1_024) / options.clients.max(1) as u64,
        });
        report(result);
    }
    child.kill().await?;
    Ok(())
}

/// A loopback address that was free a moment ago.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

async fn wait_for(what: &str, mut done: impl AsyncFnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done().await {
        ensure!(Instant::now() < deadline, "waited too long for {what}");
        time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
