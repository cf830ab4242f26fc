//! The network between a poller and the upstreams, with its faults.

use std::{
    io,
    pin::Pin,
    sync::atomic::{AtomicU32, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Sink, Stream, future::BoxFuture, stream::BoxStream};
use poller::outside::{Get, GetError, Network, Reach, Response, Socket};
use reqwest::{StatusCode, header::HeaderMap};
use tokio::{
    sync::mpsc,
    time::{self, Instant},
};
use tokio_tungstenite::tungstenite::{Error, Message, handshake::client::Request, http};

use super::{Upstream, connection::Connection, exchange, server};
use crate::link::Link;

/// The faults of the upstreams, and of the way to them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Share of the requests and handshakes that fail.
    pub(crate) failed: f64,
    /// Longest time until a connection is dropped, if they are.
    pub(crate) dropped_within: Duration,
    /// Share of the trades that are not sent on a connection.
    pub(crate) skipped: f64,
    /// Share of the trades that the REST interface does not have.
    pub(crate) forgotten: f64,
    /// Share of the messages that are sent twice.
    pub(crate) doubled: f64,
    /// Share of the messages that are sent after the next one.
    pub(crate) reordered: f64,
    /// Share of the messages before which the upstream sends one that is not valid.
    pub(crate) garbage: f64,
}

/// The network of one poller.
pub(crate) struct SimulatedNetwork {
    pub(crate) upstream: Upstream,
    pub(crate) link: Link,
    /// The name of the poller.
    pub(crate) owner: String,
    /// How many requests in a row have failed. A source gives up a trade that it could not fetch three times.
    pub(crate) failures: AtomicU32,
}

impl SimulatedNetwork {
    /// Waits as long as a message takes.
    async fn pass(&self) {
        self.link.is_up().await;
        time::sleep(Duration::from_micros(fastrand::u64(2_000..50_000))).await;
        self.link.is_up().await;
    }

    /// Draws whether a request fails.
    fn fails(&self) -> bool {
        let is_drawn = fastrand::f64() < self.upstream.faults.borrow().failed;
        let fails = is_drawn && self.failures.load(Ordering::Relaxed) < 2;
        if fails {
            self.failures.fetch_add(1, Ordering::Relaxed);
            self.upstream.trace.count("upstreams: failed requests");
        } else {
            self.failures.store(0, Ordering::Relaxed);
        }
        fails
    }
}

impl Network for SimulatedNetwork {
    fn get(&self, request: Get) -> BoxFuture<'_, Result<Response, GetError>> {
        Box::pin(async move {
            self.pass().await;
            let failed =
                |status| Response { status, headers: HeaderMap::new(), body: bytes::Bytes::new() };
            if self.fails() {
                return match fastrand::u8(..3) {
                    0 => Ok(failed(StatusCode::BAD_GATEWAY)),
                    1 => Err(GetError::NoResponse("the connection was reset".into())),
                    _ => {
                        time::sleep(request.within).await;
                        Err(GetError::NoResponse("timed out".into()))
                    }
                };
            }
            let response = match request.url.host_str() {
                Some(exchange::HOST) => exchange::respond(&self.upstream, &request.url),
                Some(server::HOST) => server::respond(&self.upstream, &request.url),
                other => panic!("a source asks {other:?}"),
            };
            self.pass().await;
            let response = response.map(|(headers, json)| Response {
                status: StatusCode::OK,
                headers,
                body: json.to_string().into(),
            });
            let response = response.unwrap_or_else(|| failed(StatusCode::NOT_FOUND));
            let who = format!("{} GET {}: {}", self.owner, request.url, response.status);
            self.upstream.trace.record(&who, &response.body);
            Ok(response)
        })
    }

    fn open(&self, request: Request, _: Reach, _: usize) -> BoxFuture<'_, Result<Socket, Error>> {
        Box::pin(async move {
            self.pass().await;
            if self.fails() {
                return Err(if fastrand::bool() {
                    Error::Io(io::Error::other("the connection was reset"))
                } else {
                    let mut response = http::Response::new(None);
                    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                    Error::Http(Box::new(response))
                });
            }
            let (to_upstream, from_client) = mpsc::unbounded_channel();
            let (to_client, from_upstream) = mpsc::unbounded_channel();
            self.upstream.trace.record(&self.owner, format!("opened {}", request.uri()).as_bytes());
            let connection =
                Connection::new(self.upstream.clone(), &self.owner, from_client, to_client);
            match request.uri().host() {
                Some(exchange::HOST) => tokio::spawn(exchange::serve(connection)),
                Some(server::STREAMING_HOST) => tokio::spawn(server::serve(connection)),
                other => panic!("a source connects to {other:?}"),
            };
            let link = self.link.clone();
            let messages = futures_util::stream::unfold(from_upstream, move |mut messages| {
                let link = link.clone();
                async move {
                    let message = messages.recv().await?;
                    link.is_up().await;
                    Some((Ok(message), messages))
                }
            });
            Ok(Box::new(Simulated { messages: Box::pin(messages), to_upstream }) as Socket)
        })
    }
}

/// The poller's end of a WebSocket.
struct Simulated {
    messages: BoxStream<'static, Result<Message, Error>>,
    to_upstream: mpsc::UnboundedSender<Message>,
}

impl Stream for Simulated {
    type Item = Result<Message, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.messages.as_mut().poll_next(context)
    }
}

impl Sink<Message> for Simulated {
    type Error = Error;

    fn poll_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn start_send(self: Pin<&mut Self>, message: Message) -> Result<(), Error> {
        self.to_upstream.send(message).map_err(|_| Error::ConnectionClosed)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }
}

/// Returns when a connection that opens now is dropped, if it is.
pub(super) fn dropped_at(faults: Faults) -> Option<Instant> {
    let within = faults.dropped_within;
    (!within.is_zero()).then(|| Instant::now() + within.mul_f64(fastrand::f64()))
}
