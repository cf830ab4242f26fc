//! A session over the streaming interface: one socket, subscribed to the public timeline.

use std::{collections::VecDeque, pin::pin, time::Duration};

use aws::control::State;
use futures_util::{SinkExt, StreamExt};
use jiff::Timestamp;
use secrecy::ExposeSecret;
use tokio::{
    net::TcpStream,
    time::{self, Instant, MissedTickBehavior},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest,
        http::{HeaderValue, Response, header},
        protocol::WebSocketConfig,
    },
};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    api::Api,
    fill,
    instance::Part,
    session::{Ended, Gap, Out, Said, Stray},
    status::Envelope,
};

/// Longest that connecting takes.
const CONNECT: Duration = Duration::from_secs(20);
/// Silence, of pings too, that means a dead connection: servers ping every 30 s.
const DEAD: Duration = Duration::from_secs(75);
/// How often the server is pinged.
const PING: Duration = Duration::from_secs(30);
/// A stream without an event for so long is compared with the timeline: servers have been known to
/// answer pings on sockets that they no longer feed.
const QUIET: Duration = Duration::from_mins(10);
/// Largest message, in bytes: the largest known are a few hundred KB.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// Events that wait for a gap to be filled before they go out ahead of it.
const MAX_WAITING: usize = 10_000;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Listens until something ends it.
pub(super) async fn session(
    api: &Api,
    url: &Url,
    user_agent: &str,
    gap: &Gap,
    out: &mut Out,
    shutdown: &CancellationToken,
) -> Ended {
    let connected = Box::pin(time::timeout(CONNECT, connect(api, url, user_agent)));
    let mut socket = match shutdown.run_until_cancelled(connected).await {
        None => return Ended::Stopped,
        Some(Err(_)) => return Ended::Silent("the server did not answer"),
        Some(Ok(Err(ended))) => return ended,
        Some(Ok(Ok(socket))) => socket,
    };
    let ended = match listen(api, gap, &mut socket, out, shutdown).await {
        Ok(never) => match never {},
        Err(ended) => ended,
    };
    // The server learns of it at once, where it still listens.
    let _ = time::timeout(Duration::from_secs(1), socket.close(None)).await;
    ended
}

async fn connect(api: &Api, url: &Url, user_agent: &str) -> Result<Socket, Ended> {
    let socket = |error| Ended::Socket(Box::new(error));
    let mut request = url.as_str().into_client_request().map_err(socket)?;
    let headers = request.headers_mut();
    if let Ok(agent) = HeaderValue::from_str(user_agent) {
        headers.insert(header::USER_AGENT, agent);
    }
    if let Some(token) = api.token() {
        let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))
        else {
            return Err(Ended::Refused("its token has characters that no token has".to_owned()));
        };
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    match connect_async_with_config(request, Some(config), true).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(response)) => Err(refused(&response)),
        Err(error) => Err(socket(error)),
    }
}

/// What an HTTP answer to the upgrade means.
fn refused(response: &Response<Option<Vec<u8>>>) -> Ended {
    let wait = response.headers().get(header::RETRY_AFTER);
    let wait = wait.and_then(|value| value.to_str().ok()?.parse().ok()).map(Duration::from_secs);
    match (response.status().as_u16(), wait) {
        (401, _) => Ended::Refused(
            "it refuses the token: missing, revoked, not a user's, or without read:statuses (401)"
                .to_owned(),
        ),
        (403, _) => Ended::Refused("it forbids us to stream (403)".to_owned()),
        (429, wait) => Ended::Limited(wait.unwrap_or(Duration::from_mins(1))),
        (_, Some(wait)) => Ended::Limited(wait),
        // Also 301 and 404: it may stream from elsewhere by now, which the next session asks.
        (_, None) => Ended::Closed,
    }
}

async fn listen(
    api: &Api,
    gap: &Gap,
    socket: &mut Socket,
    out: &mut Out,
    shutdown: &CancellationToken,
) -> Result<std::convert::Infallible, Ended> {
    // The order matters: what is published while the gap is filled must arrive as well.
    let subscribe = Message::text(r#"{"type":"subscribe","stream":"public"}"#);
    socket.send(subscribe).await.map_err(|error| Ended::Socket(Box::new(error)))?;
    out.say(Said::State(State::Live, String::new())).await?;

    let mut fill = pin!(fill::run(api, Part::Whole, gap, Timestamp::now()));
    let mut filling = true;
    let mut waiting = VecDeque::new();
    let mut ping = time::interval_at(Instant::now() + PING, PING);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_frame = Instant::now();
    let mut last_event = Instant::now();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Err(Ended::Stopped),
            filled = &mut fill, if filling => {
                filling = false;
                for told in filled.told {
                    out.told(told).await?;
                }
                for told in waiting.drain(..) {
                    out.told(told).await?;
                }
                if !filled.missing.is_empty() {
                    out.say(Said::State(State::Live, filled.missing.to_owned())).await?;
                }
            }
            _ = ping.tick() => {
                let sent = socket.send(Message::Ping(bytes::Bytes::new())).await;
                sent.map_err(|error| Ended::Socket(Box::new(error)))?;
            }
            () = time::sleep_until(last_frame + DEAD) => {
                return Err(Ended::Silent("the server fell silent"));
            }
            () = time::sleep_until(last_event + QUIET) => {
                if is_stale(api, Timestamp::now()).await {
                    return Err(Ended::Silent("the stream stopped while the timeline goes on"));
                }
                last_event = Instant::now();
            }
            message = socket.next() => {
                last_frame = Instant::now();
                let text = match message {
                    Some(Ok(Message::Text(text))) => text,
                    Some(Ok(Message::Close(_))) | None => return Err(Ended::Closed),
                    Some(Ok(_)) => continue,
                    Some(Err(error)) => return Err(Ended::Socket(Box::new(error))),
                };
                match Envelope::parse(text.as_str()) {
                    Envelope::Told(told) => {
                        last_event = Instant::now();
                        if filling && waiting.len() < MAX_WAITING {
                            waiting.push_back(told);
                        } else {
                            out.told(told).await?;
                        }
                    }
                    // The only request on this socket is to subscribe to the public timeline.
                    Envelope::Error(Some(401 | 403)) => {
                        return Err(Ended::Refused("its token lacks read:statuses (401)".to_owned()));
                    }
                    Envelope::Error(Some(500..)) => {
                        return Err(Ended::Silent("the server could not subscribe us"));
                    }
                    Envelope::Error(_) => out.say(Said::Stray(Stray::Error)).await?,
                    Envelope::Other => out.say(Said::Stray(Stray::Other)).await?,
                    Envelope::Malformed => out.say(Said::Stray(Stray::Malformed)).await?,
                }
            }
        }
    }
}

/// Whether the timeline has posts that a stream, quiet for so long, has not told of.
async fn is_stale(api: &Api, now: Timestamp) -> bool {
    let Ok(page) = api.page(Part::Whole, None).await else { return false };
    let fresh = (now - QUIET)..(now - Duration::from_mins(1));
    page.statuses.iter().any(|status| status.created_at().is_some_and(|at| fresh.contains(&at)))
}

#[cfg(test)]
mod tests;
