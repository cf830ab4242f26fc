//! The configuration of a gateway.

use std::net::{IpAddr, SocketAddr};

use http::uri::Authority;
use ipnet::IpNet;
use tokio::sync::watch;

use crate::{
    authorizer::Authorizer,
    http_api::routes::HttpRoutes,
    web_socket::routes::{Routes, Selection},
};

/// What a gateway serves, and at which address.
#[derive(Clone, Debug)]
pub struct Config {
    /// The listen address. Port 0 takes a free port.
    pub listen: SocketAddr,
    /// The identity of the API in events and policies.
    pub api: ApiIdentity,
    /// The function for each route of the WebSocket API. An event without a route invokes no function:
    /// without `$connect`, every handshake is accepted.
    pub routes: Routes,
    /// The expression that selects the route of a message.
    pub selection: Selection,
    /// The authorizer of handshakes. `None` admits every client to `$connect`.
    pub authorizer: Option<Authorizer>,
    /// The routes of the HTTP API. A path without a route gets 404.
    pub http: HttpRoutes,
    /// The gateway's host in events, if it is not the host that clients use. Behind a load balancer, this
    /// is the address at which the gateway receives calls of the management API.
    pub domain: Option<String>,
    /// The networks of trusted proxies. The last entry of `X-Forwarded-For` names the source of a request that
    /// comes from there.
    pub proxies: Vec<IpNet>,
    /// The hosts that requests may name.
    pub hosts: Hosts,
    /// Who may call the management API.
    pub callbacks: Callbacks,
    /// Whether the functions behind the gateway are ready. Until then, `/healthz` returns 503.
    pub ready: watch::Receiver<bool>,
}

impl Config {
    /// Creates the configuration of a gateway at `listen` that is ready, accepts every client, and
    /// has no routes.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            api: ApiIdentity::default(),
            routes: Routes::default(),
            selection: Selection::default(),
            authorizer: None,
            http: HttpRoutes::default(),
            domain: None,
            proxies: Vec::new(),
            hosts: Hosts::default(),
            callbacks: Callbacks::default(),
            // A receiver keeps the last value after its sender is dropped.
            ready: watch::channel(true).1,
        }
    }

    /// Whether an address is that of a trusted proxy.
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        self.proxies.iter().any(|network| network.contains(&address))
    }
}

/// The identity of an API on AWS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiIdentity {
    /// The API's id.
    pub id: String,
    /// The stage of the WebSocket API, which is also its path: clients connect to `/{stage}`.
    pub stage: String,
    /// The region in ARNs.
    pub region: String,
    /// The account in ARNs.
    pub account: String,
}

impl Default for ApiIdentity {
    fn default() -> Self {
        Self {
            id: "local".to_owned(),
            stage: "live".to_owned(),
            region: "us-east-1".to_owned(),
            account: "123456789012".to_owned(),
        }
    }
}

impl ApiIdentity {
    /// Returns the `methodArn` of a handshake.
    pub(crate) fn connect_arn(&self) -> String {
        let Self { id, stage, region, account } = self;
        format!("arn:aws:execute-api:{region}:{account}:{id}/{stage}/$connect")
    }

    /// Returns the `routeArn` of an HTTP request.
    pub(crate) fn http_arn(&self, method: &str, path: &str) -> String {
        let Self { id, region, account, .. } = self;
        format!("arn:aws:execute-api:{region}:{account}:{id}/$default/{method}{path}")
    }
}

/// The hosts that requests may name, beside addresses, `localhost` and the gateway's own domain.
///
/// A page of any site can make its own name lead to this machine (DNS rebinding). A browser then takes the
/// gateway for a server of that site, but the `Host` header still has the name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    names: Vec<String>,
    any: bool,
}

impl Hosts {
    /// Accepts these names, with any port. `*` stands for all names.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let names: Vec<String> = names.into_iter().collect();
        Self { any: names.iter().any(|name| name == "*"), names }
    }

    /// Returns whether a request may name this host.
    pub(crate) fn admit(&self, authority: &Authority) -> bool {
        let host = authority.host();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        self.any
            || address.parse::<IpAddr>().is_ok()
            || host.eq_ignore_ascii_case("localhost")
            || self.names.iter().any(|name| name.eq_ignore_ascii_case(host))
    }
}

/// Who may call the management API. On AWS, IAM decides and every call is signed. This gateway
/// requires a signature and does not verify it, so it decides by the source address of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Callbacks {
    /// Nobody: every call gets 403. Functions in the same process post through
    /// [`Sockets`](crate::Sockets).
    Off,
    /// Callers on this machine, unless a proxy forwards their call.
    #[default]
    Loopback,
    /// Every caller that reaches the listen address.
    Everyone,
}
