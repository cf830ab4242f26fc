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
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::{
    frames::encode,
    rate::{Rate, TokenBucket},
};

/// Pieces handed to the kernel in one call.
const PIECES: usize = 16;

/// The client at the other end, as events describe it.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: Box<str>,
    /// Milliseconds since 1970, fixed for the life of the connection.
    pub(crate) connected_at: u64,
    pub(crate) source_ip: IpAddr,
    pub(crate) user_agent: Option<Box<str>>,
    /// The host the client asked for.
    pub(crate) domain_name: Box<str>,
    /// The authorizer's context, serialized for `requestContext.authorizer`.
    pub(crate) authorizer: Option<Box<RawValue>>,
}

/// How a connection ended: `disconnectStatusCode` and `disconnectReason`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) code: u16,
    pub(crate) reason: Cow<'static, str>,
}

impl End {
    /// The idle limit, the lifetime limit and a gateway that stops.
    pub(crate) const GOING_AWAY: Self = Self { code: 1001, reason: Cow::Borrowed("Going away") };
    /// `DELETE @connections`.
    pub(crate) const DELETED: Self =
        Self { code: 1000, reason: Cow::Borrowed("Connection Closed Normally") };
    /// A close frame of the client without a code.
    pub(crate) const NO_STATUS: Self =
        Self { code: 1005, reason: Cow::Borrowed("Client-side close frame status not set") };
    /// The TCP connection ended without a close frame.
    pub(crate) const LOST: Self =
        Self { code: 1006, reason: Cow::Borrowed("Connection closed abnormally") };
}

/// Why a socket did not accept a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendError {
    Ended,
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
}

#[derive(Debug, Default)]
struct Outbound {
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    end: Option<End>,
}

impl Socket {
    pub(crate) fn new(
        client: Client,
        stream: TcpStream,
        is_half_open: bool,
        messages: Option<Rate>,
    ) -> Self {
        Self {
            last_active: AtomicU64::new(client.connected_at),
            client,
            stream,
            is_half_open,
            outbound: Mutex::default(),
            task: AtomicWaker::new(),
            in_flight: AtomicU32::new(0),
            messages: TokenBucket::new(messages),
        }
    }

    /// Sends whole frames, or nothing if more than `bound` bytes would be pending.
    pub(crate) fn send(&self, frames: &Bytes, bound: usize) -> Result<(), SendError> {
        let mut outbound = self.outbound.lock();
        if outbound.end.is_some() {
            return Err(SendError::Ended);
        }
        if self.is_half_open {
            return Ok(());
        }
        if !outbound.queue.is_empty() {
            return outbound.queue_within(frames, bound);
        }
        match self.stream.try_write(frames) {
            Ok(written) if written == frames.len() => return Ok(()),
            Ok(written) => outbound.queue(frames.slice(written..)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => outbound.queue(frames.clone()),
            Err(_) => outbound.end = Some(End::LOST),
        }
        let is_lost = outbound.end.is_some();
        drop(outbound);
        self.task.wake();
        if is_lost { Err(SendError::Ended) } else { Ok(()) }
    }

    /// Sends a close frame after the pending output, unless the connection has already ended.
    /// Without a code on the wire the frame is empty.
    pub(crate) fn close(&self, wire_code: Option<u16>, end: End) {
        let mut outbound = self.outbound.lock();
        if outbound.end.is_none() {
            outbound.queue(encode::close(wire_code, &end.reason));
            outbound.end = Some(end);
            drop(outbound);
            self.task.wake();
        }
    }

    /// Marks a connection as lost and drops its pending output, unless it has already ended.
    pub(crate) fn lose(&self) {
        let mut outbound = self.outbound.lock();
        outbound.queue.clear();
        outbound.end.get_or_insert(End::LOST);
    }

    pub(crate) fn end(&self) -> Option<End> {
        self.outbound.lock().end.clone()
    }

    /// Records a message in either direction at `now`, milliseconds since 1970.
    pub(crate) fn touch(&self, now: u64) {
        self.last_active.store(now, Ordering::Relaxed);
    }

    pub(crate) fn last_active(&self) -> u64 {
        self.last_active.load(Ordering::Relaxed)
    }

    /// Whether the client stays within its rate limit.
    pub(crate) fn keeps_pace(&self) -> bool {
        self.messages.take()
    }

    /// Whether functions are working on `limit` messages of this connection.
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

    /// Reads once into `buffer`. Zero bytes mean the client sends no more.
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

    /// Writes the pending output; ready when none is left.
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
        // An error means that the client was faster.
        let _ = SockRef::from(&self.stream).shutdown(how);
    }
}

impl Outbound {
    fn queue_within(&mut self, frames: &Bytes, bound: usize) -> Result<(), SendError> {
        if self.queued_bytes + frames.len() > bound {
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
        // An idle connection keeps no queue.
        mem::take(&mut self.queue);
    }
}

/// The size of a piece in the queue: small frames take more memory than their bytes.
fn cost(piece: &Bytes) -> usize {
    piece.len() + size_of::<Bytes>()
}
