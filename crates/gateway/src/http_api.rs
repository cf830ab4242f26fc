//! The HTTP API: its routes, and the handler that turns requests into events.

pub(crate) mod handler;
pub(crate) mod routes;

pub use self::routes::{HttpRoute, HttpRoutes, RouteKey, RouteKeyError};
