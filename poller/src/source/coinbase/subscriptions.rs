//! The subscriptions at the exchange: what to request, what is confirmed and what is rejected.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use domain::pace::TokenBucket;
use serde::Serialize;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::message::Acknowledged;

/// Most products in one request, which limits its size.
const PRODUCTS_PER_REQUEST: usize = 50;

/// Time after which a rejected subscription is requested again.
const REJECTED_FOR: Duration = Duration::from_mins(10);

/// Longest time that the exchange takes to answer a request.
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
    /// Returns the channel that the exchange calls `name` in a confirmation.
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

/// A request to the exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct SubscriptionRequest {
    #[serde(rename = "type")]
    pub(super) verb: Verb,
    pub(super) product_ids: Vec<Arc<str>>,
    pub(super) channels: Vec<Channel>,
}

/// The type of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verb {
    Subscribe,
    Unsubscribe,
}

impl SubscriptionRequest {
    fn subscribe(product_ids: Vec<Arc<str>>, channels: Vec<Channel>) -> Self {
        Self { verb: Verb::Subscribe, product_ids, channels }
    }

    /// Returns every channel of every product in it.
    pub(super) fn pairs(&self) -> impl Iterator<Item = Pair> + '_ {
        let products = self.product_ids.iter();
        products.flat_map(|id| self.channels.iter().map(|channel| (Arc::clone(id), *channel)))
    }
}

/// Why a subscription was rejected, and when it can be requested again.
#[derive(Debug)]
struct Rejection {
    until: Instant,
    reason: String,
}

/// The subscriptions of one connection, and the rejections of all connections.
#[derive(Debug)]
pub(super) struct Subscriptions {
    /// The wanted channels, without the heartbeats that they imply.
    wanted: BTreeSet<Pair>,
    /// The channels that were requested on this connection.
    asked: BTreeSet<Pair>,
    /// Requests to send before others are derived from the wanted channels.
    queue: VecDeque<SubscriptionRequest>,
    /// Requests that are not answered yet. The exchange answers in the order of requests.
    in_flight: VecDeque<(SubscriptionRequest, Instant)>,
    rejected: BTreeMap<Pair, Rejection>,
    pace: TokenBucket,
    /// Whether the requested channels may differ from the wanted ones.
    is_dirty: bool,
}

impl Default for Subscriptions {
    fn default() -> Self {
        // The exchange allows 100 messages a second from an address, and on average 10 a second on
        // a connection.
        let pace = TokenBucket::every(Duration::from_millis(125), 50);
        Self {
            wanted: BTreeSet::new(),
            asked: BTreeSet::new(),
            queue: VecDeque::new(),
            in_flight: VecDeque::new(),
            rejected: BTreeMap::new(),
            pace,
            is_dirty: false,
        }
    }
}

impl Subscriptions {
    /// Sets the wanted channels.
    pub(super) fn want(&mut self, pairs: impl IntoIterator<Item = Pair>) {
        self.wanted = pairs.into_iter().collect();
        self.is_dirty = true;
    }

    /// Returns whether there is nothing to request.
    pub(super) fn is_idle(&self) -> bool {
        self.wanted.iter().all(|pair| self.rejected.contains_key(pair))
    }

    /// Drops the requests of the previous connection.
    pub(super) fn reset(&mut self) {
        self.asked.clear();
        self.queue.clear();
        self.in_flight.clear();
        self.is_dirty = true;
    }

    /// Returns whether a product's channel was requested on this connection.
    pub(super) fn has_asked(&self, product: &Arc<str>, channel: Channel) -> bool {
        self.asked.contains(&(Arc::clone(product), channel))
    }

    /// Returns the next request, if there is one and the rate limit allows it.
    pub(super) fn next(&mut self, now: Instant) -> Option<SubscriptionRequest> {
        if self.queue.is_empty() && self.is_dirty {
            self.queue = self.difference();
            self.is_dirty = false;
        }
        if self.queue.is_empty() || self.pace.take(now.into_std()).is_err() {
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

    /// Requests all channels of a product again, or only one of them.
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
            self.queue(SubscriptionRequest {
                verb,
                product_ids: vec![Arc::clone(product)],
                channels: channels.clone(),
            });
        }
    }

    /// Handles a confirmation, which lists all channels and answers the oldest request. Returns the
    /// channels of that request that are confirmed.
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
            self.reject(missing, "requested but not confirmed", now);
        } else {
            for (product, channel) in missing {
                self.queue(SubscriptionRequest::subscribe(vec![product], vec![channel]));
            }
        }
        confirmed
    }

    /// Handles an error, which answers the oldest request. Returns whether there was one.
    ///
    /// One invalid product fails a whole request, so all parts that may be valid are requested again
    /// in smaller requests.
    pub(super) fn fail(&mut self, reason: &str, now: Instant) -> bool {
        let Some((request, _)) = self.in_flight.pop_front() else { return false };
        if request.verb == Verb::Unsubscribe {
            debug!(reason, "the exchange rejected an unsubscribe");
            return true;
        }
        self.forget(&request);
        let SubscriptionRequest { product_ids, channels, .. } = request;
        let (named, rest): (Vec<_>, Vec<_>) =
            product_ids.into_iter().partition(|id| names(reason, id));
        if !named.is_empty() {
            for product in named {
                self.reject_product(&product, reason, now);
            }
            if !rest.is_empty() {
                self.queue(SubscriptionRequest::subscribe(rest, channels));
            }
            return true;
        }
        match (rest.as_slice(), channels.as_slice()) {
            ([product], [channel]) => {
                self.reject(vec![(Arc::clone(product), *channel)], reason, now);
            }
            ([_], _) => {
                for channel in channels {
                    self.queue(SubscriptionRequest::subscribe(rest.clone(), vec![channel]));
                }
            }
            _ => {
                for product in rest {
                    self.queue(SubscriptionRequest::subscribe(vec![product], channels.clone()));
                }
            }
        }
        true
    }

    /// Stops requesting a product for a while.
    pub(super) fn reject_product(&mut self, product: &Arc<str>, reason: &str, now: Instant) {
        let pairs = self.wanted.iter().filter(|(id, _)| id == product).cloned().collect();
        self.reject(pairs, reason, now);
    }

    /// Removes rejections that have ended, and requests that were not answered in time.
    pub(super) fn tick(&mut self, now: Instant) {
        let before = self.rejected.len();
        self.rejected.retain(|_, rejection| now < rejection.until);
        self.is_dirty |= self.rejected.len() != before;
        while self.in_flight.front().is_some_and(|(_, sent)| now >= *sent + ANSWER_WITHIN) {
            self.in_flight.pop_front();
            warn!("the exchange did not answer a request");
        }
    }

    /// Returns the products with a rejected channel, and the reason.
    pub(super) fn rejections(&self) -> BTreeMap<&str, &str> {
        let rejected = self.rejected.iter().filter(|(pair, _)| self.wanted.contains(*pair));
        rejected.map(|((product, _), rejection)| (&**product, rejection.reason.as_str())).collect()
    }

    fn reject(&mut self, pairs: Vec<Pair>, reason: &str, now: Instant) {
        for pair in pairs {
            warn!(product = &*pair.0, channel = ?pair.1, reason, "the exchange rejected a subscription; requesting it again later");
            let rejection = Rejection { until: now + REJECTED_FOR, reason: reason.to_owned() };
            self.rejected.insert(pair, rejection);
        }
        self.is_dirty = true;
    }

    fn queue(&mut self, request: SubscriptionRequest) {
        self.queue.push_back(request);
        // The wanted channels may change before it is sent.
        self.is_dirty = true;
    }

    fn forget(&mut self, request: &SubscriptionRequest) {
        for pair in request.pairs() {
            self.asked.remove(&pair);
        }
    }

    /// Returns the requests that turn the requested channels into the wanted ones.
    fn difference(&self) -> VecDeque<SubscriptionRequest> {
        let mut aim: BTreeSet<Pair> =
            self.wanted.iter().filter(|pair| !self.rejected.contains_key(*pair)).cloned().collect();
        let heartbeats: Vec<_> = aim
            .iter()
            .map(|(product, _)| (Arc::clone(product), Channel::Heartbeat))
            .filter(|pair| !self.rejected.contains_key(pair))
            .collect();
        aim.extend(heartbeats);
        let more = requests(Verb::Subscribe, aim.difference(&self.asked));
        let less = requests(Verb::Unsubscribe, self.asked.difference(&aim));
        more.into_iter().chain(less).collect()
    }
}

/// Returns whether a sentence names a product.
fn names(reason: &str, product: &str) -> bool {
    reason.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').any(|word| word == product)
}

/// Groups products that need the same channels into the same requests.
fn requests<'a>(verb: Verb, pairs: impl Iterator<Item = &'a Pair>) -> Vec<SubscriptionRequest> {
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
        .map(|(chunk, channels)| SubscriptionRequest {
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

    /// All requests that can be sent, as `+product,product [channel,channel]`.
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
    fn wanted_channels_are_requested_once() {
        let mut subscriptions = Subscriptions::default();
        let now = Instant::now();
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
    fn requests_are_small_and_rate_limited() {
        let mut subscriptions = Subscriptions::default();
        let now = Instant::now();
        let many = (0..120).map(|n| (format!("A{n}-B").into(), Channel::Ticker));
        subscriptions.want(many);
        let counts: Vec<usize> = std::iter::from_fn(|| subscriptions.next(now))
            .map(|request| request.product_ids.len())
            .collect();
        assert_eq!(counts, [50, 50, 20]);
        for _ in 0..200 {
            subscriptions
                .queue(SubscriptionRequest::subscribe(vec!["A-B".into()], vec![Channel::Ticker]));
        }
        assert_eq!(sent(&mut subscriptions, now).len(), 47);
        assert_eq!(sent(&mut subscriptions, now + Duration::from_secs(1)).len(), 8);
    }

    #[test]
    fn a_named_product_is_rejected_and_the_others_are_requested_again() {
        let mut subscriptions = Subscriptions::default();
        let now = Instant::now();
        subscriptions.want(pairs("ticker/A-B ticker/C-D ticker/E-F matches/C-D"));
        assert_eq!(sent(&mut subscriptions, now).len(), 2);
        assert_eq!(confirm(&mut subscriptions, "heartbeat/C-D matches/C-D ticker/C-D", now), 3);
        assert!(subscriptions.fail("E-F is not a valid product", now));
        assert_eq!(sent(&mut subscriptions, now), ["+A-B [heartbeat,ticker]"]);
        assert_eq!(subscriptions.rejections(), [("E-F", "E-F is not a valid product")].into());
        let later = now + REJECTED_FOR;
        subscriptions.tick(later - Duration::from_secs(1));
        assert_eq!(sent(&mut subscriptions, later), [""; 0]);
        subscriptions.tick(later);
        assert_eq!(sent(&mut subscriptions, later), ["+E-F [heartbeat,ticker]"]);
    }

    #[test]
    fn without_a_name_the_invalid_channel_is_found_step_by_step() {
        let mut subscriptions = Subscriptions::default();
        let now = Instant::now();
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
        assert_eq!(subscriptions.rejections(), [("A-B", "no")].into());
        assert_eq!(sent(&mut subscriptions, now), [""; 0], "the others are unchanged");
        assert!(!subscriptions.is_idle());
        assert!(!subscriptions.fail("no", now), "nothing was requested");
    }

    #[test]
    fn an_unconfirmed_channel_is_requested_once_more_and_then_rejected() {
        let mut subscriptions = Subscriptions::default();
        let now = Instant::now();
        subscriptions.want(pairs("ticker/A-B ticker/C-D"));
        sent(&mut subscriptions, now);
        let some = "heartbeat/A-B ticker/A-B heartbeat/C-D";
        assert_eq!(confirm(&mut subscriptions, some, now), 3);
        assert_eq!(sent(&mut subscriptions, now), ["+C-D [ticker]"]);
        assert_eq!(confirm(&mut subscriptions, some, now), 0);
        assert_eq!(subscriptions.rejections().len(), 1);
        assert_eq!(
            sent(&mut subscriptions, now),
            ["-C-D [heartbeat]"],
            "a heartbeat alone is not needed"
        );
    }

    #[test]
    fn a_renewal_unsubscribes_and_subscribes() {
        let mut subscriptions = Subscriptions::default();
        let now = Instant::now();
        subscriptions.want(pairs("ticker/A-B level2/A-B"));
        sent(&mut subscriptions, now);
        subscriptions.renew(&"A-B".into(), Some(Channel::Level2));
        subscriptions.renew(&"A-B".into(), Some(Channel::Matches));
        subscriptions.want(pairs("ticker/A-B"));
        let expected = ["-A-B [level2_batch]", "+A-B [level2_batch]", "-A-B [level2_batch]"];
        assert_eq!(sent(&mut subscriptions, now), expected);
    }
}
