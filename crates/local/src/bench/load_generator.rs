//! The load generator: an exchange that trades one product at a given rate. Each trade contains its
//! time.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use simulator::ExchangeServer;
use tokio::{sync::watch, time};

/// The product that the exchange trades.
pub(super) const PRODUCT: &str = "BTC-USD";

/// The size of a message.
const MESSAGE_BYTES: usize = 200;

/// A running load generator.
pub(super) struct LoadGenerator {
    pub(super) address: SocketAddr,
    pub(super) epoch: Instant,
    /// The trades per second.
    pub(super) rate: watch::Sender<f64>,
    /// The number of trades so far.
    pub(super) sent: Arc<AtomicU64>,
}

impl LoadGenerator {
    /// Starts the exchange on a free loopback port. It trades until this is dropped.
    pub(super) async fn start() -> anyhow::Result<Self> {
        let server = ExchangeServer::start().await?;
        let address = server.address();
        let epoch = Instant::now();
        let (rate, rates) = watch::channel(0.0);
        let sent = Arc::new(AtomicU64::new(0));
        tokio::spawn(trade(server, rates, Arc::clone(&sent), epoch));
        Ok(Self { address, epoch, rate, sent })
    }
}

/// Trades at the rate until the sender of the rate is dropped.
async fn trade(
    server: ExchangeServer,
    mut rates: watch::Receiver<f64>,
    sent: Arc<AtomicU64>,
    epoch: Instant,
) {
    let mut next = time::Instant::now();
    loop {
        let rate = *rates.borrow_and_update();
        tokio::select! {
            changed = rates.changed() => match changed {
                Ok(()) => next = time::Instant::now(),
                Err(_) => return,
            },
            () = time::sleep_until(next), if rate > 0.0 => {
                // Timers have a resolution of a millisecond, so several trades can be due at once.
                let now = time::Instant::now();
                while next <= now {
                    next += Duration::from_secs_f64(1.0 / rate);
                    server.trade_as(PRODUCT, |id| message(id, epoch));
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

/// Returns a trade of [`MESSAGE_BYTES`] bytes, with the nanoseconds since `epoch` as the taker's order.
fn message(id: u64, epoch: Instant) -> String {
    let nanos = epoch.elapsed().as_nanos();
    let mut text = format!(
        r#"{{"type":"match","trade_id":{id},"taker_order_id":"{nanos:020}","side":"sell","size":"0.2","price":"63514.6","product_id":"{PRODUCT}","sequence":{id},"maker_order_id":""#
    );
    while text.len() < MESSAGE_BYTES - 2 {
        text.push('0');
    }
    text.push_str("\"}");
    text
}
