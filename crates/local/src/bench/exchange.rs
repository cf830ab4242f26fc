//! An exchange that trades one product at a given rate, and stamps each trade with the time.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    time,
};
use tokio_tungstenite::tungstenite::Message;

/// The product that is traded.
pub(super) const PRODUCT: &str = "BENCH-USD";

/// Size of a message, in bytes.
const BYTES: usize = 200;

/// A running exchange.
pub(super) struct Exchange {
    pub(super) address: SocketAddr,
    pub(super) epoch: Instant,
    /// Trades a second; 0 for none.
    pub(super) rate: watch::Sender<f64>,
    /// The id of the last trade.
    pub(super) sent: Arc<std::sync::atomic::AtomicU64>,
}

impl Exchange {
    /// Listens on a free loopback port.
    pub(super) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let epoch = Instant::now();
        let (rate, rates) = watch::channel(0.0);
        let sent = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let counter = sent.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (rates, counter) = (rates.clone(), counter.clone());
                tokio::spawn(async move {
                    // A broken connection is the server's to mend.
                    let _ = serve(stream, rates, &counter, epoch).await;
                });
            }
        });
        Ok(Self { address, epoch, rate, sent })
    }
}

async fn serve(
    mut stream: TcpStream,
    mut rates: watch::Receiver<f64>,
    sent: &std::sync::atomic::AtomicU64,
    epoch: Instant,
) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = [0; 2_048];
    let size = stream.peek(&mut head).await?;
    if !head[..size].to_ascii_lowercase().windows(18).any(|it| it == b"upgrade: websocket") {
        let _ = stream.read(&mut head).await?;
        let products = json!([{ "id": PRODUCT, "status": "online", "trading_disabled": false }]);
        let body = if head.starts_with(b"GET /products ") { products } else { json!([]) };
        let body = body.to_string();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await?;
        return Ok(());
    }
    let mut socket = tokio_tungstenite::accept_async(stream).await?;
    let mut heartbeat = time::interval(Duration::from_secs(1));
    let mut next = time::Instant::now();
    loop {
        let rate = *rates.borrow_and_update();
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Text(_))) => {
                    let products = [PRODUCT];
                    let channels = ["matches", "heartbeat"].map(|name| {
                        json!({ "name": name, "product_ids": products, "account_ids": null })
                    });
                    let answer = json!({ "type": "subscriptions", "channels": channels });
                    socket.send(Message::text(answer.to_string())).await?;
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Ok(()),
            },
            _ = heartbeat.tick() => {
                let last = sent.load(std::sync::atomic::Ordering::Relaxed);
                let beat = json!({
                    "type": "heartbeat", "last_trade_id": last, "product_id": PRODUCT,
                    "sequence": last, "time": "2026-11-22T10:00:00.000000Z",
                });
                socket.send(Message::text(beat.to_string())).await?;
            }
            _ = rates.changed() => next = time::Instant::now(),
            () = time::sleep_until(next), if rate > 0.0 => {
                // Timers tick in milliseconds: what is due is sent, each with its own time.
                let now = time::Instant::now();
                while next <= now {
                    next += Duration::from_secs_f64(1.0 / rate);
                    let id = sent.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
                    socket.feed(Message::text(trade(id, epoch))).await?;
                }
                socket.flush().await?;
            }
        }
    }
}

/// A trade of [`BYTES`] bytes, with the nanoseconds since `epoch` as the taker's order.
fn trade(id: u64, epoch: Instant) -> String {
    let nanos = epoch.elapsed().as_nanos();
    let mut text = format!(
        r#"{{"type":"match","trade_id":{id},"taker_order_id":"{nanos:020}","side":"sell","size":"0.2","price":"63514.6","product_id":"{PRODUCT}","sequence":{id},"maker_order_id":""#
    );
    while text.len() < BYTES - 2 {
        text.push('0');
    }
    text.push_str("\"}");
    text
}
