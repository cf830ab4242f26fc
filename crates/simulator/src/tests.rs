//! Tests of both simulators over WebSocket and HTTP.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use tokio::time;
use tokio_util::sync::CancellationToken;

use super::*;

mod coinbase;
mod mastodon;
mod script;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// The time limit of every wait.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(clap::Parser)]
struct CommandLine {
    #[command(flatten)]
    options: Options,
}

#[test]
fn the_command_line_is_consistent() {
    use clap::{CommandFactory, Parser};
    CommandLine::command().debug_assert();
    let given = ["simulate", "--rate", "500", "--faults", "drop,skip-trades"];
    let options = CommandLine::parse_from(given).options;
    assert_eq!(options.faults, [Fault::Drop, Fault::SkipTrades]);
    assert_eq!(options.coinbase_listen.port(), 4801);
    assert!(CommandLine::try_parse_from(["simulate", "--rate", "0"]).is_err());
    assert!(CommandLine::try_parse_from(["simulate", "--faults", "fire"]).is_err());
}

#[tokio::test]
async fn both_servers_end_with_the_token() {
    let shutdown = CancellationToken::new();
    let simulator = Simulator::start(&Options::default(), shutdown.clone()).await.unwrap();
    let mut coinbase = connect(&simulator.coinbase_url()).await;
    shutdown.cancel();
    time::timeout(PATIENCE, simulator.stopped()).await.unwrap();
    assert!(ended(&mut coinbase).await.is_none());
}

async fn start(change: impl FnOnce(&mut Options)) -> Simulator {
    let mut options = Options::default();
    change(&mut options);
    Simulator::start(&options, CancellationToken::new()).await.unwrap()
}

async fn connect(url: &str) -> Socket {
    let (socket, _) = connect_async(url).await.unwrap();
    socket
}

async fn send(socket: &mut Socket, text: &str) {
    socket.send(Message::text(text)).await.unwrap();
}

/// Returns the next message, except pings and pongs.
async fn receive(socket: &mut Socket) -> Message {
    loop {
        match time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap() {
            Message::Ping(_) | Message::Pong(_) => {}
            other => return other,
        }
    }
}

async fn receive_json(socket: &mut Socket) -> Value {
    serde_json::from_str(receive(socket).await.to_text().unwrap()).unwrap()
}

/// Returns messages until `enough` returns true. A message that is not JSON is `null`.
async fn receive_until(socket: &mut Socket, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let mut values = Vec::new();
    while !enough(&values) {
        let message = receive(socket).await;
        values.push(serde_json::from_slice(&message.into_data()).unwrap_or_default());
    }
    values
}

/// Reads until a connection ends. Returns its last text message if the end was a close frame.
async fn ended(socket: &mut Socket) -> Option<String> {
    let mut last = String::new();
    loop {
        match time::timeout(PATIENCE, socket.next()).await.unwrap() {
            Some(Ok(Message::Close(_))) => return Some(last),
            Some(Ok(Message::Text(text))) => last = text.to_string(),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return None,
        }
    }
}

fn http() -> reqwest::Client {
    reqwest::Client::builder().user_agent("headwater-tests").build().unwrap()
}

async fn get(url: String) -> (u16, Value) {
    let answer = http().get(url).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap_or_default())
}

/// Waits until the statistics of an upstream satisfy a condition.
async fn until_stats(base: &str, condition: impl Fn(&Value) -> bool) {
    let wait = async {
        while !condition(&get(format!("{base}/_simulator/stats")).await.1) {
            tokio::task::yield_now().await;
        }
    };
    time::timeout(PATIENCE, wait).await.unwrap();
}
