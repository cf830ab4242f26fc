//! The task of one WebSocket: it reads messages, writes pending output, and invokes `$disconnect`
//! at the end.

use std::{
    borrow::Cow,
    cell::RefCell,
    future::{Future as _, poll_fn},
    net::Shutdown,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    join,
    time::{self, Instant, Sleep},
};
use tracing::debug;

use crate::{
    clock,
    fault_rates::occurs,
    frames::decode::{ClientMessage, Decoder},
    frames::encode,
    ids,
    invocation::invoke,
    sockets::socket::{Client, CloseStatus, Socket},
    state::GatewayState,
    web_socket::events::EventBuilder,
    web_socket::messages,
};

/// The size of one read. All connections of a thread share the buffer, so an idle connection needs none.
const READ_BYTES: usize = 16 * 1_024;

/// Most bytes that are read from a closed connection.
const DRAINED_BYTES: usize = 64 * 1_024;

/// The status code with which a client that sends too much is disconnected (RFC 6455 section 7.4.1).
const POLICY_VIOLATION: u16 = 1008;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// Serves an open WebSocket until it closes. `early` has the bytes that the client sent right after its
/// handshake.
pub(crate) async fn run(state: Arc<GatewayState>, socket: Arc<Socket>, early: Vec<u8>) {
    let status = {
        let mut reader = Reader::new(&state, &socket, early);
        reader.spend(reader.unread.len());
        poll_fn(|cx| reader.poll(cx)).await
    };
    // Boxed, so that the task of an open connection does not hold the memory needed at its end.
    Box::pin(finish(&state, &socket, &status)).await;
}

async fn finish(state: &GatewayState, socket: &Socket, status: &CloseStatus) {
    let id = &socket.client.id;
    debug!(connection.id = %id, code = status.code, "connection closed");
    state.sockets.remove(id);
    let drained = async {
        // After the grace period, the connection is closed even if it is not drained.
        let _ = time::timeout(state.sockets.limits().grace, drain(socket)).await;
        socket.shut_down(Shutdown::Both);
    };
    join!(drained, disconnect(state, &socket.client, status));
}

/// Invokes `$disconnect` for a closed connection, and ignores the response.
pub(crate) async fn disconnect(state: &GatewayState, client: &Client, status: &CloseStatus) {
    let Some(route) = state.config.routes.disconnect() else { return };
    let faults = state.sockets.faults();
    if occurs(faults.lost_disconnect) {
        return;
    }
    if !faults.disconnect_delay.is_zero() {
        time::sleep(faults.disconnect_delay).await;
    }
    let at = clock::now();
    let request_id = ids::request(at);
    let builder = EventBuilder { api: &state.config.api, client, request_id: &request_id, at };
    let limit = state.sockets.limits().integration;
    let (functions, function) = (&*state.functions, &route.function);
    let event = builder.disconnect(status);
    let _ = if state.shutdown.is_cancelled() {
        // All connections end at the same time, and the gateway does not wait for long.
        invoke(None, functions, function, event, limit).await
    } else {
        let address = state.addresses.of(client.source_ip);
        let invoking = invoke(Some(&address), functions, function, event, limit);
        address.place().await.run(invoking).await
    };
}

/// Writes the pending output, which ends with the close frame, and reads until the client closes its
/// side. The kernel resets a connection that is closed with unread data, and then the client may not
/// receive the close frame.
async fn drain(socket: &Socket) {
    if poll_fn(|cx| socket.poll_flush(cx)).await.is_err() {
        return;
    }
    socket.shut_down(Shutdown::Write);
    let mut discarded = [0; 512];
    let mut left = DRAINED_BYTES;
    while let Ok(read @ 1..) = poll_fn(|cx| socket.poll_read(cx, &mut discarded)).await {
        left = left.saturating_sub(read);
        if left == 0 {
            return;
        }
    }
}

struct Reader<'a> {
    state: &'a Arc<GatewayState>,
    socket: &'a Arc<Socket>,
    decoder: Decoder,
    /// Bytes that were read but not decoded, because a limit was reached.
    unread: Vec<u8>,
    /// Until when nothing is decoded or read, because the client or its address has sent too much.
    pause: Option<Pin<Box<Sleep>>>,
    /// Whether the last read filled the buffer, so that there probably is more.
    has_more: bool,
    /// When the first pause began after which not all has been decoded that the client had sent.
    behind_since: Option<Instant>,
}

impl<'a> Reader<'a> {
    fn new(state: &'a Arc<GatewayState>, socket: &'a Arc<Socket>, unread: Vec<u8>) -> Self {
        let decoder = Decoder::default();
        Self { state, socket, decoder, unread, pause: None, has_more: false, behind_since: None }
    }

    /// Reads and writes until the connection closes.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<CloseStatus> {
        self.socket.register(cx.waker());
        loop {
            if let Poll::Ready(Err(_)) = self.socket.poll_flush(cx) {
                self.socket.mark_lost();
            }
            if let Some(status) = self.socket.close_status() {
                return Poll::Ready(status);
            }
            if self.socket.is_busy(self.state.sockets.limits().in_flight) {
                return Poll::Pending;
            }
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            if !self.unread.is_empty() {
                let unread = std::mem::take(&mut self.unread);
                self.decode(&unread);
                continue;
            }
            ready!(self.poll_read(cx));
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        BUFFER.with_borrow_mut(|buffer| {
            match ready!(self.socket.poll_read(cx, buffer)) {
                Ok(0) | Err(_) => self.socket.mark_lost(),
                Ok(read) => {
                    self.has_more = read == buffer.len();
                    self.spend(read);
                    self.decode(&buffer[..read]);
                }
            }
            Poll::Ready(())
        })
    }

    /// Counts bytes, before they are decoded.
    fn spend(&mut self, bytes: usize) {
        self.wait(self.socket.spend_bytes(bytes));
        self.wait(self.socket.address().bytes().spend(bytes));
    }

    /// Waits before anything more is decoded or read. A client that has sent too much for a long time is
    /// disconnected.
    fn wait(&mut self, time: Duration) {
        if time.is_zero() {
            return;
        }
        let now = Instant::now();
        let since = *self.behind_since.get_or_insert(now);
        if now - since > self.state.sockets.limits().longest_pause {
            let reason = Cow::Borrowed("Too many messages");
            self.socket
                .close(Some(POLICY_VIOLATION), CloseStatus { code: POLICY_VIOLATION, reason });
        }
        match &mut self.pause {
            Some(pause) if pause.deadline() >= now + time => {}
            Some(pause) => pause.as_mut().reset(now + time),
            None => self.pause = Some(Box::pin(time::sleep_until(now + time))),
        }
    }

    /// Notes that all was decoded that was read.
    fn catch_up(&mut self) {
        if !self.has_more {
            self.behind_since = None;
        }
    }

    fn decode(&mut self, mut input: &[u8]) {
        let limits = self.state.sockets.limits();
        loop {
            if input.is_empty() {
                self.catch_up();
            }
            if self.pause.is_some() || self.socket.is_busy(limits.in_flight) {
                self.unread = input.to_vec();
                return;
            }
            let decoded = self.decoder.decode(&mut input, limits);
            if let Ok(Some(_)) = decoded {
                self.wait(self.socket.spend_message());
            }
            match decoded {
                Ok(None) => return self.catch_up(),
                Ok(Some(ClientMessage::Text(text))) => {
                    messages::receive(self.state, self.socket, text);
                }
                Ok(Some(ClientMessage::Ping(payload))) => {
                    // If the client does not read, the pong is dropped.
                    let _ = self.socket.send(&encode::pong(&payload), limits.send_buffer_bytes);
                }
                Ok(Some(ClientMessage::Pong | ClientMessage::Fragment)) => {}
                Ok(Some(ClientMessage::Close(None))) => {
                    return self.socket.close(None, CloseStatus::NO_STATUS);
                }
                Ok(Some(ClientMessage::Close(Some((code, reason))))) => {
                    return self
                        .socket
                        .close(Some(code), CloseStatus { code, reason: reason.into() });
                }
                Err(violation) => {
                    let code = violation.code();
                    let status = CloseStatus { code, reason: violation.to_string().into() };
                    return self.socket.close(Some(code), status);
                }
            }
        }
    }
}
