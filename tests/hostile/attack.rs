//! What the attackers do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

use crate::target::{MATCHES, Target};

type Connection = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// The pause after an attacker was turned away.
const PAUSE: Duration = Duration::from_millis(10);

/// The size of the socket buffer of an attacker. What the server does not read fills it, and then the attacker
/// waits. With the large one that the system gives, an attacker would take most of the machine's time to fill it.
const SEND_BUFFER_BYTES: u32 = 16 * 1024;

/// The number of requests that are sent at once.
const REQUESTS: usize = 100;

/// The size of a large message.
const MESSAGE_BYTES: usize = 32_000;

/// A way to ask for too much.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Attack {
    /// `subscribe` with unknown pairs, ten times a second on one connection.
    UnknownPairs,
    /// Messages of nested objects on ten connections.
    Braces,
    /// Messages of keys without values on ten connections.
    Keys,
    /// Pings on ten connections.
    Pings,
    /// `hello` on twenty connections.
    Hello,
    /// Fifty new hashtags on a connection that goes then, twenty at a time.
    Hashtags,
    /// Handshakes, 150 at a time.
    Handshakes,
    /// TCP connections without a request, 200 at a time.
    Silence,
    /// Many requests for as much history as possible, which is not read, on ten connections.
    History,
    /// Many requests for the page, or for pages of history, whose responses are not read, on 100 connections.
    Unread,
}

/// Attackers that are at work until they are stopped.
pub(crate) struct Attackers {
    tasks: JoinSet<()>,
    requests: Arc<AtomicUsize>,
}

impl Attackers {
    /// Starts the attack on a server.
    pub(crate) fn start(attack: Attack, target: &Target) -> Self {
        let requests = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for n in 0..attack.attackers() {
            let attacker = Attacker { n, target: target.clone(), requests: requests.clone() };
            tasks.spawn(async move {
                loop {
                    // Whatever the server does to the attacker, the attacker tries again.
                    let _ = attacker.attack(attack).await;
                    time::sleep(PAUSE).await;
                }
            });
        }
        Self { tasks, requests }
    }

    /// Ends the attack, and returns the number of requests.
    pub(crate) async fn stop(mut self) -> usize {
        self.tasks.shutdown().await;
        self.requests.load(Ordering::Relaxed)
    }
}

impl Attack {
    fn attackers(self) -> usize {
        match self {
            Self::UnknownPairs => 1,
            Self::Braces | Self::Keys | Self::Pings | Self::History => 10,
            Self::Hello | Self::Hashtags => 20,
            Self::Handshakes => 150,
            Self::Unread => 100,
            Self::Silence => 200,
        }
    }
}

struct Attacker {
    n: usize,
    target: Target,
    requests: Arc<AtomicUsize>,
}

impl Attacker {
    async fn attack(&self, attack: Attack) -> anyhow::Result<()> {
        match attack {
            Attack::UnknownPairs => {
                let topics: Vec<_> =
                    (0..100).map(|n| format!("coinbase/ticker/ZZ{n}-QQ{n}")).collect();
                let text = json!({"action": "subscribe", "topics": topics}).to_string();
                self.flood(Message::text(text), Duration::from_millis(100)).await
            }
            Attack::Braces => {
                let braces = r#"{"a":"#.repeat(MESSAGE_BYTES / 5);
                self.flood(Message::text(format!(r#"{{"action":{braces}"#)), Duration::ZERO).await
            }
            Attack::Keys => {
                let keys = r#""a","#.repeat(MESSAGE_BYTES / 4);
                self.flood(Message::text(format!(r#"{{"action":"x",{keys}"#)), Duration::ZERO).await
            }
            Attack::Pings => self.flood(Message::Ping(Vec::new().into()), Duration::ZERO).await,
            Attack::Hello => {
                self.flood(Message::text(r#"{"action":"hello"}"#), Duration::ZERO).await
            }
            Attack::Hashtags => self.subscribe_and_go().await,
            Attack::Handshakes => {
                self.connect().await?;
                Ok(())
            }
            Attack::Silence => {
                let _connection = TcpStream::connect(self.target.address).await?;
                self.count();
                time::sleep(Duration::from_secs(1)).await;
                Ok(())
            }
            Attack::History => self.ask_and_not_read().await,
            Attack::Unread => self.request_and_not_read().await,
        }
    }

    fn count(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    async fn connect(&self) -> anyhow::Result<Connection> {
        self.count();
        let mut request = format!("ws://{}/live", self.target.address).into_client_request()?;
        let protocols = self.target.protocols.join(", ");
        request.headers_mut().insert("sec-websocket-protocol", protocols.parse()?);
        let stream = MaybeTlsStream::Plain(self.stream().await?);
        Ok(client_async(request, stream).await?.0)
    }

    async fn stream(&self) -> anyhow::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
        Ok(socket.connect(self.target.address).await?)
    }

    /// Sends a message again and again, and reads what comes.
    async fn flood(&self, message: Message, pause: Duration) -> anyhow::Result<()> {
        let (mut sink, mut stream) = self.connect().await?.split();
        let send = async {
            loop {
                sink.send(message.clone()).await?;
                self.count();
                if !pause.is_zero() {
                    time::sleep(pause).await;
                }
            }
        };
        let read = async { while let Some(Ok(_)) = stream.next().await {} };
        tokio::select! {
            result = send => result,
            () = read => Ok(()),
        }
    }

    async fn subscribe_and_go(&self) -> anyhow::Result<()> {
        let mut connection = self.connect().await?;
        let salt = fastrand::u32(..);
        let topics: Vec<_> =
            (0..50).map(|n| format!("mastodon/tag/t{}x{salt}x{n}", self.n)).collect();
        let text = json!({"action": "subscribe", "topics": topics, "id": "it"}).to_string();
        connection.send(Message::text(text)).await?;
        self.count();
        while let Some(message) = connection.next().await {
            if message?.to_text().is_ok_and(|text| text.contains(r#""id":"it""#)) {
                break;
            }
        }
        Ok(())
    }

    async fn request_and_not_read(&self) -> anyhow::Result<()> {
        let mut connection = self.stream().await?;
        let history = format!("/api/v1/history/{MATCHES}?limit=1000");
        let path = if self.n.is_multiple_of(10) { &history } else { "/" };
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.target.address);
        // Many at once, because a write for each would take the time of the server.
        let requests = request.repeat(REQUESTS);
        loop {
            connection.write_all(requests.as_bytes()).await?;
            self.requests.fetch_add(REQUESTS, Ordering::Relaxed);
        }
    }

    async fn ask_and_not_read(&self) -> anyhow::Result<()> {
        let mut connection = self.connect().await?;
        let text = json!({"action": "subscribe", "topics": [MATCHES], "last": 1_000}).to_string();
        loop {
            connection.send(Message::text(text.clone())).await?;
            self.count();
        }
    }
}
