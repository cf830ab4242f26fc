//! A session over the streaming interface: one socket, subscribed to the public timeline.

use domain::{backoff::Backoff, source::State};
use std::{collections::VecDeque, time::Duration};

use futures_util::{SinkExt, StreamExt};
use jiff::Timestamp;
use tokio::time::{self, Instant, MissedTickBehavior};
use tokio_tungstenite::tungstenite::{
    Error, Message,
    client::IntoClientRequest,
    http::{Response, header},
};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    api::Api,
    fill::{self, Filled, REFILL},
    instance::Part,
    session::{Gap, Out, SessionEnd, SessionEvent, Unexpected},
    status::Envelope,
};
use crate::{long_work, outside::Socket, source::http::retry_after};

/// Longest time to connect.
const CONNECT: Duration = Duration::from_secs(20);
/// Time without any message, including pings, after which a connection counts as dead. Servers send
/// a ping every 30 s.
const DEAD: Duration = Duration::from_secs(75);
/// How often a ping is sent.
const PING: Duration = Duration::from_secs(30);
/// Time without an event after which the stream is compared with the timeline. Some servers stop
/// sending events on a connection, but still answer pings.
const QUIET: Duration = Duration::from_mins(10);
/// Largest message, in bytes. The largest known ones have a few hundred KB.
const MAX_MESSAGE_BYTES: usize = 1024 * 1024;
/// How long after a server has read a subscription it surely streams.
const BEGUN_WITHIN: Duration = Duration::from_secs(1);
/// Longest time for which events are held until a gap is filled.
const HOLD: Duration = Duration::from_secs(5);
/// Most events that are held until a gap is filled. Beyond it, events are forwarded at once.
const MAX_HELD: usize = 10_000;

/// Reads the stream until the session ends.
pub(super) async fn session(
    api: &Api,
    url: &Url,
    gap: &Gap,
    out: &mut Out,
    shutdown: &CancellationToken,
) -> SessionEnd {
    let connected = Box::pin(time::timeout(CONNECT, connect(api, url)));
    let mut socket = match shutdown.run_until_cancelled(connected).await {
        None => return SessionEnd::Stopped,
        Some(Err(_)) => return SessionEnd::Silent("the server did not answer"),
        Some(Ok(Err(ended))) => return ended,
        Some(Ok(Ok(socket))) => socket,
    };
    let ended = match listen(api, gap, &mut socket, out, shutdown).await {
        Ok(never) => match never {},
        Err(ended) => ended,
    };
    // Sends a close frame, in case the server still reads.
    let _ = time::timeout(Duration::from_secs(1), socket.close()).await;
    ended
}

async fn connect(api: &Api, url: &Url) -> Result<Socket, SessionEnd> {
    let socket = |error| SessionEnd::Socket(Box::new(error));
    let mut request = url.as_str().into_client_request().map_err(socket)?;
    if let Some(value) = api.authorization()? {
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
    let outside = api.outside();
    match outside.network.open(request, api.reach(url), MAX_MESSAGE_BYTES).await {
        Ok(socket) => Ok(socket),
        Err(Error::Http(response)) => Err(rejected(&response, outside.clock.now())),
        Err(error) => Err(socket(error)),
    }
}

/// Returns what an HTTP response to the upgrade means.
fn rejected(response: &Response<Option<Vec<u8>>>, now: Timestamp) -> SessionEnd {
    let wait = retry_after(response.headers(), now);
    match (response.status().as_u16(), wait) {
        (401, _) => SessionEnd::Rejected(
            "the server rejects the token: missing, revoked, not a user's, or without read:statuses (401)"
                .to_owned(),
        ),
        (403, _) => SessionEnd::Rejected("the server forbids streaming (403)".to_owned()),
        (429, wait) => SessionEnd::RateLimited(wait.unwrap_or(Duration::from_mins(1))),
        (_, Some(wait)) => SessionEnd::RateLimited(wait),
        // This includes 301 and 404: the streaming URL may have changed, and the next session reads it
        // again.
        (_, None) => SessionEnd::Closed,
    }
}

async fn listen(
    api: &Api,
    gap: &Gap,
    socket: &mut Socket,
    out: &mut Out,
    shutdown: &CancellationToken,
) -> Result<std::convert::Infallible, SessionEnd> {
    // Subscribes first, so that posts also arrive while the gap is filled.
    send(socket, Message::text(r#"{"type":"subscribe","stream":"public"}"#)).await?;
    send(socket, Message::Ping(bytes::Bytes::new())).await?;
    out.send(SessionEvent::State(State::Live, String::new())).await?;

    let mut backoff = Backoff::new(REFILL.0, REFILL.1);
    let mut fill = Box::pin(fill_after(Duration::ZERO, api, gap.clone()));
    let mut filling = true;
    let mut reported = "";
    // The server does not confirm a subscription. But when it has answered the ping, or has sent an event, it has
    // read the request. What came before that may not be streamed, so it is fetched afterwards.
    let subscribed_at = api.outside().clock.now();
    let mut has_begun = false;
    let mut unconfirmed = None;
    let mut is_confirmed = false;
    // New posts wait for those of the gap, but not for long.
    let mut holding = true;
    let hold_until = Instant::now() + HOLD;
    let mut held = VecDeque::new();
    let mut ping = time::interval_at(Instant::now() + PING, PING);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_frame = Instant::now();
    let mut last_event = Instant::now();
    loop {
        if has_begun && let Some(gap) = unconfirmed.take() {
            is_confirmed = true;
            filling = true;
            fill = Box::pin(fill_after(BEGUN_WITHIN, api, gap));
        }
        tokio::select! {
            () = shutdown.cancelled() => return Err(SessionEnd::Stopped),
            (gap, filled) = &mut fill, if filling => {
                filling = filled.is_to_be_repeated;
                holding = false;
                let gap = gap.with(&filled.updates);
                if filling {
                    fill = Box::pin(fill_after(backoff.next_delay(), api, gap));
                } else if !is_confirmed {
                    unconfirmed = Some(gap.until_streamed(subscribed_at));
                }
                for update in filled.updates {
                    out.forward(update).await?;
                }
                for update in held.drain(..) {
                    out.forward(update).await?;
                }
                if filled.missing != reported {
                    reported = filled.missing;
                    out.send(SessionEvent::State(State::Live, reported.to_owned())).await?;
                }
            }
            () = time::sleep_until(hold_until), if holding => {
                holding = false;
                for update in held.drain(..) {
                    out.forward(update).await?;
                }
            }
            _ = ping.tick() => send(socket, Message::Ping(bytes::Bytes::new())).await?,
            () = time::sleep_until(last_frame + DEAD) => {
                return Err(SessionEnd::Silent("the server stopped sending"));
            }
            () = time::sleep_until(last_event + QUIET) => {
                if is_stale(api).await {
                    return Err(SessionEnd::Silent("the stream stopped, but the timeline has new posts"));
                }
                last_event = Instant::now();
            }
            message = socket.next() => {
                last_frame = Instant::now();
                let text = match message {
                    Some(Ok(Message::Text(text))) => text,
                    Some(Ok(Message::Close(_))) | None => return Err(SessionEnd::Closed),
                    Some(Ok(other)) => {
                        has_begun |= matches!(other, Message::Pong(_));
                        continue;
                    }
                    Some(Err(error)) => return Err(SessionEnd::Socket(Box::new(error))),
                };
                match long_work::on_input(text.len(), || Envelope::parse(text.as_str())) {
                    Envelope::Update(update) => {
                        last_event = Instant::now();
                        has_begun = true;
                        if holding && held.len() < MAX_HELD {
                            held.push_back(update);
                        } else {
                            out.forward(update).await?;
                        }
                    }
                    // The only request on this socket is to subscribe to the public timeline.
                    Envelope::Error(Some(401 | 403)) => {
                        return Err(SessionEnd::Rejected("the token lacks read:statuses (401)".to_owned()));
                    }
                    Envelope::Error(Some(500..)) => {
                        return Err(SessionEnd::Silent("the server could not subscribe to the timeline"));
                    }
                    Envelope::Error(_) => out.send(SessionEvent::Unexpected(Unexpected::Error)).await?,
                    Envelope::Other => out.send(SessionEvent::Unexpected(Unexpected::Other)).await?,
                    Envelope::Malformed => out.send(SessionEvent::Unexpected(Unexpected::Malformed)).await?,
                }
            }
        }
    }
}

async fn send(socket: &mut Socket, message: Message) -> Result<(), SessionEnd> {
    socket.send(message).await.map_err(|error| SessionEnd::Socket(Box::new(error)))
}

/// Fetches the updates of a gap after a delay. Returns the gap, too.
async fn fill_after(delay: Duration, api: &Api, gap: Gap) -> (Gap, Filled) {
    time::sleep(delay).await;
    let filled = fill::run(api, Part::Whole, &gap, None).await;
    (gap, filled)
}

/// Returns whether the timeline has recent posts that did not arrive on a quiet stream.
async fn is_stale(api: &Api) -> bool {
    let now = api.outside().clock.now();
    let Ok(page) = api.page(Part::Whole, None).await else { return false };
    let fresh = (now - QUIET)..(now - Duration::from_mins(1));
    page.statuses.iter().any(|status| status.created_at().is_some_and(|at| fresh.contains(&at)))
}

#[cfg(test)]
mod tests;
