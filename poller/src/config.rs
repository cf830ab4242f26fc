//! The poller's configuration.

use std::time::Duration;

use domain::topic::Topic;
use secrecy::SecretString;

use crate::{host::host_of, wanted::Wanted};

/// Shortest flush interval, in milliseconds.
const LEAST_FLUSH_MS: u64 = 1;

/// The base URLs of Mastodon servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Servers(pub Vec<url::Url>);

/// User tokens of Mastodon servers.
#[derive(Clone, Debug, Default)]
pub struct Tokens(pub Vec<Token>);

/// A user token of a Mastodon server.
#[derive(Clone, Debug)]
pub struct Token {
    /// The server; without it, the one at the same position in the list of servers.
    pub host: Option<String>,
    /// The token.
    pub token: SecretString,
}

impl Tokens {
    /// Returns the token of the server `host`, which is at `index` in the list of servers.
    pub fn of(&self, host: &str, index: usize) -> Option<&SecretString> {
        let named = self.0.iter().find(|it| it.host.as_deref() == Some(host));
        let token = named.or_else(|| self.0.get(index).filter(|it| it.host.is_none()))?;
        Some(&token.token)
    }
}

/// The settings of the poller.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Shortest time between two frames of a topic, in milliseconds. After a longer silence, an event
    /// is sent at once. Under load, a frame contains all events of this interval.
    #[arg(long, env = "HEADWATER_FLUSH_MS", default_value_t = 20,
          value_parser = clap::value_parser!(u64).range(LEAST_FLUSH_MS..=10_000))]
    pub flush_ms: u64,

    /// WebSocket address of Coinbase Exchange.
    #[arg(
        long,
        env = "HEADWATER_COINBASE_URL",
        default_value = "wss://ws-feed.exchange.coinbase.com"
    )]
    pub coinbase_url: url::Url,

    /// REST address of Coinbase Exchange.
    #[arg(
        long,
        env = "HEADWATER_COINBASE_REST_URL",
        default_value = "https://api.exchange.coinbase.com"
    )]
    pub coinbase_rest_url: url::Url,

    /// Record these Coinbase topics even without subscribers, such as
    /// `ticker/BTC-USD,level2/ETH-USD`. A pair alone stands for its ticker and its matches.
    #[arg(long, env = "HEADWATER_COINBASE_RECORD", default_value = "", value_parser = parse_coinbase)]
    pub coinbase_record: Wanted,

    /// Base URLs of Mastodon servers, such as `https://mastodon.social,https://fosstodon.org`; an
    /// empty value disables Mastodon.
    #[arg(long, env = "HEADWATER_MASTODON_SERVERS", default_value = "https://mastodon.social", value_parser = parse_servers)]
    pub mastodon_servers: Servers,

    /// User tokens with scope `read:statuses`, such as `mastodon.social=…,fosstodon.org=…`, or in
    /// the order of the servers. A server without a token is polled.
    #[arg(long, env = "HEADWATER_MASTODON_TOKENS", hide_env_values = true, default_value = "", hide_default_value = true, value_parser = parse_tokens)]
    pub mastodon_tokens: Tokens,

    /// Hosts at which Mastodon servers may have their streaming interface, separated by commas. A server's own
    /// host and hosts of the same domain are always allowed.
    #[arg(
        long,
        env = "HEADWATER_MASTODON_STREAMING_HOSTS",
        value_name = "HOSTS",
        value_delimiter = ','
    )]
    pub mastodon_streaming_hosts: Vec<String>,

    /// Record these Mastodon topics even without subscribers, such as `public,tag/rustlang`.
    #[arg(long, env = "HEADWATER_MASTODON_RECORD", default_value = "", value_parser = parse_mastodon)]
    pub mastodon_record: Wanted,

    /// User agent that is sent to the upstreams. It should include a contact address.
    #[arg(long, env = "HEADWATER_USER_AGENT", default_value = concat!("Headwater/", env!("CARGO_PKG_VERSION")))]
    pub user_agent: String,

    /// Most bytes of events that are pending while the database does not respond.
    #[arg(long, env = "HEADWATER_MEMORY_BYTES", default_value_t = 64 * 1024 * 1024, hide = true)]
    pub memory_bytes: usize,
}

impl Options {
    /// Returns the shortest time between two frames of a topic.
    pub fn flush(&self) -> Duration {
        Duration::from_millis(self.flush_ms)
    }
}

fn parse_servers(text: &str) -> Result<Servers, String> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    let servers = names.map(|server| match url::Url::parse(server) {
        Ok(url) if url.has_host() && matches!(url.scheme(), "http" | "https") => Ok(url),
        _ => Err(format!("{server} is not an http or https address")),
    });
    Ok(Servers(servers.collect::<Result<_, _>>()?))
}

fn parse_coinbase(text: &str) -> Result<Wanted, String> {
    parse_topics("coinbase", text)
}

fn parse_mastodon(text: &str) -> Result<Wanted, String> {
    parse_topics("mastodon", text)
}

fn parse_topics(family: &str, text: &str) -> Result<Wanted, String> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    let mut topics = Wanted::new();
    for name in names {
        let spellings = match (family, name.contains('/')) {
            // A pair alone stands for the two most used channels.
            ("coinbase", false) => {
                vec![format!("coinbase/ticker/{name}"), format!("coinbase/matches/{name}")]
            }
            _ if name.starts_with(&format!("{family}/")) => vec![name.to_owned()],
            _ => vec![format!("{family}/{name}")],
        };
        for spelling in spellings {
            topics.insert(Topic::parse(&spelling).map_err(|error| format!("{name}: {error}"))?);
        }
    }
    Ok(topics)
}

fn parse_tokens(text: &str) -> Result<Tokens, String> {
    let tokens = text.split(',').map(str::trim).filter(|token| !token.is_empty());
    Ok(Tokens(tokens.map(parse_token).collect::<Result<_, _>>()?))
}

fn parse_token(text: &str) -> Result<Token, String> {
    let token = match text.split_once('=') {
        Some((host, token)) if !host.is_empty() && !token.is_empty() => {
            let host = url::Url::parse(host)
                .ok()
                .filter(url::Url::has_host)
                .map_or_else(|| host.to_owned(), |url| host_of(&url));
            Token { host: Some(host), token: SecretString::from(token) }
        }
        // The text itself may be a token, so the message does not contain it.
        Some(_) => return Err("a token must have the form HOST=TOKEN".to_owned()),
        None => Token { host: None, token: SecretString::from(text) },
    };
    Ok(token)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn recorded_topics_are_parsed_with_or_without_their_source() {
        let topics = parse_coinbase("ticker/BTC-USD, coinbase/matches/ETH-USD").expect("topics");
        let names: Vec<&str> = topics.iter().map(Topic::as_str).collect();
        assert_eq!(names, ["coinbase/matches/ETH-USD", "coinbase/ticker/BTC-USD"]);
        assert_eq!(parse_mastodon(""), Ok(Wanted::new()));
        let topics = parse_coinbase("BTC-USD").expect("topics");
        let names: Vec<&str> = topics.iter().map(Topic::as_str).collect();
        assert_eq!(names, ["coinbase/matches/BTC-USD", "coinbase/ticker/BTC-USD"]);
        assert!(parse_coinbase("ticker/btc").is_err());
    }

    #[test]
    fn tokens_are_found_by_host_or_by_position() {
        let tokens = parse_tokens("https://b.example=two, one").expect("tokens");
        let of = |host, index| tokens.of(host, index).map(|it| it.expose_secret().to_owned());
        assert_eq!(of("b.example", 0).as_deref(), Some("two"));
        assert_eq!(of("a.example", 1).as_deref(), Some("one"));
        assert_eq!(of("c.example", 0), None, "that token belongs to another server");
        let error = parse_tokens("=s3cret").expect_err("no host");
        assert!(!error.contains("s3cret"));
    }
}
