//! The known state of the exchange, and how its messages change that state. Has no I/O and no
//! clock.

use std::{
    collections::{HashMap, HashSet},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use domain::{frame::MAX_EVENT_BYTES, topic::Topic};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tracing::{debug, warn};

use super::{
    level2::Updated,
    liveness::Stalled,
    message::{Levels, Message},
    product::Product,
    subscriptions::{Channel, Subscriptions, Verb},
    tally::{Losses, Tally},
    trades::{Logged, Taken},
};
use crate::{
    outgoing::{Outgoing, Role},
    wanted::Wanted,
};

#[cfg(test)]
mod tests;

/// Longest time without any message on a connection.
const SILENCE: Duration = Duration::from_secs(10);

/// Time since the last heartbeat during which the exchange counts as alive.
const ALIVE: Duration = Duration::from_secs(3);

/// Why a book is discarded.
const CROSSED: &str = "a bid is not below the lowest ask";
const TOO_LARGE: &str = "it has too many levels";

/// Most products that are named in the state of the source.
const NAMED: usize = 5;

/// The known state of the exchange, across all connections to it.
///
/// Gets the messages and the time. Returns the events to publish, the requests to send, and the
/// chores.
#[derive(Debug)]
pub struct Session {
    products: HashMap<Arc<str>, Product>,
    /// All traded products, if they are known.
    catalog: Option<Arc<HashSet<String>>>,
    /// Wanted products that are not traded.
    absent: Vec<Arc<str>>,
    subscriptions: Subscriptions,
    chores: Vec<Chore>,
    tally: Tally,
    losses: Losses,
    levels: Levels,
    connection: Option<Connection>,
}

/// The state of a connection.
#[derive(Debug)]
struct Connection {
    heard_at: Instant,
    heartbeat_at: Option<Instant>,
    is_answered: bool,
    forwarded: u64,
}

/// Something to look up. The result goes to the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Chore {
    /// Find the newest trade in the log, for [`Session::know`].
    LookUp { product: Arc<str>, topic: Topic },
    /// Fetch these trades, for [`Session::fill`].
    Fill { product: Arc<str>, ids: RangeInclusive<u64> },
}

/// Why a connection has to be closed.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// No message arrived for too long.
    #[error("no message arrived for {} seconds", SILENCE.as_secs())]
    Silent,
    /// Heartbeats stopped, and subscribing again did not help.
    #[error("heartbeats of {0} stopped")]
    Stalled(Arc<str>),
    /// The exchange is about to close the connection.
    #[error("the exchange reported an error: {0}")]
    Rejected(String),
}

impl Session {
    /// Starts with nothing wanted and without a connection.
    pub(super) fn new() -> Self {
        Self {
            products: HashMap::new(),
            catalog: None,
            absent: Vec::new(),
            subscriptions: Subscriptions::default(),
            chores: Vec::new(),
            tally: Tally::default(),
            losses: Losses::default(),
            levels: Levels::default(),
            connection: None,
        }
    }

    /// Makes a session with a connection, wanted topics and an empty log, to measure
    /// [`on_message`](Self::on_message).
    pub fn connected(wanted: &Wanted, now: Instant) -> Self {
        let mut session = Self::new();
        session.want(wanted);
        session.connect(now);
        for product in session.products.values_mut() {
            product.trades.know(None, now, &mut |_| ());
        }
        session
    }

    /// Sets the wanted topics.
    pub(super) fn want(&mut self, wanted: &Wanted) {
        for product in self.products.values_mut() {
            product.wants.clear();
        }
        for topic in wanted.iter().filter(|topic| topic.source() == "coinbase") {
            let Some(id) = topic.key() else { continue };
            let channel = match topic.channel() {
                "ticker" => Channel::Ticker,
                "matches" => Channel::Matches,
                _ => Channel::Level2,
            };
            if let Some(product) = self.products.get_mut(id) {
                product.wants.insert(channel);
            } else if let Ok(mut product) = Product::new(id) {
                product.wants.insert(channel);
                self.products.insert(id.into(), product);
            }
        }
        for (id, product) in &mut self.products {
            if product.is_to_look_up() {
                let topic = product.matches_topic.clone();
                self.chores.push(Chore::LookUp { product: Arc::clone(id), topic });
            }
            product.settle();
        }
        self.subscribe();
    }

    /// Sets the traded products.
    pub(super) fn know_catalog(&mut self, catalog: Arc<HashSet<String>>) {
        self.catalog = Some(catalog);
        self.subscribe();
    }

    /// Sets the newest trade of a product in the log, if there is one.
    pub(super) fn know(
        &mut self,
        product: &str,
        logged: Option<Logged>,
        now: Instant,
        publish: &mut impl FnMut(&Topic, Outgoing),
    ) {
        let Some(product) = self.products.get_mut(product) else { return };
        let topic = &product.matches_topic;
        product.trades.know(logged, now, &mut |event| publish(topic, event));
    }

    /// Adds the missing trades that were found. They can be in any order.
    pub(super) fn fill(
        &mut self,
        id: &str,
        ids: &RangeInclusive<u64>,
        found: Vec<(u64, Bytes)>,
        now: Instant,
        publish: &mut impl FnMut(&Topic, Outgoing),
    ) {
        let Some(product) = self.products.get_mut(id) else { return };
        if !product.wants(Channel::Matches) {
            return product.trades.cancel();
        }
        debug!(
            product = id,
            first = ids.start(),
            last = ids.end(),
            found = found.len(),
            "fetched missed trades"
        );
        let topic = &product.matches_topic;
        let mut out = |event| publish(topic, event);
        let lost = product.trades.fill(ids, found, now, &mut out);
        self.losses.add(id, lost, now);
    }

    /// Returns whether no connection is needed.
    pub(super) fn is_idle(&self) -> bool {
        self.subscriptions.is_idle()
    }

    /// Starts a new connection.
    pub(super) fn connect(&mut self, now: Instant) {
        self.subscriptions.reset();
        self.connection = Some(Connection {
            heard_at: now,
            heartbeat_at: None,
            is_answered: false,
            forwarded: 0,
        });
    }

    /// Ends the connection. Returns how many events were published from it.
    pub(super) fn disconnect(&mut self) -> u64 {
        for product in self.products.values_mut() {
            product.disconnect();
        }
        self.connection.take().map_or(0, |connection| connection.forwarded)
    }

    /// Returns whether the exchange has sent anything on this connection.
    pub(super) fn is_answered(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.is_answered)
    }

    /// Handles a message that only shows that the connection works.
    pub(super) fn on_sign_of_life(&mut self, now: Instant) {
        if let Some(connection) = &mut self.connection {
            connection.heard_at = now;
        }
    }

    /// Handles a binary message. The exchange never sends any.
    pub(super) fn on_binary(&mut self, now: Instant) {
        self.on_sign_of_life(now);
        self.tally.binary.add("");
    }

    /// Handles a text from the exchange, and publishes the resulting events.
    ///
    /// # Errors
    ///
    /// [`SessionError::Rejected`] when the exchange is about to close the connection.
    pub fn on_message(
        &mut self,
        text: Utf8Bytes,
        now: Instant,
        publish: &mut impl FnMut(&Topic, Outgoing),
    ) -> Result<(), SessionError> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        connection.heard_at = now;
        connection.is_answered = true;
        let Ok(message) = Message::read(&text, &mut self.levels) else {
            self.on_garbage(&text, now);
            return Ok(());
        };
        let id = message.product.as_deref().unwrap_or_default();
        let Some(product) = self.products.get_mut(id) else {
            return self.on_other(&message, &text, now);
        };
        let mut publish = |topic: &Topic, event| {
            connection.forwarded += 1;
            publish(topic, event);
        };
        let is_small = text.len() <= MAX_EVENT_BYTES;
        let time = message.time.as_deref();
        match (&*message.kind, message.trade_id) {
            ("l2update", _) => match product.level2.update(&self.levels, time, now) {
                Updated::Applied if is_small => {
                    publish(&product.level2_topic, Outgoing::plain(text));
                }
                // Too large to forward, so a snapshot of the resulting book replaces it.
                Updated::Applied => {
                    if let Some(json) = product.level2.snapshot(id, now) {
                        publish(&product.level2_topic, Outgoing::new(json, Role::Snapshot));
                    }
                }
                Updated::NoBook => {}
                Updated::Crossed => {
                    warn!(product = id, "discarded the order book: {CROSSED}");
                }
                Updated::TooLarge => {
                    warn!(product = id, "discarded the order book: {TOO_LARGE}");
                }
            },
            ("ticker", _) if is_small => {
                if product.wants(Channel::Ticker) {
                    publish(&product.ticker_topic, Outgoing::plain(text));
                }
            }
            ("match" | "last_match", Some(trade)) if is_small => {
                if product.wants(Channel::Matches) {
                    let topic = &product.matches_topic;
                    let mut out = |event| publish(topic, event);
                    match product.trades.take(trade, text.into(), now, &mut out) {
                        Taken::Published | Taken::Held => {}
                        Taken::Duplicate => self.tally.duplicates += 1,
                        Taken::Overflowed { lost } => {
                            self.losses.add(product.matches_topic.as_str(), lost, now);
                        }
                    }
                }
            }
            ("heartbeat", _) => {
                product.liveness.hear(now);
                connection.heartbeat_at = Some(now);
                if product.wants(Channel::Matches)
                    && let Some(last) = message.last_trade_id
                    && product.trades.hear(last, now)
                {
                    warn!(product = id, last, "the exchange restarted its trade ids");
                }
            }
            ("snapshot", _) => {
                if product.wants(Channel::Level2) {
                    let reason = match product.level2.start(&self.levels, time, now) {
                        Updated::Applied | Updated::NoBook => None,
                        Updated::Crossed => Some(CROSSED),
                        Updated::TooLarge => Some(TOO_LARGE),
                    };
                    if let Some(reason) = reason {
                        warn!(product = id, "discarded a snapshot of the order book: {reason}");
                    } else if let Some(json) = product.level2.snapshot(id, now) {
                        publish(&product.level2_topic, Outgoing::new(json, Role::Snapshot));
                    }
                }
                // Frees the memory: a snapshot has tens of thousands of levels, other messages have a few.
                self.levels = Levels::default();
            }
            ("ticker" | "match" | "last_match", _) => self.on_garbage(&text, now),
            _ => return self.on_other(&message, &text, now),
        }
        Ok(())
    }

    /// Performs the work that is due, and publishes the resulting events.
    ///
    /// # Errors
    ///
    /// [`SessionError`] when the connection has to be closed.
    pub(super) fn tick(
        &mut self,
        now: Instant,
        publish: &mut impl FnMut(&Topic, Outgoing),
    ) -> Result<(), SessionError> {
        self.subscriptions.tick(now);
        self.tally.log(now);
        let mut others_live = false;
        if let Some(connection) = &self.connection {
            if now >= connection.heard_at + SILENCE {
                return Err(SessionError::Silent);
            }
            others_live = connection.heartbeat_at.is_some_and(|at| now < at + ALIVE);
        }
        for (id, product) in &mut self.products {
            if let Some(hole) = product.trades.missing(now) {
                if hole.is_own_fault && product.level2.is_sound() {
                    warn!(
                        product = &**id,
                        "discarded the order book: trades were missed, so updates may be missing too"
                    );
                    product.level2.doubt(now);
                }
                self.chores.push(Chore::Fill { product: Arc::clone(id), ids: hole.ids });
            }
            if let Some(json) = product.level2.due_snapshot(id, now) {
                publish(&product.level2_topic, Outgoing::new(json, Role::Snapshot));
            }
            let was_asked = self.subscriptions.has_asked(id, Channel::Level2);
            if was_asked && product.wants(Channel::Level2) && product.level2.is_idle() {
                product.level2.doubt(now);
            }
            if product.level2.is_to_ask(now) {
                self.subscriptions.renew(id, Some(Channel::Level2));
            }
            match product.liveness.stalled(now) {
                None => {}
                Some(Stalled::Renew) => {
                    warn!(product = &**id, "heartbeats stopped; subscribing again");
                    product.level2.forget();
                    self.subscriptions.renew(id, None);
                }
                Some(Stalled::Abandon) if others_live => {
                    self.subscriptions.reject_product(id, "heartbeats stopped", now);
                }
                Some(Stalled::Reconnect | Stalled::Abandon) => {
                    return Err(SessionError::Stalled(Arc::clone(id)));
                }
            }
        }
        Ok(())
    }

    /// Returns the next message to send, if there is one and the rate limit allows it.
    pub(super) fn next_request(&mut self, now: Instant) -> Option<String> {
        let request = self.subscriptions.next(now)?;
        for (id, channel) in request.pairs() {
            let Some(product) = self.products.get_mut(&id) else { continue };
            match (request.verb, channel) {
                (Verb::Subscribe, Channel::Level2) => product.level2.asked(now),
                (Verb::Subscribe, Channel::Heartbeat) => product.liveness.asked(now),
                (Verb::Unsubscribe, Channel::Level2) => product.level2.forget(),
                (Verb::Unsubscribe, Channel::Heartbeat) => product.liveness.rest(),
                (_, Channel::Matches | Channel::Ticker) => {}
            }
        }
        serde_json::to_string(&request).ok()
    }

    /// Takes the chores that are not started yet.
    pub(super) fn take_chores(&mut self) -> Vec<Chore> {
        std::mem::take(&mut self.chores)
    }

    /// Describes the problems of a working connection for people. Empty if there are none.
    pub(super) fn detail(&self, now: Instant) -> String {
        let mut parts = Vec::new();
        let rejections = self.subscriptions.rejections();
        for (product, reason) in rejections.iter().take(NAMED) {
            parts.push(format!("{product} rejected: {reason}"));
        }
        if rejections.len() > NAMED {
            parts.push(format!("{} more rejected", rejections.len() - NAMED));
        }
        if !self.absent.is_empty() {
            let more = if self.absent.len() > NAMED { " and others" } else { "" };
            let names: Vec<&str> = self.absent.iter().take(NAMED).map(|id| &**id).collect();
            parts.push(format!("not traded: {}{more}", names.join(", ")));
        }
        if let Some(lost) = self.losses.recent(now) {
            parts.push(format!("{lost} trades were missed and could not be fetched"));
        }
        parts.join("; ")
    }

    fn subscribe(&mut self) {
        let catalog = self.catalog.as_ref();
        let wanted = self.products.iter().filter(|(_, product)| !product.wants.is_empty());
        let (there, absent): (Vec<_>, Vec<_>) =
            wanted.partition(|(id, _)| catalog.is_none_or(|catalog| catalog.contains(&***id)));
        self.absent = absent.into_iter().map(|(id, _)| Arc::clone(id)).collect();
        self.absent.sort_unstable();
        self.subscriptions.want(there.into_iter().flat_map(|(id, product)| {
            product.wants.iter().map(move |channel| (Arc::clone(id), *channel))
        }));
    }

    fn on_other(
        &mut self,
        message: &Message<'_>,
        text: &str,
        now: Instant,
    ) -> Result<(), SessionError> {
        match &*message.kind {
            "subscriptions" => {
                for (id, channel) in self.subscriptions.confirm(&message.channels, now) {
                    if channel == Channel::Heartbeat
                        && let Some(product) = self.products.get_mut(&id)
                    {
                        product.liveness.confirmed(now);
                    }
                }
            }
            "error" => {
                let text_of_error = message.message.as_deref().unwrap_or_default();
                let reason = message.reason.as_deref().filter(|reason| !reason.is_empty());
                if text_of_error.contains("ErrSlow")
                    || reason.is_some_and(|it| it.contains("ErrSlow"))
                {
                    return Err(SessionError::Rejected(text_of_error.to_owned()));
                }
                if !self.subscriptions.fail(reason.unwrap_or(text_of_error), now) {
                    self.tally.errors.add(text);
                }
            }
            "l2update" | "snapshot" | "ticker" | "match" | "last_match" | "heartbeat" => {
                self.on_garbage(text, now);
            }
            _ => self.tally.unknown.add(text),
        }
        Ok(())
    }

    /// Handles a text that cannot be parsed. Discards the order books of the products that it names.
    fn on_garbage(&mut self, text: &str, now: Instant) {
        self.tally.garbage.add(text);
        for (id, product) in &mut self.products {
            if product.level2.is_sound() && text.contains(&**id) {
                product.level2.doubt(now);
            }
        }
    }
}
