//! A Coinbase Exchange on a loopback port: the WebSocket feed on `/`, and the REST interface.

mod channel;
mod messages;
mod rest;
mod router;
mod server;
mod subscriber;
mod trading;

pub use self::server::ExchangeServer;
pub(super) use self::{router::router, trading::Exchange};
