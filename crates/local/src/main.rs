//! The `headwater` command.

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use ::functions::{identity, token::parse_secrets};
use anyhow::{Context as _, ensure};
use aws::settings::explain;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use domain::access::Principal;
use jiff::Timestamp;
use local::{
    bench,
    command::{database, functions, gateway, policy, tail},
    in_process::{server as up, server::Up},
    simulator,
    simulator::Simulator,
};
use secrecy::SecretString;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Longest wait for an answer of the health check.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(4);

/// The exit code for a wrong command line, as `clap` has it.
const USAGE: u8 = 2;

/// Streams public posts and market data to any number of people.
#[derive(Debug, Parser)]
#[command(name = "headwater", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// What to log, such as `debug` or `info,poller=debug`.
    #[arg(long, env = "HEADWATER_LOG", default_value = "info", global = true)]
    log: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole on this machine, with the live upstreams or simulated ones.
    Up(Box<up::Options>),
    /// Run the emulated API Gateway alone: a WebSocket API and an HTTP API in front of functions that
    /// run elsewhere.
    Gateway(Box<gateway::Options>),
    /// Run the four functions in one process, behind Lambda's Invoke. Tables are found as every AWS
    /// program finds them.
    Functions(Box<functions::Options>),
    /// Run a DynamoDB with Headwater's tables.
    Database(database::Options),
    /// Run a simulated Coinbase exchange and a simulated Mastodon server.
    Simulate(simulator::Options),
    /// Print topics in the terminal.
    Tail(tail::Options),
    /// Ask the server that listens at `--listen` whether it can serve; for a container's health
    /// check. Ends with 0 if it can.
    Health(HealthOptions),
    /// Make a token for local use.
    Token(TokenOptions),
    /// Check, show and replace the rules: who may see what.
    Policy(policy::Options),
    /// Measure speed and memory, and print JSON lines.
    Bench(bench::Options),
}

#[derive(Debug, Args)]
struct HealthOptions {
    /// Address that the server listens at.
    #[arg(long, env = "HEADWATER_LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

#[derive(Debug, Args)]
struct TokenOptions {
    /// The class of the token's bearer, such as `member` or `trader`; several after commas.
    #[arg(long, default_value = "member", value_delimiter = ',')]
    class: Vec<String>,

    /// Whom the token names.
    #[arg(long, default_value = "local")]
    subject: String,

    /// How long the token is good, such as `12h`.
    #[arg(long, default_value = "12h", value_parser = humantime::parse_duration)]
    term: Duration,

    /// The secret that the server has; of several after commas, the first.
    #[arg(long, env = "HEADWATER_JWT_SECRET", hide_env_values = true, value_parser = parse_secrets)]
    jwt_secret: Option<SecretString>,

    /// What the token says in `iss`.
    #[arg(long, env = "HEADWATER_JWT_ISSUER")]
    jwt_issuer: Option<String>,

    /// Whom the token is meant for; of several after commas, the first.
    #[arg(long, env = "HEADWATER_JWT_AUDIENCE", value_delimiter = ',')]
    jwt_audience: Vec<String>,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => match explain(&Cli::command(), &error) {
            Some(told) => {
                let _ = writeln!(std::io::stderr(), "headwater: {told}");
                return ExitCode::from(USAGE);
            }
            None => error.exit(),
        },
    };
    let filter = match EnvFilter::try_new(&cli.log) {
        Ok(filter) => filter,
        Err(error) => {
            return fail(&anyhow::anyhow!("HEADWATER_LOG is no filter: {error}"));
        }
    };
    // A condition that does not hold is an answer, and nothing to warn of.
    let filter = match "dynoxide=error".parse() {
        Ok(quiet) if !cli.log.contains("dynoxide") => filter.add_directive(quiet),
        _ => filter,
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    match runtime.block_on(run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "headwater: {error:#}");
    ExitCode::FAILURE
}

async fn run(command: Command) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    on_signal(shutdown.clone())?;
    match command {
        Command::Up(options) => {
            let simulated = options.simulated;
            let up = Up::start(*options, shutdown).await?;
            welcome(&up, simulated);
            up.stopped().await
        }
        Command::Gateway(options) => {
            let gateway = gateway::run(*options, shutdown).await?;
            gateway.stopped().await;
            Ok(())
        }
        Command::Functions(options) => functions::run(*options, shutdown).await,
        Command::Database(options) => database::run(options, shutdown).await,
        Command::Simulate(options) => {
            let simulator = Simulator::start(&options, shutdown.clone())
                .await
                .context("cannot start the simulators")?;
            print(&format!(
                "HEADWATER_COINBASE_URL={}\nHEADWATER_COINBASE_REST_URL={}\n\
                 HEADWATER_MASTODON_SERVERS={}\nHEADWATER_MASTODON_TOKENS={}\n",
                simulator.coinbase_url(),
                simulator.coinbase_rest_url(),
                simulator.mastodon_url(),
                options.mastodon_token,
            ));
            shutdown.cancelled().await;
            simulator.stopped().await;
            Ok(())
        }
        Command::Tail(options) => tail::run(options, shutdown).await,
        Command::Health(options) => health(&options).await,
        Command::Token(options) => token(&options),
        Command::Policy(options) => policy::run(options).await.map(|text| print(&text)),
        Command::Bench(options) => bench::run(options, shutdown).await,
    }
}

/// Ends the program gently at the first signal, and at once at the second.
fn on_signal(shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if shutdown.is_cancelled() {
                std::process::exit(130);
            }
            shutdown.cancel();
        }
    });
    Ok(())
}

fn welcome(up: &Up, simulated: bool) {
    let address = up.address();
    let data = if simulated { "SIMULATED data" } else { "live data" };
    let who = if up.is_open() {
        "No tokens are accepted, so everybody sees everything. With HEADWATER_JWT_SECRET set, the rules of\n\
         policies/default.cedar hold, and `headwater token --class trader` makes a token."
    } else {
        "Who may see what is in the rules: see `headwater policy --help` and `headwater token --help`."
    };
    print(&format!(
        "Headwater is up with {data}.\n\n  \
         page       http://{address}/\n  \
         status     http://{address}/api/v1/status\n  \
         WebSocket  ws://{address}/live\n  \
         REST       http://{address}/api/v1/openapi.json\n\n\
         In another terminal:\n  \
         headwater tail --url ws://{address}/live coinbase/ticker/BTC-USD mastodon/public\n\n\
         {who}\n\n"
    ));
}

async fn health(options: &HealthOptions) -> anyhow::Result<()> {
    let mut address = options.listen;
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    let client = reqwest::Client::builder().timeout(HEALTH_TIMEOUT).build()?;
    let answer = client.get(format!("http://{address}/healthz")).send().await;
    let answer = answer.with_context(|| format!("nobody answers at {address}"))?;
    ensure!(answer.status().is_success(), "the server at {address} answers {}", answer.status());
    Ok(())
}

fn token(options: &TokenOptions) -> anyhow::Result<()> {
    let secret = options.jwt_secret.as_ref();
    let secret =
        secret.context("HEADWATER_JWT_SECRET is not set; use the secret that the server has")?;
    let classes = options.class.iter().map(String::as_str);
    let principal = Principal::named(&options.subject, classes)?;
    let audience = options.jwt_audience.first().map(String::as_str);
    let issuer = options.jwt_issuer.as_deref();
    let now = Timestamp::now();
    let token = identity::make(secret, &principal, options.term, now, issuer, audience)?;
    print(&format!("{token}\n"));
    Ok(())
}

fn print(text: &str) {
    // A reader that has gone away is no reason to stop.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_bad_value_is_refused_with_its_name() {
        let cases = [
            (["headwater", "up", "--flush-ms", "0"], "--flush-ms"),
            (["headwater", "up", "--shards", "0"], "--shards"),
            (["headwater", "up", "--retention", "1s"], "--retention"),
            (["headwater", "up", "--jwt-secret", ""], "--jwt-secret"),
            (["headwater", "up", "--mastodon-servers", "nowhere"], "--mastodon-servers"),
            (["headwater", "up", "--coinbase-record", "ticker/btc"], "--coinbase-record"),
        ];
        for (arguments, name) in cases {
            let error = Cli::try_parse_from(arguments).expect_err(name);
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
