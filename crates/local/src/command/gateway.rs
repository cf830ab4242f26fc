//! `headwater gateway`: the emulated API Gateway alone, in front of functions that run elsewhere.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use aws::clients::Clients;
use gateway::{
    Authorizer, Callbacks, Config, Gateway, GatewayLimits, HttpRoute, HttpRoutes, Route, RouteKey,
    Routes, Selection, Sockets,
    template::{self, FunctionNames},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use url::Url;

use crate::{
    adapters::LambdaFunctions,
    in_process::{AUTHORIZE, CONNECTION, REST},
};

/// Longer than API Gateway waits for any function.
const INVOKE_TIMEOUT: Duration = Duration::from_secs(35);

/// The settings of `headwater gateway`.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Address to listen at.
    #[arg(long, env = "HEADWATER_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,

    /// Where functions are invoked: `http://127.0.0.1:9000` for `cargo lambda watch`,
    /// `http://127.0.0.1:3001` for `sam local start-lambda`, or another that speaks Lambda's protocol.
    #[arg(long, env = "HEADWATER_INVOKE_URL")]
    pub invoke_url: Url,

    /// Take routes, authorizers, stage and names of functions from this SAM or CloudFormation
    /// template. Without it and without --route and --http, they are Headwater's own.
    #[arg(long, conflicts_with_all = ["route", "http"])]
    pub template: Option<PathBuf>,

    /// By which of its names in the template a function is invoked.
    #[arg(long, value_enum, default_value_t, requires = "template")]
    pub names: FunctionNames,

    /// A route of the WebSocket API, such as `$connect=my-function`; `+` before the function makes it
    /// two-way. Can be repeated.
    #[arg(long, value_name = "KEY=FUNCTION", value_parser = parse_route)]
    pub route: Vec<(String, Route)>,

    /// How a message names its route.
    #[arg(long, default_value = "$request.body.action", conflicts_with = "template")]
    pub selection: String,

    /// The function that decides about handshakes.
    #[arg(long, value_name = "FUNCTION", conflicts_with = "template")]
    pub authorizer: Option<String>,

    /// A route of the HTTP API, such as `GET /items/{id}=my-function` or `$default=my-function`. Can
    /// be repeated.
    #[arg(long, value_name = "KEY=FUNCTION", value_parser = parse_http)]
    pub http: Vec<(RouteKey, String)>,

    /// The function that decides about requests to the HTTP API.
    #[arg(long, value_name = "FUNCTION", conflicts_with = "template")]
    pub http_authorizer: Option<String>,

    /// Stage of the WebSocket API, and its path.
    #[arg(long)]
    pub stage: Option<String>,

    /// What events call this gateway's host, where clients call it something else: behind a load
    /// balancer, the address where this gateway itself can be reached.
    #[arg(long, value_name = "HOST:PORT")]
    pub domain: Option<String>,

    /// Who may call the management API, `@connections`. On AWS calls are signed, and here nobody
    /// checks that.
    #[arg(long, value_enum, default_value_t)]
    pub callbacks: Callbacks,

    /// Enforce the default quotas of an AWS account too: 10,000 requests and 500 handshakes a second.
    #[arg(long)]
    pub quotas: bool,
}

fn parse_route(text: &str) -> Result<(String, Route), String> {
    let (key, function) = split(text)?;
    let (function, is_two_way) = match function.strip_prefix('+') {
        Some(function) => (function, true),
        None => (function, false),
    };
    Ok((key.to_owned(), Route { function: function.to_owned(), is_two_way }))
}

fn parse_http(text: &str) -> Result<(RouteKey, String), String> {
    let (key, function) = split(text)?;
    let key = RouteKey::parse(key).map_err(|error| error.to_string())?;
    Ok((key, function.to_owned()))
}

fn split(text: &str) -> Result<(&str, &str), String> {
    match text.rsplit_once('=') {
        Some((key, function)) if !key.is_empty() && !function.is_empty() => Ok((key, function)),
        _ => Err("it is a route key, an equals sign and a function".to_owned()),
    }
}

/// Serves until `shutdown`.
///
/// # Errors
///
/// When the address cannot be listened at, or the template cannot be used.
pub async fn run(options: Options, shutdown: CancellationToken) -> anyhow::Result<()> {
    ensure!(
        matches!(options.invoke_url.scheme(), "http" | "https") && options.invoke_url.has_host(),
        "--invoke-url is {}: it is no http or https address",
        options.invoke_url
    );
    let config = config(&options)?;
    let clients = Clients::of_stand_in(options.invoke_url.as_str().trim_end_matches('/')).await;
    let functions = Arc::new(LambdaFunctions(clients.lambda(INVOKE_TIMEOUT)));
    let limits = if options.quotas { GatewayLimits::aws() } else { GatewayLimits::default() };
    let gateway = Gateway::start(config, Arc::new(Sockets::new(limits)), functions, shutdown)
        .with_context(|| format!("cannot listen on {}", options.listen))?;
    gateway.stopped().await;
    Ok(())
}

fn config(options: &Options) -> anyhow::Result<Config> {
    let mut config = Config {
        domain: options.domain.clone(),
        callbacks: options.callbacks,
        // A balancer before the gateways is on their machine.
        trusts_proxies: true,
        ..Config::new(options.listen)
    };
    if let Some(path) = &options.template {
        let apis = template::read(path, options.names)?;
        for sentence in &apis.ignored {
            warn!("not served: {sentence}");
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
            let authorizer = options.http_authorizer.as_ref().map(Authorizer::new);
            config.http.push(HttpRoute {
                key: key.clone(),
                function: function.clone(),
                authorizer,
            });
        }
    }
    if let Some(stage) = &options.stage {
        config.api.stage.clone_from(stage);
    }
    if config.api.stage.is_empty() || config.api.stage.contains('/') {
        bail!("the stage {:?} is no part of a path", config.api.stage);
    }
    Ok(config)
}
