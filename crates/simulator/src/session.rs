//! One client's WebSocket connection to a simulated upstream, with its faults.

use std::{future, time::Duration};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::{self, Instant},
};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{
    Bytes, Message,
    error::Error,
    protocol::{CloseFrame, frame::coding::CloseCode},
};
use tokio_util::sync::CancellationToken;

use super::{
    faults::{Active, Fault, Signals},
    mangler::{Frame, Mangler},
    stats::Stats,
    upgrade::Io,
};

/// The most events that may be pending for a client. A client with more is disconnected.
pub(super) const QUEUE: usize = 16_384;
/// The most messages that are buffered between two flushes.
const BATCH: usize = 256;
/// The time in which a slow client must read the error before it is disconnected.
const SLOW_CLIENT_GRACE: Duration = Duration::from_secs(15);

/// An upstream's side of one connection.
pub(super) trait Conversation: Send {
    /// The events that the upstream broadcasts to all its connections.
    type Event: Clone + Send;
    /// Malformed messages of this upstream.
    const GARBAGE: &'static [&'static str];
    /// The last message to a client that reads too slowly.
    const TOO_SLOW: Option<&'static str>;
    /// The reason to close the connection when a client sends a binary message.
    const NO_BINARY: Option<&'static str>;

    /// Returns the messages that the client receives before it has sent any.
    fn greet(&mut self) -> Vec<String> {
        Vec::new()
    }
    /// Returns the responses to a client's text message.
    fn receive(&mut self, text: &str) -> Vec<String>;
    /// Returns the messages that this client receives for an event.
    fn deliver(&mut self, event: &Self::Event, faults: Active) -> Vec<Frame>;
    /// Returns whether the client has sent the request that it must send in time.
    fn is_settled(&self) -> bool;
}

/// The time limits and intervals of a session.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timing {
    /// The time in which [`Conversation::is_settled`] must become true.
    pub(super) settle_within: Option<Duration>,
    /// The interval between pings. A client that has not responded to the last ping is disconnected.
    pub(super) ping_every: Option<Duration>,
}

/// A connection with its state.
pub(super) struct Session<'a, C: Conversation> {
    pub(super) socket: WebSocketStream<Io>,
    pub(super) conversation: C,
    pub(super) events: broadcast::Receiver<C::Event>,
    pub(super) signals: Signals,
    pub(super) stats: &'a Stats,
    pub(super) timing: Timing,
    pub(super) mangler: Mangler,
    pub(super) shutdown: CancellationToken,
}

/// Why a session ends early. Only a slow client is notified.
#[derive(Debug, thiserror::Error)]
enum SessionEnd {
    #[error("the socket failed")]
    Socket(#[from] Error),
    #[error("the client reads too slowly")]
    Slow,
    #[error("the connection was dropped")]
    Dropped,
}

impl<C: Conversation> Session<'_, C> {
    /// Serves the client until either side ends the session.
    pub(super) async fn run(mut self) {
        Stats::add(&self.stats.accepted, 1);
        let end = self.serve().await;
        tracing::debug!(?end, "simulated session ended");
        if matches!(end, Err(SessionEnd::Slow)) {
            Stats::add(&self.stats.slow_consumers, 1);
            if let Some(text) = C::TOO_SLOW {
                let socket = &mut self.socket;
                let notify = async {
                    socket.send(Message::text(text)).await?;
                    socket.close(None).await
                };
                let notify = time::timeout(SLOW_CLIENT_GRACE, notify);
                self.shutdown.run_until_cancelled(notify).await;
            }
        }
        Stats::add(&self.stats.closed, 1);
    }

    async fn serve(&mut self) -> Result<(), SessionEnd> {
        let settle_by = self.timing.settle_within.map(|within| Instant::now() + within);
        let ping_every = self.timing.ping_every;
        let next_ping = || ping_every.map(|every| Instant::now() + every);
        let mut ping_at = next_ping();
        let mut answered = true;
        let mut cut_at = None;
        let mut is_silenced = false;
        let greeting = self.conversation.greet();
        self.write(greeting.into_iter().map(Message::text).collect()).await?;
        loop {
            let active = *self.signals.active.borrow_and_update();
            if !active.has(Fault::Drop) {
                cut_at = None;
            } else if cut_at.is_none() {
                cut_at = Some(Instant::now() + self.mangler.patience());
            }
            let silent = is_silenced || active.has(Fault::Silent);
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return Err(SessionEnd::Dropped),
                _ = self.signals.drops.changed() => return Err(SessionEnd::Dropped),
                _ = self.signals.silences.changed() => is_silenced = true,
                () = at(cut_at) => return Err(SessionEnd::Dropped),
                _ = self.signals.active.changed() => {}
                event = self.events.recv() => match event {
                    Err(RecvError::Closed) => return Err(SessionEnd::Dropped),
                    Err(RecvError::Lagged(_)) if !silent => return Err(SessionEnd::Slow),
                    Ok(event) if !silent => self.forward(event, active).await?,
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                },
                // A socket that is not read does not respond to pings either.
                message = self.socket.next(), if !silent => match message.transpose()? {
                    None => return Ok(()),
                    Some(Message::Text(text)) => {
                        let responses = self.conversation.receive(&text);
                        self.write(responses.into_iter().map(Message::text).collect()).await?;
                    }
                    Some(Message::Binary(_)) => {
                        if let Some(reason) = C::NO_BINARY {
                            return self.close(CloseCode::Unsupported, reason).await;
                        }
                    }
                    Some(Message::Pong(_)) => answered = true,
                    Some(_) => self.socket.flush().await?,
                },
                () = at(settle_by), if !silent && !self.conversation.is_settled() => {
                    return self.close(CloseCode::Normal, "").await;
                }
                () = at(ping_at), if !silent => {
                    if !answered {
                        return Err(SessionEnd::Dropped);
                    }
                    answered = false;
                    ping_at = next_ping();
                    self.write(vec![Message::Ping(Bytes::new())]).await?;
                }
            }
        }
    }

    /// Sends the messages for an event and for those that are pending behind it.
    async fn forward(&mut self, first: C::Event, active: Active) -> Result<(), SessionEnd> {
        let mut messages = Vec::new();
        let mut next = Some(first);
        while let Some(event) = next {
            // After a signal, this connection receives no more events.
            if self.signals.is_interrupted() {
                break;
            }
            for frame in self.conversation.deliver(&event, active) {
                self.mangler.pass(frame, active, C::GARBAGE, &mut messages);
            }
            next = if messages.len() < BATCH { self.events.try_recv().ok() } else { None };
        }
        self.write(messages).await
    }

    /// Writes messages. Disconnects the client if too many events become pending meanwhile.
    async fn write(&mut self, messages: Vec<Message>) -> Result<(), SessionEnd> {
        if messages.is_empty() {
            return Ok(());
        }
        Stats::add(&self.stats.messages, messages.len());
        let drops = &mut self.signals.drops;
        let socket = &mut self.socket;
        let write = async {
            for message in messages {
                socket.feed(message).await?;
            }
            socket.flush().await
        };
        tokio::pin!(write);
        loop {
            tokio::select! {
                biased;
                written = &mut write => return Ok(written?),
                () = self.shutdown.cancelled() => return Err(SessionEnd::Dropped),
                _ = drops.changed() => return Err(SessionEnd::Dropped),
                () = time::sleep(Duration::from_millis(50)) => {}
            }
            if self.events.len() >= QUEUE {
                return Err(SessionEnd::Slow);
            }
        }
    }

    async fn close(&mut self, code: CloseCode, reason: &'static str) -> Result<(), SessionEnd> {
        self.socket.close(Some(CloseFrame { code, reason: reason.into() })).await?;
        Ok(())
    }
}

/// Waits until an instant, or forever without one.
pub(super) async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => time::sleep_until(instant).await,
        None => future::pending().await,
    }
}
