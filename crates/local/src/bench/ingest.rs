//! Ingest: Coinbase messages from their text to numbered frames, in one thread.

use std::{collections::HashMap, fmt::Write as _, time::Instant};

use ::poller::{source::coinbase::Session, wanted::Wanted};
use anyhow::{Context as _, ensure};
use bytes::Bytes;
use domain::{frame::Frame, topic::Topic};
use jiff::Timestamp;
use serde_json::json;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::{process, report};

/// Messages that make one round of frames: what comes in 20 ms at 50,000 a second.
const ROUND: usize = 1_000;

/// Levels on each side of the book.
const LEVELS: u64 = 10_000;

/// Changes in an update of the book; the mean of a capture is about ten.
const CHANGES: u64 = 10;

/// The settings of the ingest benchmark.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Options {
    /// How many messages of each kind.
    #[arg(long, default_value_t = 200_000)]
    messages: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { messages: 200_000 }
    }
}

/// Runs it for each kind of message, and for all of them in turn.
pub(super) fn run(options: &Options) -> anyhow::Result<()> {
    for kind in ["ticker", "match", "l2update", "mixed"] {
        let messages = messages(kind, options.messages);
        measure(kind, messages)?;
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
    let mut waiting: HashMap<Topic, Vec<Bytes>> = HashMap::new();
    let mut next: HashMap<Topic, u64> = HashMap::new();
    let (mut events, mut frames, mut bytes) = (0, 0, 0);
    let pid = std::process::id();
    let (cpu, start) = (process::cpu_time(pid)?, Instant::now());
    let mut messages = messages.into_iter();
    loop {
        let mut taken = 0;
        for message in messages.by_ref().take(ROUND) {
            taken += 1;
            session.on_message(message, now, &mut |topic: &Topic, event| {
                let waiting = match waiting.get_mut(topic) {
                    Some(waiting) => waiting,
                    None => waiting.entry(topic.clone()).or_default(),
                };
                if topic.kind().conflates() {
                    waiting.clear();
                }
                waiting.push(event.json);
            })?;
        }
        if taken == 0 {
            break;
        }
        let at = Timestamp::now();
        for (topic, waiting) in &mut waiting {
            let next = next.entry(topic.clone()).or_insert(1);
            for frame in Frame::pack(topic, *next, at, waiting) {
                (frames, bytes) = (frames + 1, bytes + frame.json().len());
                *next = frame.last() + 1;
            }
            events += waiting.len();
            waiting.clear();
        }
    }
    let (cpu, elapsed) = (process::cpu_time(pid)?.checked_sub(cpu).unwrap(), start.elapsed());
    ensure!(!cpu.is_zero(), "too few messages to measure");
    ensure!(events > 0, "nothing was published");
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

/// Messages of the sizes that the exchange sends.
fn messages(kind: &str, count: usize) -> Vec<Utf8Bytes> {
    let kinds: &[&str] = match kind {
        "mixed" => &["ticker", "match", "l2update"],
        _ => &[kind],
    };
    (1..=count as u64)
        .zip(kinds.iter().cycle())
        .map(|(n, kind)| match *kind {
            "ticker" => ticker(n),
            // Ids have no holes, in a mix either.
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
    let (asks, bids) = (side(1), side(-1));
    format!(
        r#"{{"type":"snapshot","product_id":"BTC-USD","asks":[{asks}],"bids":[{bids}],"time":"2026-11-22T10:00:00.000000Z"}}"#
    )
    .into()
}
