//! Keeps a connection to the exchange while any of its topics is wanted.

use std::{collections::HashSet, future, ops::RangeInclusive, sync::Arc, time::Duration};

use bytes::Bytes;
use domain::{backoff::Backoff, chain::Chain, source::State, topic::Topic};
use futures_util::{FutureExt as _, Sink, SinkExt as _, Stream, StreamExt as _};
use jiff::Timestamp;
use serde::Deserialize;
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
    time::{self, Instant, MissedTickBehavior},
};
use tokio_tungstenite::tungstenite::{self, Message, client::IntoClientRequest as _};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, instrument, warn};

use super::{
    rest::Rest,
    session::{Chore, Session, SessionError},
    trades::Logged,
};
use crate::{
    feed::Feed,
    long_work,
    outside::{Outside, Reach, Socket},
    source::http::retry_after,
    wanted::Wanted,
};

#[cfg(test)]
mod tests;

/// The name of the source.
pub(super) const NAME: &str = "coinbase";

/// Longest time to connect, including the TLS and WebSocket handshakes.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Longest time to send a request.
const SEND_WITHIN: Duration = Duration::from_secs(5);
/// How often a ping is sent.
const PING_EVERY: Duration = Duration::from_secs(15);
/// How often the session checks what is due.
const TICK: Duration = Duration::from_millis(100);
/// Most messages that are handled in a row.
const BATCH: usize = 256;
/// Largest message. The book of a busy product is larger than 1 MB.
const MAX_MESSAGE_BYTES: usize = 8 * 1024 * 1024;
/// Number of failures in a row after which the exchange counts as down.
const DOWN_AFTER: u32 = 3;
/// How often the catalog is fetched.
const CATALOG_EVERY: Duration = Duration::from_mins(10);

/// The connection to the exchange, and the state that outlives it.
pub(super) struct Upstream {
    feed: Feed,
    wanted: watch::Receiver<Arc<Wanted>>,
    products: watch::Receiver<Arc<HashSet<String>>>,
    rest: Rest,
    session: Session,
    chores: JoinSet<Done>,
    url: String,
    outside: Outside,
}

/// The result of a chore.
enum Done {
    Known { product: Arc<str>, logged: Option<Logged> },
    Filled { product: Arc<str>, ids: RangeInclusive<u64>, found: Vec<(u64, Bytes)> },
}

/// Something that happened outside the connection.
enum Event {
    Wanted,
    Products,
    Done(Result<Done, JoinError>),
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum UpstreamError {
    #[error("no connection within {} seconds", CONNECT_WITHIN.as_secs())]
    ConnectTimeout,
    #[error("the exchange rejected the connection with status {status}")]
    Rejected { status: tungstenite::http::StatusCode, retry_after: Option<Duration> },
    // Its text contains its causes.
    #[error("connection failed: {0}")]
    Socket(tungstenite::Error),
    #[error("a request could not be sent within {} seconds", SEND_WITHIN.as_secs())]
    SendTimeout,
    #[error("the exchange closed the connection{0}")]
    Closed(String),
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl From<tungstenite::Error> for UpstreamError {
    fn from(error: tungstenite::Error) -> Self {
        Self::Socket(error)
    }
}

impl UpstreamError {
    /// Returns why no connection could be opened.
    fn of_opening(error: tungstenite::Error, now: Timestamp) -> Self {
        match error {
            tungstenite::Error::Http(answer) => Self::Rejected {
                status: answer.status(),
                retry_after: retry_after(answer.headers(), now),
            },
            error => Self::Socket(error),
        }
    }

    /// How long the exchange asks to wait before the next attempt.
    fn retry_after(&self) -> Duration {
        match self {
            Self::Rejected { retry_after: Some(asked), .. } => *asked,
            _ => Duration::ZERO,
        }
    }

    /// Whether the exchange rejected the connection for a reason that a retry does not change.
    fn is_rejection(&self) -> bool {
        matches!(self, Self::Rejected { status, .. } if status.is_client_error())
    }
}

impl Upstream {
    /// Starts without a connection. `products` is empty until the traded products are known.
    pub(super) fn new(
        feed: Feed,
        rest: Rest,
        products: watch::Receiver<Arc<HashSet<String>>>,
        url: String,
        outside: Outside,
    ) -> Self {
        Self {
            wanted: feed.wanted(),
            feed,
            products,
            rest,
            session: Session::new(),
            chores: JoinSet::new(),
            url,
            outside,
        }
    }

    /// Connects whenever a topic is wanted, until `shutdown`.
    #[instrument(name = "upstream", skip_all, fields(upstream.name = NAME))]
    pub(super) async fn run(mut self, shutdown: &CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_mins(1));
        let mut failures = 0;
        self.on_event(Event::Wanted);
        self.on_event(Event::Products);
        while !shutdown.is_cancelled() {
            if self.session.is_idle() {
                let mut detail = self.session.detail(Instant::now());
                if detail.is_empty() {
                    "idle: nothing is wanted".clone_into(&mut detail);
                }
                self.feed.report(State::Live, detail);
                shutdown.run_until_cancelled(self.wait(Duration::from_secs(1))).await;
                continue;
            }
            if failures == 0 {
                self.feed.report(State::Connecting, "connecting".to_owned());
            }
            let Some(connected) = shutdown.run_until_cancelled(self.connect()).await else { break };
            let ended = match connected {
                Ok(mut socket) => {
                    self.session.connect(Instant::now());
                    let ended = self.pump(&mut socket, shutdown).await;
                    hang_up(&mut socket).await;
                    if self.session.disconnect() > 0 {
                        // A connection alone does not mean that the exchange works; an event does.
                        backoff.reset();
                        failures = 0;
                    }
                    ended
                }
                Err(error) => Err(error),
            };
            let Err(error) = ended else {
                info!("closed the connection: no topic is wanted, or the source is stopping");
                continue;
            };
            failures += 1;
            let delay = backoff.next_delay().max(error.retry_after());
            warn!(error = %Chain(&error), delay_ms = delay.as_millis(), "connection ended; reconnecting");
            let is_down = failures >= DOWN_AFTER || error.is_rejection();
            let state = if is_down { State::Down } else { State::Connecting };
            self.feed.report(state, format!("{}; reconnecting", Chain(&error)));
            let until = Instant::now() + delay;
            while Instant::now() < until && !shutdown.is_cancelled() {
                let rest = until - Instant::now();
                shutdown.run_until_cancelled(self.wait(rest)).await;
            }
        }
    }

    async fn connect(&self) -> Result<Socket, UpstreamError> {
        let request = self.url.as_str().into_client_request()?;
        let opening = self.outside.network.open(request, Reach::Any, MAX_MESSAGE_BYTES);
        let opened = time::timeout(CONNECT_WITHIN, opening).await;
        let opened = opened.map_err(|_| UpstreamError::ConnectTimeout)?;
        opened.map_err(|error| UpstreamError::of_opening(error, self.outside.clock.now()))
    }

    /// Reads a connection until it fails, or until no topic is wanted.
    async fn pump<S>(
        &mut self,
        socket: &mut S,
        shutdown: &CancellationToken,
    ) -> Result<(), UpstreamError>
    where
        S: Stream<Item = Result<Message, tungstenite::Error>>
            + Sink<Message, Error = tungstenite::Error>
            + Unpin,
    {
        let mut ticks = time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ping_at = Instant::now() + PING_EVERY;
        let mut report_at = Instant::now();
        while !self.session.is_idle() {
            while let Some(request) = self.session.next_request(Instant::now()) {
                debug!(request, "sending a request");
                send(socket, Message::text(request)).await?;
            }
            self.start_chores();
            tokio::select! {
                () = shutdown.cancelled() => break,
                message = socket.next() => {
                    let now = Instant::now();
                    self.on_message(message, now)?;
                    for _ in 1..BATCH {
                        let Some(message) = socket.next().now_or_never() else { break };
                        self.on_message(message, now)?;
                    }
                }
                event = self.event() => self.on_event(event),
                _ = ticks.tick() => {
                    let now = Instant::now();
                    self.tick(now)?;
                    if now >= ping_at {
                        ping_at = now + PING_EVERY;
                        send(socket, Message::Ping(Bytes::new())).await?;
                    }
                    if self.session.is_answered() && now >= report_at {
                        report_at = now + Duration::from_secs(1);
                        self.feed.report(State::Live, self.session.detail(now));
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits for an event, for at most a second.
    async fn wait(&mut self, duration: Duration) {
        self.start_chores();
        tokio::select! {
            event = self.event() => self.on_event(event),
            () = time::sleep(duration.min(Duration::from_secs(1))) => {}
        }
        if let Err(error) = self.tick(Instant::now()) {
            debug!(error = %Chain(&error), "ignored: there is no connection to close");
        }
    }

    fn on_message(
        &mut self,
        message: Option<Result<Message, tungstenite::Error>>,
        now: Instant,
    ) -> Result<(), UpstreamError> {
        match message {
            Some(Ok(Message::Text(text))) => {
                let bytes = text.len();
                let mut publish = |topic: &Topic, event| self.feed.publish(topic, event);
                let handle = || self.session.on_message(text, now, &mut publish);
                long_work::on_input(bytes, handle)?;
            }
            Some(Ok(Message::Binary(_))) => self.session.on_binary(now),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {
                self.session.on_sign_of_life(now);
            }
            Some(Ok(Message::Close(frame))) => {
                let why = frame.map(|frame| format!(" with {} {}", frame.code, frame.reason));
                return Err(UpstreamError::Closed(why.unwrap_or_default()));
            }
            Some(Err(error)) => return Err(error.into()),
            None => return Err(UpstreamError::Closed(String::new())),
        }
        Ok(())
    }

    fn tick(&mut self, now: Instant) -> Result<(), SessionError> {
        let feed = &self.feed;
        self.session.tick(now, &mut |topic, event| feed.publish(topic, event))
    }

    /// Waits for something that happens outside the connection.
    async fn event(&mut self) -> Event {
        tokio::select! {
            () = changed(&mut self.wanted) => Event::Wanted,
            () = changed(&mut self.products) => Event::Products,
            Some(done) = self.chores.join_next() => Event::Done(done),
        }
    }

    fn on_event(&mut self, event: Event) {
        let now = Instant::now();
        let feed = &self.feed;
        let mut publish = |topic: &Topic, event| feed.publish(topic, event);
        match event {
            Event::Wanted => {
                let wanted = Arc::clone(&self.wanted.borrow_and_update());
                self.session.want(&wanted);
            }
            Event::Products => {
                let products = Arc::clone(&self.products.borrow_and_update());
                if !products.is_empty() {
                    self.session.know_catalog(products);
                }
            }
            Event::Done(Ok(Done::Known { product, logged })) => {
                self.session.know(&product, logged, now, &mut publish);
            }
            Event::Done(Ok(Done::Filled { product, ids, found })) => {
                self.session.fill(&product, &ids, found, now, &mut publish);
            }
            Event::Done(Err(error)) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => debug!(%error, "chore was canceled"),
            },
        }
    }

    fn start_chores(&mut self) {
        for chore in self.session.take_chores() {
            match chore {
                Chore::LookUp { product, topic } => {
                    let feed = self.feed.clone();
                    self.chores.spawn(async move {
                        let logged = newest_trade(&feed, &topic).await;
                        Done::Known { product, logged }
                    });
                }
                Chore::Fill { product, ids } => {
                    let rest = self.rest.clone();
                    self.chores.spawn(async move {
                        let found = rest.trades(&product, &ids).await;
                        Done::Filled { product, ids, found }
                    });
                }
            }
        }
    }
}

/// Waits until a watched value changes. Never returns if its sender is gone.
async fn changed<T>(watched: &mut watch::Receiver<T>) {
    if watched.changed().await.is_err() {
        future::pending::<()>().await;
    }
}

async fn send<S>(socket: &mut S, message: Message) -> Result<(), UpstreamError>
where
    S: Sink<Message, Error = tungstenite::Error> + Unpin,
{
    let sent = time::timeout(SEND_WITHIN, socket.send(message)).await;
    Ok(sent.map_err(|_| UpstreamError::SendTimeout)??)
}

async fn hang_up<S>(socket: &mut S)
where
    S: Sink<Message, Error = tungstenite::Error> + Unpin,
{
    if let Ok(Err(error)) = time::timeout(Duration::from_secs(1), socket.close()).await {
        debug!(error = %Chain(&error), "connection was already closed");
    }
}

/// Returns the newest trade in the log. Retries until it succeeds, because trades are held meanwhile.
async fn newest_trade(feed: &Feed, topic: &Topic) -> Option<Logged> {
    #[derive(Deserialize)]
    struct Event {
        trade_id: Option<u64>,
    }

    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
    let (frame, lost) = loop {
        match feed.newest(topic).await {
            Ok(newest) => break newest?,
            Err(error) => {
                warn!(%topic, error = %Chain(&error), "could not read the newest trade from the log; retrying");
            }
        }
        let delay = backoff.next_delay();
        time::sleep(delay).await;
    };
    let trade = |event: &Bytes| serde_json::from_slice::<Event>(event).ok()?.trade_id;
    let trade = frame.events().iter().rev().find_map(|(_, event)| trade(event))?;
    Some(Logged { trade, lost })
}

/// Fetches the catalog of products periodically, stores it, and sends the traded products to `online`.
pub(super) async fn keep_catalog(
    rest: Rest,
    feed: Feed,
    online: watch::Sender<Arc<HashSet<String>>>,
) {
    let mut backoff = Backoff::new(Duration::from_secs(1), CATALOG_EVERY);
    loop {
        let mut delay = backoff.next_delay();
        match rest.products().await {
            Ok(products) if products.is_empty() => {
                warn!("ignored the catalog: the exchange lists no products");
            }
            Ok(products) => {
                let ids = products.iter().filter(|product| product.online);
                online.send_replace(Arc::new(ids.map(|product| product.id.clone()).collect()));
                match feed.control().put_products(NAME, &products).await {
                    Ok(()) => {
                        backoff.reset();
                        delay = CATALOG_EVERY;
                    }
                    Err(error) => {
                        warn!(error = %Chain(&error), "could not store the catalog; retrying");
                    }
                }
            }
            Err(error) => {
                warn!(error = %Chain(&error), "could not fetch the catalog; retrying");
                delay = delay.max(error.retry_after().unwrap_or_default());
            }
        }
        time::sleep(delay).await;
    }
}
