//! A small HTTP and WebSocket server, on one port of its own, for the stand-ins.

use std::{net::SocketAddr, sync::Arc};

use futures_util::{SinkExt as _, StreamExt as _, future::BoxFuture};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc::UnboundedReceiver,
};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};
use tungstenite::{handshake::derive_accept_key, protocol::Role};

/// A request, as far as stand-ins look at it.
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) query: String,
    headers: Vec<(String, String)>,
}

impl Request {
    /// The value of a header, given in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(it, _)| it == name).map(|(_, value)| value.as_str())
    }

    /// The values of a query parameter that needs no decoding.
    pub(crate) fn query(&self, name: &str) -> impl Iterator<Item = &str> {
        self.query.split('&').filter_map(move |pair| {
            let (key, value) = pair.split_once('=')?;
            (key == name).then_some(value)
        })
    }
}

/// An answer.
pub(crate) enum Answer {
    /// The request becomes a WebSocket.
    Upgrade,
    /// Status, more headers, and a body of JSON.
    Http(u16, Vec<(&'static str, String)>, String),
}

impl Answer {
    pub(crate) fn ok(body: &Value) -> Self {
        Self::Http(200, Vec::new(), body.to_string())
    }

    pub(crate) fn status(status: u16) -> Self {
        Self::Http(status, Vec::new(), r#"{"message":"no"}"#.to_owned())
    }
}

/// What is on a port.
pub(crate) trait Site: Send + Sync + 'static {
    fn answer(&self, request: &Request) -> Answer;

    fn converse(self: Arc<Self>, socket: Socket) -> BoxFuture<'static, ()>;
}

pub(crate) type Socket = WebSocketStream<TcpStream>;

/// Serves a site on a free loopback port for as long as the runtime lives.
pub(crate) async fn serve<S: Site>(make: impl FnOnce(SocketAddr) -> S) -> Arc<S> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let site = Arc::new(make(listener.local_addr().unwrap()));
    let serving = site.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that goes away is no concern of a stand-in.
            tokio::spawn(exchange_words(serving.clone(), stream));
        }
    });
    site
}

async fn exchange_words<S: Site>(site: Arc<S>, mut stream: TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let target = lines.next()?.split(' ').nth(1)?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
    let request = Request { path: path.into(), query: query.into(), headers: headers.collect() };
    match site.answer(&request) {
        Answer::Upgrade => {
            let accept = derive_accept_key(request.header("sec-websocket-key")?.as_bytes());
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\n\
                 upgrade: websocket\r\nsec-websocket-accept: {accept}\r\n\r\n"
            );
            stream.write_all(answer.as_bytes()).await.ok()?;
            let socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
            site.converse(socket).await;
        }
        Answer::Http(status, headers, body) => {
            let mut answer = format!(
                "HTTP/1.1 {status} Something\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\nconnection: close\r\n",
                body.len()
            );
            for (name, value) in headers {
                answer.extend([name, ": ", &value, "\r\n"]);
            }
            answer = answer + "\r\n" + &body;
            stream.write_all(answer.as_bytes()).await.ok()?;
            stream.shutdown().await.ok()?;
        }
    }
    Some(())
}

/// What a test has a WebSocket do.
pub(crate) enum Order {
    Text(String),
    Binary(Vec<u8>),
    /// Break off without a close frame.
    Drop,
}

/// Does what is ordered and hands on what the client says, until either ends it.
pub(crate) async fn follow(
    mut socket: Socket,
    mut orders: UnboundedReceiver<Order>,
    mut hear: impl FnMut(&str),
) {
    loop {
        tokio::select! {
            said = socket.next() => match said {
                Some(Ok(Message::Text(text))) => hear(&text),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
            order = orders.recv() => {
                let mut next = order;
                while let Some(order) = next {
                    let message = match order {
                        Order::Text(text) => Message::text(text),
                        Order::Binary(bytes) => Message::binary(bytes),
                        Order::Drop => return,
                    };
                    if socket.feed(message).await.is_err() {
                        return;
                    }
                    next = orders.try_recv().ok();
                }
                if socket.flush().await.is_err() || orders.is_closed() {
                    return;
                }
            }
        }
    }
}
