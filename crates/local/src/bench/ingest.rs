//! The ingest benchmark: Coinbase messages from their text to numbered frames, in one thread.

use std::{collections::HashMap, fmt::Write as _, time::Instant};

use ::poller::{source::coinbase::Session, wanted::Wanted};
use anyhow::{Context as _, ensure};
use bytes::Bytes;
use domain::{frame::Frame, topic::Topic};
use jiff::Timestamp;
use serde_json::json;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tracing::info;

use super::{process, report};

/// Messages per flush: those that arrive in 20 ms at 50,000 per second.
const MESSAGES_PER_FLUSH: usize = 1_000;

/// Levels on each side of the book.
const LEVELS: u64 = 10_000;

/// Changes per update of the book. In captures, the mean is about ten.
const CHANGES: u64 = 10;

/// The settings of the ingest benchmark.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Options {
    /// Process this many messages of each kind.
    #[arg(long, value_name = "COUNT", default_value_t = 200_000)]
    messages: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { messages: 200_000 }
    }
}

/// Runs the benchmark for each kind of message, and for a mix of all kinds.
pub(super) fn run(options: &Options) -> anyhow::Result<()> {
    for kind in ["ticker", "match", "l2update", "mixed"] {
        info!(kind, messages = options.messages, "measuring");
        measure(kind, messages(kind, options.messages))?;
    }
    Ok(())
}

fn measure(kind: &str, messages: Vec<Utf8Bytes>) -> anyhow::Result<()> {
    let wanted: Wanted = ["ticker", "matches", "level2"]
        .into_iter()
        .map(|channel| Topic::coinbase(channel, "BTC-USD"))
        .collect::<Result<_, _>>()?;
    let now = tokio::time::Instant::now();
    let mut session = Session::connected(&wanted, now);
    session.on_message(snapshot(), now, &mut |_, _| ())?;

    let count = messages.len();
    let mut pending: HashMap<Topic, Vec<Bytes>> = HashMap::new();
    let mut next: HashMap<Topic, u64> = HashMap::new();
    let mut events = 0;
    let mut frames = 0;
    let mut bytes = 0;
    let pid = std::process::id();
    let cpu_before = process::cpu_time(pid)?;
    let start = Instant::now();
    let mut messages = messages.into_iter();
    loop {
        let mut taken = 0;
        for message in messages.by_ref().take(MESSAGES_PER_FLUSH) {
            taken += 1;
            session.on_message(message, now, &mut |topic: &Topic, event| {
                let pending = match pending.get_mut(topic) {
                    Some(pending) => pending,
                    None => pending.entry(topic.clone()).or_default(),
                };
                if topic.kind().conflates() {
                    pending.clear();
                }
                pending.push(event.json);
            })?;
        }
        if taken == 0 {
            break;
        }
        let at = Timestamp::now();
        for (topic, pending) in &mut pending {
            let next = next.entry(topic.clone()).or_insert(1);
            for frame in Frame::pack(topic, *next, at, pending) {
                frames += 1;
                bytes += frame.json().len();
                *next = frame.last() + 1;
            }
            events += pending.len();
            pending.clear();
        }
    }
    let cpu = process::cpu_time(pid)?.saturating_sub(cpu_before);
    let elapsed = start.elapsed();
    ensure!(!cpu.is_zero(), "the CPU time is too short to measure; use more messages");
    ensure!(events > 0, "no events were produced");
    let per_second =
        f64::from(u32::try_from(count).context("too many messages")?) / cpu.as_secs_f64();
    report(json!({
        "bench": "ingest",
        "kind": kind,
        "messages": count,
        "events": events,
        "frames": frames,
        "frame_bytes": bytes,
        "seconds": elapsed.as_secs_f64(),
        "cpu_seconds": cpu.as_secs_f64(),
        "messages_per_cpu_second": per_second,
    }));
    Ok(())
}

/// Generates messages that have the size of real ones.
fn messages(kind: &str, count: usize) -> Vec<Utf8Bytes> {
    let kinds: &[&str] = match kind {
        "mixed" => &["ticker", "match", "l2update"],
        _ => &[kind],
    };
    (1..=count as u64)
        .zip(kinds.iter().cycle())
        .map(|(n, kind)| match *kind {
            "ticker" => ticker(n),
            // Trade ids are consecutive, in a mix as well.
            "match" => trade(n.div_ceil(kinds.len() as u64)),
            _ => update(n),
        })
        .map(Into::into)
        .collect()
}

fn ticker(n: u64) -> String {
    format!(
        r#"{{"type":"ticker","sequence":{n},"product_id":"BTC-USD","price":"63510.15","open_24h":"62000","volume_24h":"5123.12345678","low_24h":"61500.01","high_24h":"64010","volume_30d":"201234.00112233","best_bid":"63510.14","best_bid_size":"0.34541789","best_ask":"63510.15","best_ask_size":"0.22960485","side":"buy","time":"2026-11-22T10:00:00.123456Z","trade_id":{n},"last_size":"0.0001"}}"#
    )
}

fn trade(n: u64) -> String {
    format!(
        r#"{{"type":"match","trade_id":{n},"maker_order_id":"0c5c4b4e-9f2d-4d8b-9a52-6f1f6a1b2c3d","taker_order_id":"7f9f1c62-1d52-4f0c-8f4e-2b5d4c3b2a19","side":"sell","size":"0.2","price":"63514.6","product_id":"BTC-USD","sequence":{n},"time":"2026-11-22T10:00:00.123456Z"}}"#
    )
}

fn update(n: u64) -> String {
    let mut text = String::from(r#"{"type":"l2update","product_id":"BTC-USD","changes":["#);
    for change in 0..CHANGES {
        let level = (n * 7 + change * 13) % 200 + 1;
        let (side, price) =
            if change % 2 == 0 { ("buy", 6_000_000 - level) } else { ("sell", 6_000_000 + level) };
        let size = if (n + change).is_multiple_of(5) { 0 } else { n % 1_000 };
        let comma = if change == 0 { "" } else { "," };
        let _ =
            write!(text, r#"{comma}["{side}","{}.{:02}","0.{size:08}"]"#, price / 100, price % 100);
    }
    text.push_str(r#"],"time":"2026-11-22T10:00:00.123456Z"}"#);
    text
}

fn snapshot() -> Utf8Bytes {
    let side = |sign: i64| {
        let levels = (1..=LEVELS.cast_signed()).map(|level| {
            let price = 6_000_000 + sign * level;
            format!(r#"["{}.{:02}","0.10000000"]"#, price / 100, price % 100)
        });
        levels.collect::<Vec<_>>().join(",")
    };
    let asks = side(1);
    let bids = side(-1);
    format!(
        r#"{{"type":"snapshot","product_id":"BTC-USD","asks":[{asks}],"bids":[{bids}],"time":"2026-11-22T10:00:00.000000Z"}}"#
    )
    .into()
}
