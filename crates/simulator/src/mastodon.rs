//! A Mastodon server on a loopback port: streaming and REST side by side.

mod instance;
mod query;
mod rest;
mod router;
mod server;
mod streams;
mod subscriber;

pub use self::server::MastodonServer;
pub(super) use self::{instance::Mastodon, router::router};
