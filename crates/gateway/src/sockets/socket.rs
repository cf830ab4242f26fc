//! One open WebSocket: its pending output, and the time of its last activity.
//!
//! The sending task writes to the kernel directly. Only the bytes that the kernel does not accept
//! are queued, and the connection's own task writes them when there is room again. A delivery
//! therefore costs one `send`, and a client that stops reading does not delay the sender.

use std::{
    borrow::Cow,
    collections::VecDeque,
    io::{self, ErrorKind, IoSlice},
    mem,
    net::{IpAddr, Shutdown},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::{addresses::Address, frames::encode, limits::GatewayLimits, rate::TokenBucket};

/// The number of pieces that are passed to the kernel in one call.
const PIECES: usize = 16;

/// The client at the other end, as events describe it.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: Box<str>,
    /// Milliseconds since 1970, fixed for the life of the connection.
    pub(crate) connected_at: u64,
    pub(crate) source_ip: IpAddr,
    pub(crate) user_agent: Option<Box<str>>,
    /// The host that the client requested.
    pub(crate) domain_name: Box<str>,
    /// The authorizer's context, serialized for `requestContext.authorizer`.
    pub(crate) authorizer: Option<Box<RawValue>>,
}

/// The status code and the reason with which a connection closed. The event of `$disconnect` carries
/// them as `disconnectStatusCode` and `disconnectReason`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CloseStatus {
    pub(crate) code: u16,
    pub(crate) reason: Cow<'static, str>,
}

impl CloseStatus {
    /// The connection exceeded the idle limit or the lifetime limit, or the gateway shuts down.
    pub(crate) const GOING_AWAY: Self = Self { code: 1001, reason: Cow::Borrowed("Going away") };
    /// The management API closed the connection.
    pub(crate) const NORMAL: Self =
        Self { code: 1000, reason: Cow::Borrowed("Connection Closed Normally") };
    /// The client sent a close frame without a status code.
    pub(crate) const NO_STATUS: Self =
        Self { code: 1005, reason: Cow::Borrowed("Client-side close frame status not set") };
    /// The TCP connection ended without a close frame.
    pub(crate) const ABNORMAL: Self =
        Self { code: 1006, reason: Cow::Borrowed("Connection closed abnormally") };
}

/// Why a socket did not accept a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendError {
    Closed,
    Full,
}

/// One open WebSocket.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) client: Client,
    stream: TcpStream,
    is_half_open: bool,
    outbound: Mutex<Outbound>,
    task: AtomicWaker,
    last_active: AtomicU64,
    in_flight: AtomicU32,
    messages: TokenBucket,
    bytes: TokenBucket,
    address: Arc<Address>,
}

#[derive(Debug, Default)]
struct Outbound {
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    /// Set once the connection is closed or lost.
    close_status: Option<CloseStatus>,
}

impl Socket {
    pub(crate) fn new(
        client: Client,
        stream: TcpStream,
        is_half_open: bool,
        limits: &GatewayLimits,
        address: Arc<Address>,
    ) -> Self {
        Self {
            last_active: AtomicU64::new(client.connected_at),
            client,
            stream,
            is_half_open,
            outbound: Mutex::default(),
            task: AtomicWaker::new(),
            in_flight: AtomicU32::new(0),
            messages: TokenBucket::new(limits.messages),
            bytes: TokenBucket::new(limits.bytes),
            address,
        }
    }

    /// Sends complete frames, or nothing if more than `limit_bytes` would be pending.
    pub(crate) fn send(&self, frames: &Bytes, limit_bytes: usize) -> Result<(), SendError> {
        let mut outbound = self.outbound.lock();
        if outbound.close_status.is_some() {
            return Err(SendError::Closed);
        }
        if self.is_half_open {
            return Ok(());
        }
        if !outbound.queue.is_empty() {
            return outbound.queue_within(frames, limit_bytes);
        }
        match self.stream.try_write(frames) {
            Ok(written) if written == frames.len() => return Ok(()),
            Ok(written) => outbound.queue(frames.slice(written..)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => outbound.queue(frames.clone()),
            Err(_) => outbound.close_status = Some(CloseStatus::ABNORMAL),
        }
        let is_lost = outbound.close_status.is_some();
        drop(outbound);
        self.task.wake();
        if is_lost { Err(SendError::Closed) } else { Ok(()) }
    }

    /// Sends a close frame after the pending output, unless the connection is already closed. Without
    /// `wire_code`, the frame is empty.
    pub(crate) fn close(&self, wire_code: Option<u16>, status: CloseStatus) {
        let mut outbound = self.outbound.lock();
        if outbound.close_status.is_none() {
            outbound.queue(encode::close(wire_code, &status.reason));
            outbound.close_status = Some(status);
            drop(outbound);
            self.task.wake();
        }
    }

    /// Drops the pending output and marks the connection as lost, unless it is already closed.
    pub(crate) fn mark_lost(&self) {
        let mut outbound = self.outbound.lock();
        outbound.queue.clear();
        outbound.close_status.get_or_insert(CloseStatus::ABNORMAL);
    }

    /// Returns how the connection was closed, or `None` while it is open.
    pub(crate) fn close_status(&self) -> Option<CloseStatus> {
        self.outbound.lock().close_status.clone()
    }

    /// Records a message in either direction at `now`, milliseconds since 1970.
    pub(crate) fn touch(&self, now: u64) {
        self.last_active.store(now, Ordering::Relaxed);
    }

    pub(crate) fn last_active(&self) -> u64 {
        self.last_active.load(Ordering::Relaxed)
    }

    /// What the client shares with the others of its address.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Notes that the client has sent so many bytes. Returns how long to wait before they are decoded.
    pub(crate) fn spend_bytes(&self, bytes: usize) -> Duration {
        self.bytes.spend(bytes)
    }

    /// Notes that the client has sent a message or another frame. Returns how long to wait before the next one.
    pub(crate) fn spend_message(&self) -> Duration {
        self.messages.spend(1)
    }

    /// Whether functions are processing `limit` messages of this connection.
    pub(crate) fn is_busy(&self, limit: u32) -> bool {
        self.in_flight.load(Ordering::Acquire) >= limit
    }

    pub(crate) fn begin_message(&self) {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
    }

    /// Wakes the connection's task if it stopped reading at `limit`.
    pub(crate) fn finish_message(&self, limit: u32) {
        if self.in_flight.fetch_sub(1, Ordering::AcqRel) >= limit {
            self.task.wake();
        }
    }

    /// Registers the task to wake when there is something to do.
    pub(crate) fn register(&self, task: &Waker) {
        self.task.register(task);
    }

    /// Reads once into `buffer`. Zero bytes mean that the client has closed its side.
    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Writes the pending output. Ready when all of it is written.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.outbound.lock().queue.is_empty() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.stream.poll_write_ready(cx))?;
            let mut outbound = self.outbound.lock();
            let mut pieces = [IoSlice::new(&[]); PIECES];
            let count = outbound.pieces(&mut pieces);
            match self.stream.try_write_vectored(&pieces[..count]) {
                Ok(written) => outbound.consume(written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Ends the TCP connection in one or both directions.
    pub(crate) fn shut_down(&self, how: Shutdown) {
        // An error means that the client has already closed the connection.
        let _ = SockRef::from(&self.stream).shutdown(how);
    }
}

impl Outbound {
    fn queue_within(&mut self, frames: &Bytes, limit_bytes: usize) -> Result<(), SendError> {
        if self.queued_bytes + frames.len() > limit_bytes {
            return Err(SendError::Full);
        }
        self.queue(frames.clone());
        Ok(())
    }

    fn queue(&mut self, piece: Bytes) {
        self.queued_bytes += cost(&piece);
        self.queue.push_back(piece);
    }

    fn pieces<'a>(&'a self, pieces: &mut [IoSlice<'a>]) -> usize {
        for (piece, queued) in pieces.iter_mut().zip(&self.queue) {
            *piece = IoSlice::new(queued);
        }
        self.queue.len().min(pieces.len())
    }

    fn consume(&mut self, mut written: usize) {
        while let Some(piece) = self.queue.front_mut() {
            if written < piece.len() {
                piece.advance(written);
                self.queued_bytes -= written;
                return;
            }
            written -= piece.len();
            self.queued_bytes -= cost(piece);
            self.queue.pop_front();
        }
        // An idle connection holds no memory for its queue.
        mem::take(&mut self.queue);
    }
}

/// Returns the memory that a piece takes in the queue. Small frames take more than their bytes.
fn cost(piece: &Bytes) -> usize {
    piece.len() + size_of::<Bytes>()
}
