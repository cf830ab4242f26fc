//! What an exchange sends that has lost its mind.

use std::time::{Duration, Instant};

use harness::ExchangeServer;
use tokio::time;

/// The pause between two messages.
const PAUSE: Duration = Duration::from_millis(20);

/// The size of a large message, in bytes.
const MESSAGE_BYTES: usize = 1_000_000;

/// The size of a large trade, in bytes. A larger one is not forwarded.
const TRADE_BYTES: usize = 119_000;

/// Prices of a snapshot, and of an update.
const SNAPSHOT_PRICES: usize = 200_000;
const UPDATE_PRICES: usize = 4_000;

/// A kind of too much.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Flood {
    /// Messages of opening brackets.
    Brackets,
    /// Large trades, of which each second one is missing.
    Trades,
    /// Snapshots of a large book.
    Snapshots,
    /// Updates that make a book larger and larger.
    Updates,
}

impl Flood {
    pub(crate) const ALL: [Self; 4] =
        [Self::Brackets, Self::Trades, Self::Snapshots, Self::Updates];

    /// Sends for some time. Returns the number of messages.
    pub(crate) async fn send(self, exchange: &ExchangeServer, time: Duration) -> usize {
        let until = Instant::now() + time;
        let mut sent = 0;
        exchange.send(snapshot(r#"["1000000","1"]"#, r#"["0.5","1"]"#));
        while Instant::now() < until {
            match self {
                Self::Brackets => exchange.send("[".repeat(MESSAGE_BYTES)),
                Self::Trades => {
                    exchange.trade_unstreamed("BTC-USD");
                    exchange.trade_as("BTC-USD", |id| {
                        let rest = " ".repeat(TRADE_BYTES);
                        format!(
                            r#"{{"type":"match","product_id":"BTC-USD","trade_id":{id}{rest}}}"#
                        )
                    });
                }
                Self::Snapshots => exchange
                    .send(snapshot(&levels("9", SNAPSHOT_PRICES), &levels("1", SNAPSHOT_PRICES))),
                Self::Updates => {
                    let changes: Vec<String> = (0..UPDATE_PRICES)
                        .map(|n| format!(r#"["buy","{}.{n}","1"]"#, sent + 1))
                        .collect();
                    exchange.send(format!(
                        r#"{{"type":"l2update","product_id":"BTC-USD","time":"2026-11-22T10:00:00Z","changes":[{}]}}"#,
                        changes.join(",")
                    ));
                }
            }
            sent += 1;
            time::sleep(PAUSE).await;
        }
        sent
    }
}

/// Returns a snapshot of a book.
fn snapshot(asks: &str, bids: &str) -> String {
    format!(r#"{{"type":"snapshot","product_id":"BTC-USD","asks":[{asks}],"bids":[{bids}]}}"#)
}

/// Returns levels of a book, whose prices begin with these digits.
fn levels(first: &str, count: usize) -> String {
    (0..count).map(|n| format!(r#"["{first}.{n}","1"]"#)).collect::<Vec<_>>().join(",")
}
