//! Ports for programs that cannot choose a free one and say which.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// The first port that is handed out. The kernel takes the ports of connections from higher ones.
const FIRST: u16 = 20_000;
/// The end of the ports that are handed out.
const END: u16 = 32_000;
/// The distance between two ranges.
const STEP: u16 = 25;

/// Loopback ports in a row that no other test uses for as long as this lives.
pub struct Ports {
    first: u16,
    /// Bound to the last port of the range, so that no other test reserves the same range.
    _guard: TcpListener,
}

impl Ports {
    /// Reserves so many ports, at most 24.
    ///
    /// # Panics
    ///
    /// When there are none.
    pub fn reserve(count: u16) -> Self {
        assert!(count < STEP, "the last port of a range is its guard");
        // Tests start at different places, so that they seldom try the same range.
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
        panic!("no {count} free ports in a row between {FIRST} and {END}");
    }

    /// Returns an address by its distance from the first port.
    pub fn at(&self, distance: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.first + distance))
    }
}
