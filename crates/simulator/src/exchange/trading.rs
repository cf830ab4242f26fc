//! The state of the exchange: its markets, and the events that its clients receive.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::http::StatusCode;
use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::broadcast,
    time::{self, Instant, MissedTickBehavior},
};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::{channel::Channel, messages};
use crate::{
    host::Host,
    market::{Markets, PRODUCTS, Tick},
    session::{QUEUE, Timing},
};

/// The interval at which changes of the books are sent.
const BOOK_EVERY: Duration = Duration::from_millis(50);
/// How far trading may fall behind the clock. Trades that are due for longer are skipped.
const LARGEST_LAG: Duration = Duration::from_secs(1);
/// The most takers that trade before clients are served.
const TICKS_AT_ONCE: usize = 1_000;

/// An event that clients may receive.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A message for the subscribers of a channel and product.
    Published(Published),
    /// A message that a test sends to every client.
    Sent(Message),
}

#[derive(Clone, Debug)]
pub(super) struct Published {
    /// The number of the event. A subscription starts after an event.
    pub(super) number: u64,
    pub(super) channel: Channel,
    pub(super) product: usize,
    /// The id of the trade, if this is a `match`.
    pub(super) trade: Option<u64>,
    pub(super) text: Utf8Bytes,
}

pub(super) struct Trading {
    pub(super) markets: Markets,
    pub(super) published: u64,
    /// The books that a test has set, by product. `None` means that the books are generated.
    pub(super) books: Option<BTreeMap<usize, String>>,
    /// The status with which handshakes are rejected.
    pub(super) rejection: Option<StatusCode>,
}

impl Trading {
    pub(super) fn is_scripted(&self) -> bool {
        self.books.is_some()
    }
}

/// The simulated exchange.
pub(crate) struct Exchange {
    pub(super) trading: Mutex<Trading>,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) host: Arc<Host>,
    pub(super) timing: Timing,
}

impl Exchange {
    /// Creates an exchange with generated trades and books.
    pub(crate) fn generated(seed: u64, rate: f64, timing: Timing, host: Arc<Host>) -> Self {
        let markets = Markets::new(seed, rate, Timestamp::now());
        Self::new(Trading { markets, published: 0, books: None, rejection: None }, timing, host)
    }

    /// Creates an exchange on which only a test trades.
    pub(crate) fn scripted(host: Arc<Host>) -> Self {
        let markets = Markets::empty(1);
        let books = Some(BTreeMap::new());
        let trading = Trading { markets, published: 0, books, rejection: None };
        Self::new(trading, Timing::default(), host)
    }

    fn new(trading: Trading, timing: Timing, host: Arc<Host>) -> Self {
        let events = broadcast::Sender::new(QUEUE);
        Self { trading: Mutex::new(trading), events, host, timing }
    }

    /// Trades until shutdown, with or without clients.
    pub(crate) async fn drive(self: Arc<Self>) {
        let is_generated = !self.state().is_scripted();
        let mut next_taker = Instant::now();
        let mut books = ticker(BOOK_EVERY, Duration::ZERO);
        let to_second = 1_000_000_000 - Timestamp::now().subsec_nanosecond();
        let to_second = Duration::from_nanos(u64::try_from(to_second).unwrap_or(0));
        let mut seconds = ticker(Duration::from_secs(1), to_second);
        loop {
            tokio::select! {
                () = self.host.shutdown.cancelled() => return,
                () = time::sleep_until(next_taker), if is_generated => {
                    next_taker = self.trade(next_taker);
                }
                _ = books.tick(), if is_generated => self.publish_books(),
                _ = seconds.tick() => self.publish_heartbeats(),
            }
        }
    }

    /// Lets every taker trade that is due. Returns when the next one is due.
    fn trade(&self, due: Instant) -> Instant {
        let mut trading = self.state();
        let mut due = due.max(Instant::now().checked_sub(LARGEST_LAG).unwrap_or(due));
        for _ in 0..TICKS_AT_ONCE {
            if due > Instant::now() {
                break;
            }
            let Tick { market, trades, wait } = trading.markets.tick(Timestamp::now());
            due += wait;
            if self.events.receiver_count() == 0 {
                continue;
            }
            for trade in &trades {
                let text = messages::matched("match", &PRODUCTS[market], trade);
                self.publish(&mut trading, Channel::Matches, market, Some(trade.id), text);
            }
            // As on the real exchange, a taker that fills several orders changes the ticker once.
            let text = messages::ticker(&trading.markets.all[market]);
            self.publish(&mut trading, Channel::Ticker, market, None, text);
        }
        due
    }

    fn publish_books(&self) {
        let mut trading = self.state();
        let now = Timestamp::now();
        for (market, changes) in trading.markets.take_changes() {
            let text = messages::l2update(&PRODUCTS[market], &changes, now);
            self.publish(&mut trading, Channel::Level2, market, None, text);
        }
    }

    fn publish_heartbeats(&self) {
        let mut trading = self.state();
        let now = Timestamp::now();
        for market in 0..PRODUCTS.len() {
            let text = messages::heartbeat(&trading.markets.all[market], now);
            self.publish(&mut trading, Channel::Heartbeat, market, None, text);
        }
    }

    pub(super) fn publish(
        &self,
        trading: &mut Trading,
        channel: Channel,
        product: usize,
        trade: Option<u64>,
        text: String,
    ) {
        trading.published += 1;
        let number = trading.published;
        let published = Published { number, channel, product, trade, text: text.into() };
        // Sending fails if there are no clients.
        let _ = self.events.send(Event::Published(published));
    }

    pub(super) fn state(&self) -> MutexGuard<'_, Trading> {
        self.trading.lock()
    }
}

fn ticker(period: Duration, after: Duration) -> time::Interval {
    let mut interval = time::interval_at(Instant::now() + after, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
