//! One client of the exchange's WebSocket feed: its subscriptions and their messages.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::{
    channel::Channel,
    messages,
    trading::{Event, Exchange, Published},
};
use crate::{
    faults::{Active, Fault},
    mangler::Frame,
    market::{PRODUCTS, Status},
    session::Conversation,
};

/// A channel of a product.
pub(super) type Subscription = (Channel, usize);

#[derive(Deserialize)]
struct Command {
    r#type: String,
    #[serde(default)]
    product_ids: Vec<String>,
    #[serde(default)]
    channels: Vec<ChannelRequest>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ChannelRequest {
    Name(String),
    Object {
        name: String,
        #[serde(default)]
        product_ids: Vec<String>,
    },
}

/// A client's subscriptions, each with the number of the event after which it starts.
pub(super) struct Subscriber {
    exchange: Arc<Exchange>,
    subscriptions: BTreeMap<Subscription, u64>,
    generation: u64,
    settled: bool,
}

impl Subscriber {
    pub(super) fn new(exchange: Arc<Exchange>) -> Self {
        let generation = exchange.host.stats.generation();
        Self { exchange, subscriptions: BTreeMap::new(), generation, settled: false }
    }

    fn subscribe(&mut self, command: &Command) -> Result<Vec<String>, String> {
        let mut added = Vec::new();
        for (channel, products) in requested(command)? {
            if products.is_empty() {
                return Err("No product_ids provided".to_owned());
            }
            let requested = products.into_iter().map(|product| (channel, product));
            added.extend(requested.filter(|it| !self.subscriptions.contains_key(it)));
        }
        added.sort_by_key(|(channel, product)| (*product, *channel));
        added.dedup();
        self.settled = true;

        // One lock, so that no event is lost between the first messages and the stream.
        let exchange = Arc::clone(&self.exchange);
        let state = exchange.state();
        let mut greetings = Vec::new();
        for (channel, product) in added {
            self.subscriptions.insert((channel, product), state.published);
            exchange.host.stats.subscribed(self.generation, &label((channel, product)));
            let market = &state.markets.all[product];
            match channel {
                Channel::Level2 => match &state.books {
                    None => greetings.push(messages::snapshot(market, Timestamp::now())),
                    Some(scripted) => greetings.extend(scripted.get(&product).cloned()),
                },
                Channel::Matches => greetings.extend(
                    market
                        .trades
                        .back()
                        .map(|trade| messages::matched("last_match", market.product, trade)),
                ),
                Channel::Ticker if market.trades.is_empty() && state.is_scripted() => {}
                Channel::Ticker => greetings.push(messages::ticker(market)),
                Channel::Heartbeat => {}
            }
        }
        drop(state);
        greetings.insert(0, self.acknowledgment());
        Ok(greetings)
    }

    fn unsubscribe(&mut self, command: &Command) -> Result<Vec<String>, String> {
        for (channel, products) in requested(command)? {
            let dropped = |(of, product): &Subscription| {
                *of == channel && (products.is_empty() || products.contains(product))
            };
            let gone: Vec<_> = self.subscriptions.keys().copied().filter(dropped).collect();
            for subscription in gone {
                self.subscriptions.remove(&subscription);
                self.exchange.host.stats.unsubscribed(self.generation, &label(subscription));
            }
        }
        Ok(vec![self.acknowledgment()])
    }

    /// Returns the message that lists all subscriptions.
    fn acknowledgment(&self) -> String {
        let mut channels: BTreeMap<Channel, Vec<&str>> = BTreeMap::new();
        for (channel, product) in self.subscriptions.keys() {
            let products = channels.entry(*channel).or_default();
            products.push(PRODUCTS[*product].id);
        }
        let channels: Vec<_> = channels
            .into_iter()
            .map(|(channel, ids)| {
                json!({"name": channel.name(), "product_ids": ids, "account_ids": null})
            })
            .collect();
        json!({"type": "subscriptions", "channels": channels}).to_string()
    }
}

impl Conversation for Subscriber {
    type Event = Event;

    const GARBAGE: &'static [&'static str] = &[
        "",
        "null",
        "[]",
        "not JSON at all",
        r#"{"product_id":"BTC-USD"}"#,
        r#"{"type":42,"product_id":["BTC-USD"]}"#,
        r#"{"type":"brand_new_type","product_id":"BTC-USD","sequence":1}"#,
        r#"{"type":"match","trade_id":"eleven","price":63510.15,"size":null,"side":"up","product_id":"BTC-USD","sequence":-1,"time":"yesterday"}"#,
        r#"{"type":"ticker","product_id":"BTC-USD","price":{},"sequence":1.5}"#,
        r#"{"type":"l2update","product_id":"BTC-USD","changes":[["buy"],["sideways","1e4","-1"],7]}"#,
        r#"{"type":"heartbeat","last_trade_id":null,"product_id":"BTC-USD","time":0}"#,
        r#"{"type":"error","message":"Authentication Failed","reason":"{\"message\":\"Internal Server Error.\""}"#,
    ];
    const TOO_SLOW: Option<&'static str> = Some(
        r#"{"type":"error","message":"ErrSlowConsume","reason":"client has too many backed up messages"}"#,
    );
    const NO_BINARY: Option<&'static str> = None;

    fn receive(&mut self, text: &str) -> Vec<String> {
        self.exchange.host.record(text);
        let Ok(command) = serde_json::from_str::<Command>(text) else {
            return vec![messages::error("Malformed JSON", None)];
        };
        let (message, responses) = match command.r#type.as_str() {
            "subscribe" => ("Failed to subscribe", self.subscribe(&command)),
            "unsubscribe" => ("Failed to unsubscribe", self.unsubscribe(&command)),
            _ => {
                let message = "Type has to be either subscribe or unsubscribe";
                return vec![messages::error(message, None)];
            }
        };
        responses.unwrap_or_else(|reason| vec![messages::error(message, Some(&reason))])
    }

    fn deliver(&mut self, event: &Event, faults: Active) -> Vec<Frame> {
        let published = match event {
            Event::Sent(message) => return vec![Frame::fixed(message.clone())],
            Event::Published(published) => published,
        };
        let Published { number, channel, product, trade, text } = published;
        let after = self.subscriptions.get(&(*channel, *product));
        if after.is_none_or(|after| number <= after) {
            return Vec::new();
        }
        let is_skipped = trade.is_some_and(|id| id % 4 == 0);
        if is_skipped && faults.has(Fault::SkipTrades) {
            return Vec::new();
        }
        let message = Message::Text(text.clone());
        let is_movable = *channel != Channel::Level2;
        vec![if is_movable { Frame::movable(message) } else { Frame::fixed(message) }]
    }

    fn is_settled(&self) -> bool {
        self.settled
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        for subscription in self.subscriptions.keys() {
            self.exchange.host.stats.unsubscribed(self.generation, &label(*subscription));
        }
    }
}

/// Returns the channels of a command with their products, or why the command is rejected.
fn requested(command: &Command) -> Result<Vec<(Channel, Vec<usize>)>, String> {
    if command.channels.is_empty() {
        return Err("No channels provided".to_owned());
    }
    let requests = command.channels.iter().map(|request| {
        let (name, own) = match request {
            ChannelRequest::Name(name) => (name, &[][..]),
            ChannelRequest::Object { name, product_ids } => (name, product_ids.as_slice()),
        };
        let ids = command.product_ids.iter().chain(own);
        let products: Result<_, String> = ids.map(|id| product(id)).collect();
        Ok((Channel::parse(name)?, products?))
    });
    requests.collect()
}

pub(super) fn product(id: &str) -> Result<usize, String> {
    PRODUCTS
        .iter()
        .position(|product| product.id == id && product.status != Status::Delisted)
        .ok_or_else(|| format!("{id} is not a valid product"))
}

fn label((channel, product): Subscription) -> String {
    format!("{}/{}", channel.name(), PRODUCTS[product].id)
}
