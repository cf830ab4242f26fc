//! A Mastodon server on a loopback port: the streaming API and the REST interface.

mod instance;
mod query;
mod rest;
mod router;
mod server;
mod streams;
mod subscriber;

pub use self::server::MastodonServer;
pub(super) use self::{instance::Mastodon, router::router};
