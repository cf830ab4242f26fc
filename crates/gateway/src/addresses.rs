//! What the clients of one address share: how many connections they may open, how much they may send, and how
//! much is done for them at the same time.
//!
//! Those limits keep the connections of one address from taking the time of the others.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    time,
};

use crate::{
    limits::GatewayLimits,
    rate::{Rate, TokenBucket},
};

/// The number of addresses above which those that are no longer needed are forgotten.
const KEPT: usize = 1_024;

/// The addresses that have connections, or have sent more than their rate a short time ago.
#[derive(Debug)]
pub(crate) struct Addresses {
    bytes: Option<Rate>,
    requests: Option<Rate>,
    body_bytes: usize,
    connections: usize,
    handshakes: usize,
    work: usize,
    turn: Duration,
    invocations: usize,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    addresses: HashMap<IpAddr, Arc<Address>>,
    /// The number of addresses at which the next cleanup takes place.
    cleanup_at: usize,
}

/// One address. A network of IPv6 counts as one: a host chooses its address in it, and changes it at times
/// (RFC 8981).
#[derive(Debug)]
pub(crate) struct Address {
    bytes: TokenBucket,
    requests: TokenBucket,
    /// A permit for each byte of a body that is in memory.
    bodies: Arc<Semaphore>,
    /// The number of those permits.
    body_bytes: usize,
    connections: AtomicUsize,
    /// A permit for each handshake.
    handshakes: Arc<Semaphore>,
    /// A place for each piece of work that is done at the same time.
    work: Arc<Semaphore>,
    /// How long work keeps its place at most.
    turn: Duration,
    /// A permit for each invocation.
    invocations: Semaphore,
}

/// A place to do something for a client of an address.
#[derive(Debug)]
pub(crate) struct Place {
    permit: Option<OwnedSemaphorePermit>,
    turn: Duration,
}

/// A connection that counts. Dropping it ends that.
#[derive(Debug)]
pub(crate) struct Counted(Arc<Address>);

impl Addresses {
    pub(crate) fn new(limits: &GatewayLimits) -> Self {
        Self {
            bytes: limits.address_bytes,
            requests: limits.address_requests,
            body_bytes: limits.address_body_bytes,
            connections: limits.address_connections,
            handshakes: limits.address_handshakes,
            work: limits.address_work,
            turn: limits.address_turn,
            invocations: limits.address_invocations,
            known: Mutex::default(),
        }
    }

    /// Returns what the clients of an address share.
    pub(crate) fn of(&self, address: IpAddr) -> Arc<Address> {
        let mut known = self.known.lock();
        if known.addresses.len() >= known.cleanup_at {
            known.addresses.retain(|_, it| Arc::strong_count(it) > 1 || !it.has_no_debt());
            known.cleanup_at = (known.addresses.len() * 2).max(KEPT);
        }
        let address = known.addresses.entry(network(address)).or_insert_with(|| {
            Arc::new(Address {
                bytes: TokenBucket::new(self.bytes),
                requests: TokenBucket::new(self.requests),
                bodies: Arc::new(Semaphore::new(self.body_bytes)),
                body_bytes: self.body_bytes,
                connections: AtomicUsize::new(0),
                handshakes: Arc::new(Semaphore::new(self.handshakes)),
                work: Arc::new(Semaphore::new(self.work)),
                turn: self.turn,
                invocations: Semaphore::new(self.invocations),
            })
        });
        address.clone()
    }

    /// Counts a connection of an address. Returns `None` if the address has too many.
    pub(crate) fn count(&self, address: IpAddr) -> Option<Counted> {
        let address = self.of(address);
        let counted = Counted(address.clone());
        let before = address.connections.fetch_add(1, Ordering::Relaxed);
        (before < self.connections).then_some(counted)
    }
}

impl Address {
    /// What all clients of the address may send.
    pub(crate) fn bytes(&self) -> &TokenBucket {
        &self.bytes
    }

    /// Waits until the clients of the address may make one more request.
    pub(crate) async fn request(&self) {
        let wait = self.requests.spend(1);
        if !wait.is_zero() {
            time::sleep(wait).await;
        }
    }

    fn has_no_debt(&self) -> bool {
        self.bytes.is_full() && self.requests.is_full()
    }

    /// Waits until the body of a request, which has so many bytes at most, may be read into memory.
    pub(crate) async fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes.min(self.body_bytes)).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        self.bodies.clone().acquire_many_owned(bytes).await.ok()
    }

    /// Waits until one more handshake of the address may take place.
    pub(crate) async fn handshake(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        self.handshakes.clone().acquire_owned().await.ok()
    }

    /// Waits until one more function may be invoked for a client of the address.
    pub(crate) async fn invocation(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.invocations.acquire().await.ok()
    }

    /// Waits for a place to do something for a client of the address.
    pub(crate) async fn place(&self) -> Place {
        // The semaphore is never closed.
        Place { permit: self.work.clone().acquire_owned().await.ok(), turn: self.turn }
    }
}

impl Place {
    /// Does something in this place. If it takes long, it mostly waits for something else, so it gives up the place.
    pub(crate) async fn run<F: Future>(self, work: F) -> F::Output {
        let mut work = pin!(work);
        tokio::select! {
            biased;
            output = &mut work => return output,
            () = time::sleep(self.turn) => drop(self.permit),
        }
        work.await
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Returns the network of an IPv6 address, and any other address as it is.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        address @ IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> Addresses {
        Addresses::new(&GatewayLimits {
            address_bytes: Some(Rate::of_burst(10)),
            address_connections: 2,
            ..GatewayLimits::default()
        })
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_has_so_many_connections_and_no_more() {
        let addresses = addresses();
        let mut open: Vec<_> = (0..2).map(|_| addresses.count(address("192.0.2.1"))).collect();
        assert!(open.iter().all(Option::is_some));
        assert!(addresses.count(address("192.0.2.1")).is_none());
        assert!(addresses.count(address("192.0.2.2")).is_some(), "another address");
        open.pop();
        assert!(addresses.count(address("192.0.2.1")).is_some(), "one has ended");
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let addresses = addresses();
        let old = addresses.of(address("192.0.2.1"));
        assert!(Arc::ptr_eq(&old, &addresses.of(address("::ffff:192.0.2.1"))));
        assert!(!Arc::ptr_eq(&old, &addresses.of(address("::ffff:192.0.2.2"))));
        let one = addresses.of(address("2001:db8:0:1::1"));
        assert!(Arc::ptr_eq(&one, &addresses.of(address("2001:db8:0:1:ffff::2"))));
        assert!(!Arc::ptr_eq(&one, &addresses.of(address("2001:db8:0:2::1"))));
    }

    #[test]
    fn an_address_is_forgotten_when_it_has_no_debt_and_no_connection() {
        let addresses = addresses();
        let _open = addresses.count(address("192.0.2.1"));
        let sent = addresses.of(address("192.0.2.2")).bytes.spend(11);
        assert!(!sent.is_zero());
        for n in 0..10_000_u32 {
            addresses.of(IpAddr::V4(n.into()));
        }
        let known = addresses.known.lock();
        assert!(known.addresses.len() <= 2 * KEPT, "{}", known.addresses.len());
        assert!(known.addresses.contains_key(&address("192.0.2.1")), "it has a connection");
        assert!(known.addresses.contains_key(&address("192.0.2.2")), "it has a debt");
    }
}
