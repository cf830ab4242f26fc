//! An emulated API Gateway: a WebSocket API, its management API (`@connections`), and an HTTP API.
//!
//! The gateway invokes functions with the same events as API Gateway. It knows routes and the names
//! of functions, and nothing about what the functions do.

mod addresses;
mod authorizer;
mod clock;
mod config;
mod fault_rates;
mod frames;
mod functions;
#[cfg(test)]
mod fuzz;
mod gateway;
mod http_api;
mod http_server;
pub mod iam;
mod ids;
mod invocation;
mod limits;
mod management;
mod post_error;
mod rate;
mod sockets;
mod state;
pub mod template;
#[cfg(test)]
mod tests;
mod web_socket;

pub use self::{
    authorizer::{Authorizer, IdentitySource},
    config::{ApiIdentity, Callbacks, Config, Hosts},
    fault_rates::FaultRates,
    functions::{FunctionError, Functions},
    gateway::Gateway,
    http_api::{HttpRoute, HttpRoutes, RouteKey, RouteKeyError},
    limits::GatewayLimits,
    post_error::PostError,
    rate::Rate,
    sockets::Sockets,
    web_socket::{Route, Routes, Selection, SelectionError},
};
