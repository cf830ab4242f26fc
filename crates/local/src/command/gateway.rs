//! `headwater gateway`: the emulated API Gateway alone, in front of functions that run elsewhere.

use std::{num::NonZero, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use aws::clients::Clients;
use gateway::{
    Authorizer, Callbacks, Config, Gateway, GatewayLimits, HttpRoute, HttpRoutes, Route, RouteKey,
    Routes, Selection, Sockets,
    template::{self, FunctionNames},
};
use ipnet::IpNet;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use url::Url;

use super::{hosts::Hosts, listen::Listen};
use crate::{
    adapters::LambdaFunctions,
    in_process::{AUTHORIZE, CONNECTION, REST},
};

/// The longest wait for a function; longer than API Gateway waits for any function.
const INVOKE_TIMEOUT: Duration = Duration::from_secs(35);

/// Run the emulated API Gateway: a WebSocket API and an HTTP API in front of functions that run
/// elsewhere.
///
/// Works for any application, not only for Headwater: take the routes from a template
/// (`--template`), or name each one (`--route`, `--http`).
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    #[expect(missing_docs, reason = "a doc comment would replace the help text of the command")]
    #[command(flatten)]
    pub listen: Listen,

    #[expect(missing_docs, reason = "as above")]
    #[command(flatten)]
    pub hosts: Hosts,

    /// Invoke the functions at this address: `http://127.0.0.1:9000` for `cargo lambda watch`,
    /// `http://127.0.0.1:3001` for `sam local start-lambda`, or any other server with Lambda's
    /// Invoke API.
    #[arg(long, env = "HEADWATER_INVOKE_URL", value_name = "URL")]
    pub invoke_url: Url,

    /// Take the routes, authorizers, stage and function names from this SAM or CloudFormation
    /// template. Without `--template`, `--route` and `--http`, Headwater's own are used.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["route", "http"])]
    pub template: Option<PathBuf>,

    /// Invoke a function of the template by this kind of name.
    #[arg(long, value_enum, default_value_t, requires = "template")]
    pub names: FunctionNames,

    /// Add a route of the WebSocket API, such as `$connect=my-function`. With a `+` before the function,
    /// its response is sent to the client. Can be repeated.
    #[arg(long, value_name = "KEY=FUNCTION", value_parser = parse_route)]
    pub route: Vec<(String, Route)>,

    /// Select the route of a message with this expression.
    #[arg(
        long,
        value_name = "EXPRESSION",
        default_value = "$request.body.action",
        conflicts_with = "template"
    )]
    pub selection: String,

    /// Authorize handshakes with this function. By default, all are accepted.
    #[arg(long, value_name = "FUNCTION", conflicts_with = "template")]
    pub authorizer: Option<String>,

    /// Add a route of the HTTP API, such as `GET /items/{id}=my-function` or `$default=my-function`.
    /// Can be repeated.
    #[arg(long, value_name = "KEY=FUNCTION", value_parser = parse_http)]
    pub http: Vec<(RouteKey, String)>,

    /// Authorize requests to the HTTP API with this function. By default, all are accepted.
    #[arg(long, value_name = "FUNCTION", conflicts_with = "template")]
    pub http_authorizer: Option<String>,

    /// Serve the WebSocket API as this stage, at the path of the same name. The default is the stage
    /// of the template, or `live`.
    #[arg(long)]
    pub stage: Option<String>,

    /// Use this host as the domain name in events. Behind a load balancer, it must be the address of this
    /// gateway. The default is the host that the client requested.
    #[arg(long, value_name = "HOST:PORT")]
    pub domain: Option<String>,

    /// Accept calls of the management API (`@connections`) from these callers. AWS requires signed
    /// calls; this gateway requires a signature and does not check it.
    #[arg(long, value_enum, default_value_t)]
    pub callbacks: Callbacks,

    /// Enforce the default quotas of an AWS account as well: 10,000 requests and 500 handshakes per
    /// second.
    #[arg(long)]
    pub quotas: bool,

    /// Trust the proxies in these networks: the last entry of `X-Forwarded-For` names the client.
    #[arg(
        long,
        env = "HEADWATER_TRUSTED_PROXIES",
        value_name = "NETWORKS",
        value_delimiter = ',',
        default_value = "127.0.0.0/8,::1/128"
    )]
    pub trusted_proxies: Vec<IpNet>,

    /// Invoke at most this many functions at the same time for the clients of one address. Further messages,
    /// requests and handshakes wait. If only a few environments run the functions, as with
    /// `cargo lambda watch --concurrency 4`, use half as many, so that one address cannot take all of them. By
    /// default there is no limit.
    #[arg(long, value_name = "COUNT", conflicts_with = "unguarded")]
    pub address_invocations: Option<NonZero<usize>>,

    /// Do not limit what one client, or one address, may send and open. API Gateway has no such limits; it
    /// bills each message.
    #[arg(long)]
    pub unguarded: bool,
}

/// Serves until `shutdown`.
///
/// # Errors
///
/// When the address cannot be bound, or the template cannot be used.
pub async fn run(options: Options, shutdown: CancellationToken) -> anyhow::Result<()> {
    ensure!(
        matches!(options.invoke_url.scheme(), "http" | "https") && options.invoke_url.has_host(),
        "--invoke-url is {}: it must be an http or https URL",
        options.invoke_url
    );
    let config = config(&options)?;
    let clients = Clients::of_stand_in(options.invoke_url.as_str().trim_end_matches('/')).await;
    let functions = Arc::new(LambdaFunctions(clients.lambda(INVOKE_TIMEOUT)));
    let limits =
        if options.unguarded { GatewayLimits::default() } else { GatewayLimits::guarded() };
    let limits = if options.quotas { limits.with_account_rates() } else { limits };
    let address_invocations =
        options.address_invocations.map_or(limits.address_invocations, NonZero::get);
    let limits = GatewayLimits { address_invocations, ..limits };
    let gateway = Gateway::start(config, Arc::new(Sockets::new(limits)), functions, shutdown)
        .with_context(|| format!("cannot listen on {}", options.listen.address))?;
    gateway.stopped().await;
    Ok(())
}

fn config(options: &Options) -> anyhow::Result<Config> {
    let mut config = Config {
        domain: options.domain.clone(),
        hosts: gateway::Hosts::new(options.hosts.hosts.iter().cloned()),
        callbacks: options.callbacks,
        proxies: options.trusted_proxies.clone(),
        ..Config::new(options.listen.address)
    };
    if let Some(path) = &options.template {
        let apis = template::read(path, options.names)?;
        for reason in &apis.ignored {
            warn!("part of the template is not served: {reason}");
        }
        config.api.stage = apis.stage.unwrap_or(config.api.stage);
        config.routes = apis.routes;
        config.selection = apis.selection;
        config.authorizer = apis.authorizer;
        config.http = apis.http;
    } else if options.route.is_empty() && options.http.is_empty() {
        config.routes = Routes::default()
            .with("$connect", CONNECTION)
            .with("$disconnect", CONNECTION)
            .with("$default", CONNECTION);
        config.authorizer = Some(Authorizer::new(AUTHORIZE));
        config.http = HttpRoutes::to(REST, Some(Authorizer::new(AUTHORIZE)));
    } else {
        for (key, route) in &options.route {
            config.routes.insert(key, route.clone());
        }
        config.selection = Selection::parse(&options.selection)?;
        config.authorizer = options.authorizer.as_ref().map(Authorizer::new);
        for (key, function) in &options.http {
            config.http.push(HttpRoute {
                key: key.clone(),
                function: function.clone(),
                authorizer: options.http_authorizer.as_ref().map(Authorizer::new),
            });
        }
    }
    if let Some(stage) = &options.stage {
        config.api.stage.clone_from(stage);
    }
    ensure!(
        !config.api.stage.is_empty() && !config.api.stage.contains('/'),
        "the stage {:?} is not valid: it must not be empty or contain a slash",
        config.api.stage
    );
    Ok(config)
}

fn parse_route(text: &str) -> Result<(String, Route), String> {
    let (key, function) = split_route(text)?;
    let (function, is_two_way) = match function.strip_prefix('+') {
        Some(function) => (function, true),
        None => (function, false),
    };
    Ok((key.to_owned(), Route { function: function.to_owned(), is_two_way }))
}

fn parse_http(text: &str) -> Result<(RouteKey, String), String> {
    let (key, function) = split_route(text)?;
    let key = RouteKey::parse(key).map_err(|error| error.to_string())?;
    Ok((key, function.to_owned()))
}

fn split_route(text: &str) -> Result<(&str, &str), String> {
    match text.rsplit_once('=') {
        Some((key, function)) if !key.is_empty() && !function.is_empty() => Ok((key, function)),
        _ => Err("it must be a route key, an equals sign and a function".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_has_a_key_and_a_function() {
        let route =
            |function: &str, is_two_way| Route { function: function.to_owned(), is_two_way };
        let cases = [
            ("$connect=f", Some(("$connect", route("f", false)))),
            ("ask=+f", Some(("ask", route("f", true)))),
            ("a=b=f", Some(("a=b", route("f", false)))),
            ("=f", None),
            ("key=", None),
            ("key", None),
        ];
        for (text, expected) in cases {
            let expected = expected.map(|(key, route)| (key.to_owned(), route));
            assert_eq!(parse_route(text).ok(), expected, "case: {text}");
        }
    }
}
