//! What the exchange is asked to send, what it agrees to, and what it refuses.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{message::Acknowledged, pace::Pace};

/// Most products that one request names, so that it is never too large.
const PRODUCTS_PER_REQUEST: usize = 50;

/// How long what was refused is left alone.
const REFUSED_FOR: Duration = Duration::from_mins(10);

/// How long the exchange may take to answer a request.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A channel of the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Channel {
    Heartbeat,
    #[serde(rename = "level2_batch")]
    Level2,
    Matches,
    Ticker,
}

impl Channel {
    /// The channel that the exchange calls `name` when it says what it sends.
    fn sent_as(name: &str) -> Option<Self> {
        match name {
            "heartbeat" => Some(Self::Heartbeat),
            "level2_50" | "level2_batch" => Some(Self::Level2),
            "matches" => Some(Self::Matches),
            "ticker" => Some(Self::Ticker),
            _ => None,
        }
    }
}

/// One channel of one product.
pub(super) type Pair = (Arc<str>, Channel);

/// A message to the exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Request {
    #[serde(rename = "type")]
    pub(super) verb: Verb,
    pub(super) product_ids: Vec<Arc<str>>,
    pub(super) channels: Vec<Channel>,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verb {
    Subscribe,
    Unsubscribe,
}

impl Request {
    fn subscribe(product_ids: Vec<Arc<str>>, channels: Vec<Channel>) -> Self {
        Self { verb: Verb::Subscribe, product_ids, channels }
    }

    /// Everything that it names.
    pub(super) fn pairs(&self) -> impl Iterator<Item = Pair> + '_ {
        let products = self.product_ids.iter();
        products.flat_map(|id| self.channels.iter().map(|channel| (Arc::clone(id), *channel)))
    }
}

/// Why something is left alone, and until when.
#[derive(Debug)]
struct Refusal {
    until: Instant,
    reason: String,
}

/// The subscriptions of one connection, and what was refused on any.
#[derive(Debug)]
pub(super) struct Subscriptions {
    /// What is wanted; heartbeats go without saying.
    wanted: BTreeSet<Pair>,
    /// What this connection was asked for.
    asked: BTreeSet<Pair>,
    /// What to send before anything that follows from what is wanted.
    queue: VecDeque<Request>,
    /// Requests without an answer. Answers come in the order of requests.
    in_flight: VecDeque<(Request, Instant)>,
    refused: BTreeMap<Pair, Refusal>,
    pace: Pace,
    /// Whether what was asked for may differ from what is wanted.
    is_dirty: bool,
}

impl Default for Subscriptions {
    fn default() -> Self {
        // The exchange takes 100 messages a second from an address, and 10 a second from a
        // connection in the long run.
        let pace = Pace::new(Duration::from_millis(125), 50);
        let (wanted, asked, refused) = Default::default();
        let (queue, in_flight) = Default::default();
        Self { wanted, asked, queue, in_flight, refused, pace, is_dirty: false }
    }
}

impl Subscriptions {
    /// Sets what is wanted.
    pub(super) fn want(&mut self, pairs: impl IntoIterator<Item = Pair>) {
        self.wanted = pairs.into_iter().collect();
        self.is_dirty = true;
    }

    /// Whether there is nothing to ask for.
    pub(super) fn is_idle(&self) -> bool {
        self.wanted.iter().all(|pair| self.refused.contains_key(pair))
    }

    /// Forgets what the connection before this one was asked for.
    pub(super) fn reset(&mut self) {
        self.asked.clear();
        self.queue.clear();
        self.in_flight.clear();
        self.is_dirty = true;
    }

    /// Whether this connection was asked for a product's channel.
    pub(super) fn has_asked(&self, product: &Arc<str>, channel: Channel) -> bool {
        self.asked.contains(&(Arc::clone(product), channel))
    }

    /// Returns the next request, if there is one and it may go now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Request> {
        if self.queue.is_empty() && self.is_dirty {
            self.queue = self.difference();
            self.is_dirty = false;
        }
        if self.queue.is_empty() || !self.pace.take(now) {
            return None;
        }
        let request = self.queue.pop_front()?;
        match request.verb {
            Verb::Subscribe => self.asked.extend(request.pairs()),
            Verb::Unsubscribe => self.forget(&request),
        }
        self.in_flight.push_back((request.clone(), now));
        Some(request)
    }

    /// Asks anew for a product's channels, or for one of them.
    pub(super) fn renew(&mut self, product: &Arc<str>, only: Option<Channel>) {
        let asked = self.asked.iter().filter(|(id, _)| id == product);
        let channels: Vec<_> = asked
            .map(|(_, channel)| *channel)
            .filter(|channel| only.is_none_or(|only| only == *channel))
            .collect();
        if channels.is_empty() {
            return;
        }
        for verb in [Verb::Unsubscribe, Verb::Subscribe] {
            let (product_ids, channels) = (vec![Arc::clone(product)], channels.clone());
            self.queue(Request { verb, product_ids, channels });
        }
    }

    /// Takes the whole set that the exchange says it sends, which answers the oldest request.
    /// Returns what of that request is confirmed.
    pub(super) fn confirm(&mut self, sent: &[Acknowledged<'_>], now: Instant) -> Vec<Pair> {
        let Some((request, _)) = self.in_flight.pop_front() else { return Vec::new() };
        if request.verb == Verb::Unsubscribe {
            return Vec::new();
        }
        let is_sent = |(product, channel): &Pair| {
            sent.iter()
                .filter(|sent| Channel::sent_as(&sent.name.0) == Some(*channel))
                .any(|sent| sent.product_ids.iter().flatten().any(|id| *id.0 == **product))
        };
        let (confirmed, missing): (Vec<Pair>, Vec<Pair>) = request.pairs().partition(is_sent);
        for pair in &missing {
            self.asked.remove(pair);
        }
        if confirmed.is_empty() && missing.len() == 1 {
            self.refuse(missing, "asked for and not sent", now);
        } else {
            for (product, channel) in missing {
                self.queue(Request::subscribe(vec![product], vec![channel]));
            }
        }
        confirmed
    }

    /// Takes an error, which answers the oldest request. Returns whether there was one.
    ///
    /// One bad product fails a whole request, so what is not to blame for sure is asked for again
    /// in smaller requests.
    pub(super) fn fail(&mut self, reason: &str, now: Instant) -> bool {
        let Some((request, _)) = self.in_flight.pop_front() else { return false };
        if request.verb == Verb::Unsubscribe {
            debug!(reason, "unsubscribe refused");
            return true;
        }
        self.forget(&request);
        let Request { product_ids, channels, .. } = request;
        let (named, rest): (Vec<_>, Vec<_>) =
            product_ids.into_iter().partition(|id| names(reason, id));
        if !named.is_empty() {
            for product in named {
                self.refuse_product(&product, reason, now);
            }
            if !rest.is_empty() {
                self.queue(Request::subscribe(rest, channels));
            }
            return true;
        }
        match (rest.as_slice(), channels.as_slice()) {
            ([product], [channel]) => {
                self.refuse(vec![(Arc::clone(product), *channel)], reason, now);
            }
            ([_], _) => {
                for channel in channels {
                    self.queue(Request::subscribe(rest.clone(), vec![channel]));
                }
            }
            _ => {
                for product in rest {
                    self.queue(Request::subscribe(vec![product], channels.clone()));
                }
            }
        }
        true
    }

    /// Leaves a product alone for a while.
    pub(super) fn refuse_product(&mut self, product: &Arc<str>, reason: &str, now: Instant) {
        let pairs = self.wanted.iter().filter(|(id, _)| id == product).cloned().collect();
        self.refuse(pairs, reason, now);
    }

    /// Sees which refusals are over, and which requests will not be answered any more.
    pub(super) fn tick(&mut self, now: Instant) {
        let refused = self.refused.len();
        self.refused.retain(|_, refusal| now < refusal.until);
        self.is_dirty |= self.refused.len() != refused;
        while self.in_flight.front().is_some_and(|(_, sent)| now >= *sent + ANSWER_WITHIN) {
            self.in_flight.pop_front();
            warn!("request without an answer");
        }
    }

    /// The products of which something is refused, with the reason.
    pub(super) fn refusals(&self) -> BTreeMap<&str, &str> {
        let refused = self.refused.iter().filter(|(pair, _)| self.wanted.contains(*pair));
        refused.map(|((product, _), refusal)| (&**product, refusal.reason.as_str())).collect()
    }

    fn refuse(&mut self, pairs: Vec<Pair>, reason: &str, now: Instant) {
        for pair in pairs {
            warn!(product = &*pair.0, channel = ?pair.1, reason, "refused");
            let refusal = Refusal { until: now + REFUSED_FOR, reason: reason.to_owned() };
            self.refused.insert(pair, refusal);
        }
        self.is_dirty = true;
    }

    fn queue(&mut self, request: Request) {
        self.queue.push_back(request);
        // What is wanted may change before it is sent.
        self.is_dirty = true;
    }

    fn forget(&mut self, request: &Request) {
        for pair in request.pairs() {
            self.asked.remove(&pair);
        }
    }

    /// The requests that turn what was asked for into what is wanted.
    fn difference(&self) -> VecDeque<Request> {
        let mut aim: BTreeSet<Pair> =
            self.wanted.iter().filter(|pair| !self.refused.contains_key(*pair)).cloned().collect();
        let heartbeats = aim.iter().map(|(product, _)| (Arc::clone(product), Channel::Heartbeat));
        let heartbeats: Vec<_> =
            heartbeats.filter(|pair| !self.refused.contains_key(pair)).collect();
        aim.extend(heartbeats);
        let more = requests(Verb::Subscribe, aim.difference(&self.asked));
        let less = requests(Verb::Unsubscribe, self.asked.difference(&aim));
        more.into_iter().chain(less).collect()
    }
}

/// Whether a sentence names a product.
fn names(reason: &str, product: &str) -> bool {
    reason.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').any(|word| word == product)
}

/// Puts products that need the same channels in the same requests.
fn requests<'a>(verb: Verb, pairs: impl Iterator<Item = &'a Pair>) -> Vec<Request> {
    let mut channels: BTreeMap<&Arc<str>, Vec<Channel>> = BTreeMap::new();
    for (product, channel) in pairs {
        channels.entry(product).or_default().push(*channel);
    }
    let mut products: BTreeMap<Vec<Channel>, Vec<Arc<str>>> = BTreeMap::new();
    for (product, channels) in channels {
        products.entry(channels).or_default().push(Arc::clone(product));
    }
    let groups = products.iter().flat_map(|(channels, products)| {
        products.chunks(PRODUCTS_PER_REQUEST).map(move |chunk| (chunk, channels))
    });
    groups
        .map(|(chunk, channels)| Request {
            verb,
            product_ids: chunk.to_vec(),
            channels: channels.clone(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::coinbase::message::{Levels, Message};

    fn pairs(text: &str) -> Vec<Pair> {
        let channel = |name| match name {
            "level2" => Channel::Level2,
            name => Channel::sent_as(name).expect("a channel"),
        };
        let pairs = text.split_whitespace().map(|pair| pair.split_once('/').expect("a pair"));
        pairs.map(|(name, product)| (product.into(), channel(name))).collect()
    }

    /// All requests that can go now, as `+product,product:channel,channel`.
    fn sent(subscriptions: &mut Subscriptions, now: Instant) -> Vec<String> {
        let requests = std::iter::from_fn(|| subscriptions.next(now));
        requests
            .map(|request| {
                let sign = if request.verb == Verb::Subscribe { '+' } else { '-' };
                let channels = serde_json::to_string(&request.channels).expect("JSON");
                format!("{sign}{} {channels}", request.product_ids.join(",")).replace('"', "")
            })
            .collect()
    }

    fn confirm(subscriptions: &mut Subscriptions, text: &str, now: Instant) -> usize {
        let channels: Vec<String> = pairs(text)
            .iter()
            .map(|(product, channel)| match channel {
                Channel::Level2 => format!(r#"{{"name":"level2_50","product_ids":["{product}"]}}"#),
                channel => {
                    let name = serde_json::to_string(channel).expect("JSON");
                    format!(r#"{{"name":{name},"product_ids":["{product}"],"account_ids":null}}"#)
                }
            })
            .collect();
        let text = format!(r#"{{"type":"subscriptions","channels":[{}]}}"#, channels.join(","));
        let message = Message::read(&text, &mut Levels::default()).expect("a message");
        subscriptions.confirm(&message.channels, now).len()
    }

    #[test]
    fn what_is_wanted_is_asked_for_and_nothing_twice() {
        let (mut subscriptions, now) = (Subscriptions::default(), Instant::now());
        assert!(subscriptions.is_idle());
        subscriptions.want(pairs("ticker/A-B ticker/C-D matches/E-F level2/E-F"));
        assert!(!subscriptions.is_idle());
        let expected = ["+E-F [heartbeat,level2_batch,matches]", "+A-B,C-D [heartbeat,ticker]"];
        assert_eq!(sent(&mut subscriptions, now), expected);
        assert_eq!(sent(&mut subscriptions, now), [""; 0]);
        subscriptions.want(pairs("ticker/A-B ticker/E-F matches/E-F"));
        let expected = ["+E-F [ticker]", "-C-D [heartbeat,ticker]", "-E-F [level2_batch]"];
        assert_eq!(sent(&mut subscriptions, now), expected);
        subscriptions.reset();
        let expected = ["+E-F [heartbeat,matches,ticker]", "+A-B [heartbeat,ticker]"];
        assert_eq!(sent(&mut subscriptions, now), expected, "a new connection");
    }

    #[test]
    fn requests_are_small_and_paced() {
        let (mut subscriptions, now) = (Subscriptions::default(), Instant::now());
        let many = (0..120).map(|n| (format!("A{n}-B").into(), Channel::Ticker));
        subscriptions.want(many);
        let counts: Vec<usize> = std::iter::from_fn(|| subscriptions.next(now))
            .map(|request| request.product_ids.len())
            .collect();
        assert_eq!(counts, [50, 50, 20]);
        for _ in 0..200 {
            subscriptions.queue(Request::subscribe(vec!["A-B".into()], vec![Channel::Ticker]));
        }
        assert_eq!(sent(&mut subscriptions, now).len(), 47);
        assert_eq!(sent(&mut subscriptions, now + Duration::from_secs(1)).len(), 8);
    }

    #[test]
    fn a_named_product_is_refused_and_the_others_are_asked_for_again() {
        let (mut subscriptions, now) = (Subscriptions::default(), Instant::now());
        subscriptions.want(pairs("ticker/A-B ticker/C-D ticker/E-F matches/C-D"));
        assert_eq!(sent(&mut subscriptions, now).len(), 2);
        assert_eq!(confirm(&mut subscriptions, "heartbeat/C-D matches/C-D ticker/C-D", now), 3);
        assert!(subscriptions.fail("E-F is not a valid product", now));
        assert_eq!(sent(&mut subscriptions, now), ["+A-B [heartbeat,ticker]"]);
        assert_eq!(subscriptions.refusals(), [("E-F", "E-F is not a valid product")].into());
        let later = now + REFUSED_FOR;
        subscriptions.tick(later - Duration::from_secs(1));
        assert_eq!(sent(&mut subscriptions, later), [""; 0]);
        subscriptions.tick(later);
        assert_eq!(sent(&mut subscriptions, later), ["+E-F [heartbeat,ticker]"]);
    }

    #[test]
    fn without_a_name_blame_is_found_step_by_step() {
        let (mut subscriptions, now) = (Subscriptions::default(), Instant::now());
        subscriptions.want(pairs("ticker/A-B level2/A-B ticker/C-D level2/C-D"));
        assert_eq!(sent(&mut subscriptions, now).len(), 1);
        assert!(subscriptions.fail("no", now));
        let expected = ["A-B", "C-D"].map(|id| format!("+{id} [heartbeat,level2_batch,ticker]"));
        assert_eq!(sent(&mut subscriptions, now), expected);
        assert!(subscriptions.fail("no", now));
        let all = "heartbeat/C-D level2/C-D ticker/C-D";
        assert_eq!(confirm(&mut subscriptions, all, now), 3);
        let expected = ["+A-B [heartbeat]", "+A-B [level2_batch]", "+A-B [ticker]"];
        assert_eq!(sent(&mut subscriptions, now), expected);
        assert_eq!(confirm(&mut subscriptions, "heartbeat/A-B", now), 1);
        assert!(subscriptions.fail("no", now));
        assert_eq!(confirm(&mut subscriptions, "ticker/A-B", now), 1);
        assert_eq!(subscriptions.refusals(), [("A-B", "no")].into());
        assert_eq!(sent(&mut subscriptions, now), [""; 0], "the rest is left as it is");
        assert!(!subscriptions.is_idle());
        assert!(!subscriptions.fail("no", now), "nothing was asked for");
    }

    #[test]
    fn what_is_not_confirmed_is_asked_for_once_more_and_then_refused() {
        let (mut subscriptions, now) = (Subscriptions::default(), Instant::now());
        subscriptions.want(pairs("ticker/A-B ticker/C-D"));
        sent(&mut subscriptions, now);
        let some = "heartbeat/A-B ticker/A-B heartbeat/C-D";
        assert_eq!(confirm(&mut subscriptions, some, now), 3);
        assert_eq!(sent(&mut subscriptions, now), ["+C-D [ticker]"]);
        assert_eq!(confirm(&mut subscriptions, some, now), 0);
        assert_eq!(subscriptions.refusals().len(), 1);
        assert_eq!(sent(&mut subscriptions, now), ["-C-D [heartbeat]"], "of no use alone");
    }

    #[test]
    fn a_renewal_stops_and_starts() {
        let (mut subscriptions, now) = (Subscriptions::default(), Instant::now());
        subscriptions.want(pairs("ticker/A-B level2/A-B"));
        sent(&mut subscriptions, now);
        subscriptions.renew(&"A-B".into(), Some(Channel::Level2));
        subscriptions.renew(&"A-B".into(), Some(Channel::Matches));
        subscriptions.want(pairs("ticker/A-B"));
        let expected = ["-A-B [level2_batch]", "+A-B [level2_batch]", "-A-B [level2_batch]"];
        assert_eq!(sent(&mut subscriptions, now), expected);
    }
}
