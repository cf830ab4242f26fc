//! One client's WebSocket connection to a simulated upstream, faults included.

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

/// Events that may wait for a client; one that falls further behind is cut off.
pub(super) const QUEUE: usize = 16_384;
/// Messages put into the socket's buffer between two flushes.
const BATCH: usize = 256;
/// How long a client that was too slow has to read that it was.
const FAREWELL: Duration = Duration::from_secs(15);

/// An upstream's side of one connection.
pub(super) trait Conversation: Send {
    /// The events that the upstream broadcasts to all its connections.
    type Event: Clone + Send;
    /// Broken messages of this upstream's kind.
    const GARBAGE: &'static [&'static str];
    /// The last message to a client that reads too slowly.
    const TOO_SLOW: Option<&'static str>;
    /// The reason to close the connection when a client sends a binary message.
    const NO_BINARY: Option<&'static str>;

    /// Returns the messages that the client gets before it has sent any.
    fn greet(&mut self) -> Vec<String> {
        Vec::new()
    }
    /// Returns the answers to a client's text message.
    fn receive(&mut self, text: &str) -> Vec<String>;
    /// Returns the messages that this client gets for an event.
    fn deliver(&mut self, event: &Self::Event, faults: Active) -> Vec<Frame>;
    /// Returns whether the client has sent what it must send in time.
    fn is_settled(&self) -> bool;
}

/// When a session acts by itself.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timing {
    /// How long a client has until [`Conversation::is_settled`].
    pub(super) settle_within: Option<Duration>,
    /// How often to ping; a client that has not answered the last one is cut off.
    pub(super) ping_every: Option<Duration>,
}

/// A connection and everything it needs.
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

/// Why a session ends early; only a slow client is notified.
#[derive(Debug, thiserror::Error)]
enum SessionEnd {
    #[error("the socket failed")]
    Socket(#[from] Error),
    #[error("the client reads too slowly")]
    Slow,
    #[error("the connection is cut")]
    Cut,
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
                let farewell = async {
                    socket.send(Message::text(text)).await?;
                    socket.close(None).await
                };
                let farewell = time::timeout(FAREWELL, farewell);
                self.shutdown.run_until_cancelled(farewell).await;
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
                () = self.shutdown.cancelled() => return Err(SessionEnd::Cut),
                _ = self.signals.drops.changed() => return Err(SessionEnd::Cut),
                _ = self.signals.silences.changed() => is_silenced = true,
                () = at(cut_at) => return Err(SessionEnd::Cut),
                _ = self.signals.active.changed() => {}
                event = self.events.recv() => match event {
                    Err(RecvError::Closed) => return Err(SessionEnd::Cut),
                    Err(RecvError::Lagged(_)) if !silent => return Err(SessionEnd::Slow),
                    Ok(event) if !silent => self.forward(event, active).await?,
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                },
                // A socket that is not read does not answer pings either.
                message = self.socket.next(), if !silent => match message.transpose()? {
                    None => return Ok(()),
                    Some(Message::Text(text)) => {
                        let answers = self.conversation.receive(&text);
                        self.write(answers.into_iter().map(Message::text).collect()).await?;
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
                        return Err(SessionEnd::Cut);
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
            // An event after a signal is not for this connection.
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

    /// Writes messages, but cuts off a client for which too many events become pending meanwhile.
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
                () = self.shutdown.cancelled() => return Err(SessionEnd::Cut),
                _ = drops.changed() => return Err(SessionEnd::Cut),
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

/// Waits for an instant; without one, it never returns.
pub(super) async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => time::sleep_until(instant).await,
        None => future::pending().await,
    }
}
