//! The Mastodon server's streams as server-sent events, one stream a connection.

use std::{io, sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{Path, RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use serde_json::json;
use tokio::{
    sync::{broadcast::error::RecvError, mpsc},
    time::{self, Instant},
};
use tungstenite::Message;

use super::{Denied, Event, Mastodon, feed::ClientFeed, query::Query, streams::Stream};
use crate::{
    faults::Fault,
    mangler::Frame,
    session::{Feed, at},
    stats::Stats,
};

/// How often a quiet stream shows that it lives.
const THUMP_EVERY: Duration = Duration::from_secs(15);
/// Chunks that wait in front of the socket.
const CHUNKS: usize = 64;

type Chunks = mpsc::Sender<io::Result<Bytes>>;

/// Answers `GET /api/v1/streaming/{path}`.
pub(super) async fn connect(
    State(server): State<Arc<Mastodon>>,
    Path(path): Path<String>,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = Query::parse(raw.as_deref());
    let refused = |status: u16, error: &str| {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
        (status, Json(json!({"error": error}))).into_response()
    };
    if let Err(Denied(error)) = server.authorize(&headers, &query) {
        return refused(401, error);
    }
    let stream = match Stream::at_path(&path, query.get("tag"), query.is_set("only_media")) {
        Ok(stream) => stream,
        Err((error, status)) => return refused(status, error),
    };
    let (chunks, mut received) = mpsc::channel(CHUNKS);
    let tasks = server.host.tasks.clone();
    tasks.spawn(async move {
        Stats::add(&server.host.stats.accepted, 1);
        server.host.stats.want(&stream.name);
        serve(&server, &stream, chunks).await;
        server.host.stats.unwant(&stream.name);
        Stats::add(&server.host.stats.closed, 1);
    });
    let body = Body::from_stream(stream::poll_fn(move |context| received.poll_recv(context)));
    let headers =
        [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "private, no-store")];
    (headers, body).into_response()
}

async fn serve(server: &Mastodon, stream: &Stream, chunks: Chunks) {
    let (mut faults, mut drops) = server.host.switch.watch();
    let mut events = server.events.subscribe();
    let mut cut_at = None;
    let mut mangler = server.host.mangler();
    let mut thumps = time::interval_at(Instant::now() + THUMP_EVERY, THUMP_EVERY);
    let cut = || io::Error::from(io::ErrorKind::ConnectionReset);
    let first = if server.host.switch.is_on(Fault::Silent) { Bytes::new() } else { ":)\n".into() };
    let _ = chunks.send(Ok(first)).await;
    loop {
        let active = *faults.borrow_and_update();
        if !active.has(Fault::Drop) {
            cut_at = None;
        } else if cut_at.is_none() {
            cut_at = Some(Instant::now() + mangler.patience());
        }
        let mut messages = Vec::new();
        tokio::select! {
            () = server.host.shutdown.cancelled() => return,
            () = chunks.closed() => return,
            _ = faults.changed() => continue,
            _ = drops.changed() => return drop(chunks.send(Err(cut())).await),
            () = at(cut_at) => return drop(chunks.send(Err(cut())).await),
            _ = thumps.tick() => messages.push(Message::text(":thump\n\n")),
            event = events.recv() => match event {
                Err(RecvError::Closed) => return,
                Err(RecvError::Lagged(_)) => return drop(chunks.send(Err(cut())).await),
                Ok(event) => {
                    let skipped = event.skippable && active.has(Fault::SkipTrades);
                    if !skipped && stream.carries(&event.post) {
                        let frame = Frame::movable(written(&event));
                        mangler.pass(frame, active, ClientFeed::GARBAGE, &mut messages);
                    }
                }
            },
        }
        if active.has(Fault::Silent) {
            continue;
        }
        Stats::add(&server.host.stats.messages, messages.len());
        for message in messages {
            let mut chunk = message.into_data().to_vec();
            // What was cut short ends there, so that it cannot spoil its successor.
            if !chunk.ends_with(b"\n\n") {
                chunk.extend(b"\n\n");
            }
            tokio::select! {
                sent = chunks.send(Ok(chunk.into())) => if sent.is_err() { return },
                () = server.host.shutdown.cancelled() => return,
            }
        }
    }
}

fn written(event: &Event) -> String {
    format!("event: {}\ndata: {}\n\n", event.name, event.data())
}
