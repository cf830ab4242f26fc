//! What the sources get from outside: the network, and the time. A simulation provides both.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use domain::clock::Clock;
use futures_util::{Sink, Stream, future::BoxFuture};
use jiff::Timestamp;
use reqwest::{
    Client, StatusCode, Url,
    header::{HeaderMap, HeaderValue, USER_AGENT},
    redirect::Policy,
};
use tokio::net::{TcpStream, lookup_host};
use tokio_tungstenite::{
    client_async_tls_with_config, connect_async_with_config,
    tungstenite::{
        self, Message, handshake::client::Request, http::Uri, protocol::WebSocketConfig,
    },
};

/// Longest time to connect for a GET request.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Most redirects that are followed.
const MAX_REDIRECTS: usize = 3;

/// The network and the time. Clones share both.
#[derive(Clone)]
pub struct Outside {
    /// The network.
    pub network: Arc<dyn Network>,
    /// The current time.
    pub clock: Clock,
    /// Hosts to which a server may refer for its streaming interface, beside those of its own domain.
    pub streaming_hosts: Arc<[String]>,
}

impl Outside {
    /// Makes the real ones. All requests have this user agent. A server may refer to these other hosts.
    ///
    /// # Errors
    ///
    /// When the user agent is invalid, or no HTTP client can be made.
    pub fn real(user_agent: &str, streaming_hosts: &[String]) -> anyhow::Result<Self> {
        let network = Arc::new(Internet::new(user_agent)?);
        let streaming_hosts = streaming_hosts.into();
        Ok(Self { network, clock: Clock::new(Timestamp::now), streaming_hosts })
    }
}

/// Connections to upstreams.
pub trait Network: Send + Sync + 'static {
    /// Sends a GET request, and reads the response.
    fn get(&self, request: Get) -> BoxFuture<'_, Result<Response, GetError>>;

    /// Opens a WebSocket. A message has at most `max_message_bytes`. The caller limits the time.
    fn open(
        &self,
        request: Request,
        reach: Reach,
        max_message_bytes: usize,
    ) -> BoxFuture<'_, Result<Socket, tungstenite::Error>>;
}

/// Which addresses a connection may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Any: the operator has configured the host.
    Any,
    /// Public ones only: an upstream has named the host, which could lead to one that only we can reach.
    Public,
}

/// A GET request.
#[derive(Clone, Debug)]
pub struct Get {
    /// The address. Only redirects to its own origin are followed.
    pub url: Url,
    /// The headers.
    pub headers: HeaderMap,
    /// Largest body of the response, in bytes.
    pub max_bytes: usize,
    /// Longest time until the whole response is there.
    pub within: Duration,
}

/// The response to a GET request.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body. It is empty if the status is an error.
    pub body: Bytes,
}

/// Why a GET request has no response.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// The request or the response did not arrive.
    #[error("no response")]
    NoResponse(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The body is larger than allowed.
    #[error("response is too large")]
    TooLarge,
}

/// An open WebSocket.
pub type Socket = Box<dyn WebSocket>;

/// Messages in both directions.
pub trait WebSocket:
    Stream<Item = Result<Message, tungstenite::Error>>
    + Sink<Message, Error = tungstenite::Error>
    + Send
    + Unpin
{
}

impl<T> WebSocket for T where
    T: Stream<Item = Result<Message, tungstenite::Error>>
        + Sink<Message, Error = tungstenite::Error>
        + Send
        + Unpin
{
}

/// The real network.
struct Internet {
    client: Client,
    user_agent: HeaderValue,
}

impl Internet {
    fn new(user_agent: &str) -> anyhow::Result<Self> {
        let user_agent = HeaderValue::from_str(user_agent)
            .ok()
            .filter(|it| !it.is_empty())
            .with_context(|| format!("{user_agent:?} is not a valid user agent"))?;
        // A redirect to another host could reach one that only we can reach, and must not get the token.
        let policy = Policy::custom(|attempt| {
            let from = attempt.previous().first().map(Url::origin);
            let is_ours = from == Some(attempt.url().origin());
            if is_ours && attempt.previous().len() <= MAX_REDIRECTS {
                attempt.follow()
            } else {
                attempt.stop()
            }
        });
        let client = Client::builder()
            .user_agent(user_agent.clone())
            .connect_timeout(CONNECT_WITHIN)
            .redirect(policy)
            .build()
            .context("could not set up the HTTP client")?;
        Ok(Self { client, user_agent })
    }
}

impl Network for Internet {
    fn get(&self, request: Get) -> BoxFuture<'_, Result<Response, GetError>> {
        Box::pin(async move {
            let Get { url, headers, max_bytes, within } = request;
            let request = self.client.get(url).headers(headers).timeout(within);
            let mut response = request.send().await?;
            let status = response.status();
            let headers = std::mem::take(response.headers_mut());
            let mut body = BytesMut::new();
            while status.is_success()
                && let Some(chunk) = response.chunk().await?
            {
                if body.len() + chunk.len() > max_bytes {
                    return Err(GetError::TooLarge);
                }
                body.extend_from_slice(&chunk);
            }
            Ok(Response { status, headers, body: body.freeze() })
        })
    }

    fn open(
        &self,
        mut request: Request,
        reach: Reach,
        max_message_bytes: usize,
    ) -> BoxFuture<'_, Result<Socket, tungstenite::Error>> {
        request.headers_mut().insert(USER_AGENT, self.user_agent.clone());
        let config = WebSocketConfig::default()
            .max_message_size(Some(max_message_bytes))
            .max_frame_size(Some(max_message_bytes));
        Box::pin(async move {
            let (socket, _) = match reach {
                Reach::Any => connect_async_with_config(request, Some(config), true).await?,
                Reach::Public => {
                    let stream = connect_publicly(request.uri()).await?;
                    client_async_tls_with_config(request, stream, Some(config), None).await?
                }
            };
            Ok(Box::new(socket) as Socket)
        })
    }
}

/// Connects to a host, if all its addresses are public.
async fn connect_publicly(uri: &Uri) -> io::Result<TcpStream> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("wss") { 443 } else { 80 });
    let addresses: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
    if let Some(address) = addresses.iter().find(|address| !is_public(address.ip())) {
        let message = format!("{host} has the address {}, which is not public", address.ip());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    let stream = TcpStream::connect(&addresses[..]).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Returns whether anybody can reach an address (the IANA registries of special-purpose addresses).
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let is_special = v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_documentation()
                || a == 0
                || (a == 100 && b & 0xC0 == 64)
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && b & 0xFE == 18)
                || a >= 224;
            !is_special
        }
        IpAddr::V6(v6) => {
            // Global unicast addresses, without documentation, 6to4 and Teredo, which contain others.
            let [a, b, ..] = v6.segments();
            a & 0xE000 == 0x2000 && !(a == 0x2001 && matches!(b, 0 | 0xDB8)) && a != 0x2002
        }
    }
}

impl From<reqwest::Error> for GetError {
    fn from(error: reqwest::Error) -> Self {
        // An address can be long, and the log names the source already.
        Self::NoResponse(Box::new(error.without_url()))
    }
}

#[cfg(test)]
mod tests {
    use axum::{
        http::{header::LOCATION, request::Parts},
        response::IntoResponse as _,
    };
    use simulator::script::ScriptedServer;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

    use super::*;

    #[test]
    fn an_invalid_user_agent_is_rejected_with_a_reason() {
        for agent in ["", "a\nb"] {
            let error = Outside::real(agent, &[]).err().expect("an error");
            assert_eq!(error.to_string(), format!("{agent:?} is not a valid user agent"));
        }
        assert!(Outside::real("headwater", &[]).is_ok());
    }

    #[test]
    fn special_addresses_are_not_public() {
        let special = [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "ff02::1",
            "2001:db8::1",
            "2002:a00:1::1",
            "2001::1",
        ];
        for address in special {
            assert!(!is_public(address.parse().expect(address)), "case: {address}");
        }
        for address in ["1.1.1.1", "100.128.0.1", "172.32.0.1", "192.0.1.1", "2606:4700::1111"] {
            assert!(is_public(address.parse().expect(address)), "case: {address}");
        }
    }

    #[tokio::test]
    async fn a_host_that_an_upstream_names_must_be_public() {
        let respond = |_: &Parts| StatusCode::NOT_FOUND.into_response();
        let server = ScriptedServer::start(respond).await.expect("a port");
        let outside = Outside::real("headwater", &[]).expect("a client");
        for host in ["127.0.0.1", "localhost"] {
            let url = format!("ws://{host}:{}/", server.address().port());
            let request = url.as_str().into_client_request().expect("a request");
            let opened = outside.network.open(request, Reach::Public, 100).await;
            let error = opened.err().expect("an error").to_string();
            assert!(error.contains("not public"), "{error}");
        }
    }

    /// Starts a server that redirects `/N` to `/N-1` and `/away` to another one, and answers the rest.
    async fn server(other: String) -> ScriptedServer {
        let respond = move |request: &Parts| {
            let path = request.uri.path();
            let to = match path.trim_start_matches('/').parse::<u32>() {
                Ok(0) => return "here".into_response(),
                Ok(number) => format!("/{}", number - 1),
                Err(_) if path == "/away" => other.clone(),
                Err(_) => return "there".into_response(),
            };
            (StatusCode::FOUND, [(LOCATION, to)]).into_response()
        };
        ScriptedServer::start(respond).await.expect("a port")
    }

    #[tokio::test]
    async fn only_a_few_redirects_to_the_same_origin_are_followed() {
        let inside = server(String::new()).await;
        let elsewhere = format!("http://{}/latest/meta-data/", inside.address());
        let server = server(elsewhere).await;
        let outside = Outside::real("headwater", &[]).expect("a client");
        for (path, expected) in [("0", "here"), ("3", "here"), ("4", ""), ("away", "")] {
            let request = Get {
                url: format!("http://{}/{path}", server.address()).parse().expect("a URL"),
                headers: HeaderMap::new(),
                max_bytes: 100,
                within: Duration::from_secs(10),
            };
            let response = outside.network.get(request).await.expect("a response");
            assert_eq!(response.body, expected, "case: {path}");
            assert_eq!(response.status.is_success(), !expected.is_empty(), "case: {path}");
        }
        assert_eq!(inside.requests().len(), 0, "another host gets no request");
    }
}
