//! The table of open connections, through which messages are posted.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::task::yield_now;

use crate::{
    clock,
    fault_rates::{FaultRates, occurs},
    frames::encode,
    limits::GatewayLimits,
    post_error::PostError,
    rate::TokenBucket,
    sockets::socket::{CloseStatus, SendError, Socket},
};

/// The number of recipients that are served before the task yields to the runtime.
const BATCH: usize = 64;

/// The open connections of a gateway.
///
/// Create the table before the gateway, so that functions in the same process can post to it.
#[derive(Debug)]
pub struct Sockets {
    limits: GatewayLimits,
    faults: FaultRates,
    requests: TokenBucket,
    connects: TokenBucket,
    table: RwLock<Table>,
}

#[derive(Debug, Default)]
struct Table {
    sockets: HashMap<Key, Arc<Socket>, BuildHasherDefault<KeyHasher>>,
    is_closed: bool,
}

/// The 16 characters of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key(u64, u64);

impl Key {
    fn new(id: &str) -> Option<Self> {
        let (first, second) = id.as_bytes().split_first_chunk()?;
        Some(Self(u64::from_ne_bytes(*first), u64::from_ne_bytes(second.try_into().ok()?)))
    }
}

/// Hashes ids without protection against collisions: the gateway generates the ids, not the clients.
#[derive(Debug, Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, half: u64) {
        self.0 = (self.0.rotate_left(26) ^ half).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

impl Sockets {
    /// Creates an empty table for a gateway with these limits.
    pub fn new(limits: GatewayLimits) -> Self {
        Self {
            requests: TokenBucket::new(limits.requests),
            connects: TokenBucket::new(limits.connects),
            limits,
            faults: FaultRates::default(),
            table: RwLock::default(),
        }
    }

    /// Makes the gateway inject faults.
    #[must_use]
    pub fn with_faults(mut self, faults: FaultRates) -> Self {
        self.faults = faults;
        self
    }

    pub(crate) fn faults(&self) -> &FaultRates {
        &self.faults
    }

    /// Returns the limits that the gateway enforces.
    pub fn limits(&self) -> &GatewayLimits {
        &self.limits
    }

    /// Returns the number of open connections.
    pub fn len(&self) -> usize {
        self.table.read().sockets.len()
    }

    /// Whether no connection is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sends one text message to each connection and returns, by index, those that did not accept it.
    ///
    /// A message is accepted when it is in the connection's send buffer, after all messages of earlier
    /// posts that were awaited.
    pub async fn post(&self, ids: &[&str], message: Bytes) -> Vec<(usize, PostError)> {
        let frames = match self.frames(&message) {
            Ok(frames) => frames,
            Err(error) => return (0..ids.len()).map(|index| (index, error)).collect(),
        };
        let mut rejected = Vec::new();
        let mut batch = Vec::with_capacity(ids.len().min(BATCH));
        for (number, ids) in ids.chunks(BATCH).enumerate() {
            if number > 0 {
                yield_now().await;
            }
            {
                let table = self.table.read();
                batch.extend(ids.iter().map(|id| table.sockets.get(&Key::new(id)?).cloned()));
            }
            let now = clock::now();
            for (index, socket) in batch.drain(..).enumerate() {
                let result = match socket {
                    _ if !self.admits_request() => Err(PostError::Busy),
                    None => Err(PostError::Gone),
                    Some(socket) => self.send(&socket, &frames, now),
                };
                if let Err(error) = result {
                    rejected.push((number * BATCH + index, error));
                }
            }
        }
        rejected
    }

    /// Closes a connection with code 1000.
    ///
    /// # Errors
    ///
    /// When the connection is gone, or the account's quota of requests is used up.
    pub fn close(&self, id: &str) -> Result<(), PostError> {
        if !self.admits_request() {
            return Err(PostError::Busy);
        }
        let socket = self.remove(id).ok_or(PostError::Gone)?;
        socket.close(Some(CloseStatus::NORMAL.code), CloseStatus::NORMAL);
        Ok(())
    }

    /// Posts one message to one connection, as a text frame.
    pub(crate) fn post_to(&self, id: &str, message: &[u8]) -> Result<(), PostError> {
        let socket = self.find(id).ok_or(PostError::Gone)?;
        let frames = self.frames(message)?;
        self.send(&socket, &frames, clock::now())
    }

    pub(crate) fn find(&self, id: &str) -> Option<Arc<Socket>> {
        self.table.read().sockets.get(&Key::new(id)?).cloned()
    }

    /// Adds a connection, unless the gateway is shutting down.
    pub(crate) fn insert(&self, socket: &Arc<Socket>) {
        let mut table = self.table.write();
        if table.is_closed {
            drop(table);
            socket.close(Some(CloseStatus::GOING_AWAY.code), CloseStatus::GOING_AWAY);
        } else if let Some(key) = Key::new(&socket.client.id) {
            table.sockets.insert(key, socket.clone());
        }
    }

    pub(crate) fn remove(&self, id: &str) -> Option<Arc<Socket>> {
        self.table.write().sockets.remove(&Key::new(id)?)
    }

    /// Closes every connection, and rejects new ones.
    pub(crate) fn close_all(&self) {
        let mut table = self.table.write();
        table.is_closed = true;
        let sockets = std::mem::take(&mut table.sockets);
        drop(table);
        for socket in sockets.into_values() {
            socket.close(Some(CloseStatus::GOING_AWAY.code), CloseStatus::GOING_AWAY);
        }
    }

    /// Closes the connections that exceed the idle limit or the lifetime limit at `now`.
    pub(crate) fn close_overdue(&self, now: u64) {
        let since = |then: u64| Duration::from_millis(now.saturating_sub(then));
        let is_overdue = |socket: &Socket| {
            since(socket.last_active()) >= self.limits.idle
                || since(socket.client.connected_at) >= self.limits.lifetime
        };
        let overdue: Vec<_> = self
            .table
            .read()
            .sockets
            .values()
            .filter(|socket| is_overdue(socket))
            .cloned()
            .collect();
        for socket in overdue {
            self.remove(&socket.client.id);
            socket.close(Some(CloseStatus::GOING_AWAY.code), CloseStatus::GOING_AWAY);
        }
    }

    /// Takes a request from the account's quota. Returns whether the quota permits it.
    pub(crate) fn admits_request(&self) -> bool {
        self.requests.take()
    }

    /// Takes a handshake from the account's quotas. Returns whether they permit it.
    pub(crate) fn admits_connect(&self) -> bool {
        self.connects.take() && self.requests.take()
    }

    fn frames(&self, message: &[u8]) -> Result<Bytes, PostError> {
        if message.len() > self.limits.message_bytes {
            return Err(PostError::TooLarge);
        }
        str::from_utf8(message).map_err(|_| PostError::NotText)?;
        Ok(encode::text(message, self.limits.frame_bytes))
    }

    fn send(&self, socket: &Socket, frames: &Bytes, now: u64) -> Result<(), PostError> {
        if occurs(self.faults.failed_post) {
            return Err(PostError::Injected);
        }
        match socket.send(frames, self.limits.send_buffer_bytes) {
            Ok(()) => {
                socket.touch(now);
                Ok(())
            }
            Err(SendError::Closed) => Err(PostError::Gone),
            Err(SendError::Full) => Err(PostError::Busy),
        }
    }
}
