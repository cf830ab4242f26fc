//! Ports for programs that cannot choose a free port themselves.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// The first port. The kernel uses higher ports for outgoing connections.
const FIRST: u16 = 20_000;
/// The end of the ports, exclusive.
const END: u16 = 32_000;
/// The offset between two ranges.
const STEP: u16 = 25;

/// Consecutive loopback ports that are reserved until this is dropped.
pub struct Ports {
    first: u16,
    /// Bound to the last port of the range, so that no other test can reserve the range.
    _guard: TcpListener,
}

impl Ports {
    /// Reserves this many ports, at most 24.
    ///
    /// # Panics
    ///
    /// When no range is free.
    pub fn reserve(count: u16) -> Self {
        assert!(count < STEP, "the last port of a range is its guard");
        // Tests start with different ranges, so they rarely try the same one.
        let start = u16::try_from(std::process::id() % u32::from((END - FIRST) / STEP)).unwrap();
        let ranges = (0..(END - FIRST) / STEP)
            .map(|nth| FIRST + (start + nth) % ((END - FIRST) / STEP) * STEP);
        for first in ranges {
            let Ok(guard) = TcpListener::bind((Ipv4Addr::LOCALHOST, first + STEP - 1)) else {
                continue;
            };
            let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
            if (first..first + count).all(is_free) {
                return Self { first, _guard: guard };
            }
        }
        panic!("no {count} consecutive free ports between {FIRST} and {END}");
    }

    /// Returns an address by its offset from the first port.
    pub fn at(&self, offset: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.first + offset))
    }
}
