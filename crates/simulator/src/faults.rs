//! Faults that can be switched on and off while the simulators run.

use clap::ValueEnum;
use tokio::sync::watch;

/// A fault of an upstream, which lasts for as long as it is switched on.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Fault {
    /// Drop every connection without a close frame, a few seconds after it was opened.
    Drop,
    /// Keep connections open, but send nothing, not even heartbeats or pongs.
    Silent,
    /// Omit some trades and posts from the stream. REST lists them.
    SkipTrades,
    /// Send some messages twice.
    Duplicate,
    /// Swap some messages with the next one. Messages of the book keep their order.
    Reorder,
    /// Send malformed messages between the others.
    Garbage,
    /// Reject new connections and REST requests: with 503, and a Mastodon stream with 401.
    Refuse,
}

impl Fault {
    /// Returns the name used on the command line and over HTTP, such as `skip-trades`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Silent => "silent",
            Self::SkipTrades => "skip-trades",
            Self::Duplicate => "duplicate",
            Self::Reorder => "reorder",
            Self::Garbage => "garbage",
            Self::Refuse => "refuse",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The faults that are on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Active(u8);

impl Active {
    pub(super) fn has(self, fault: Fault) -> bool {
        self.0 & fault.bit() != 0
    }

    pub(super) fn names(self) -> Vec<&'static str> {
        Fault::value_variants()
            .iter()
            .filter(|fault| self.has(**fault))
            .map(|fault| fault.name())
            .collect()
    }
}

/// The faults of one simulated upstream.
#[derive(Clone, Debug)]
pub struct Switch {
    active: watch::Sender<Active>,
    drops: watch::Sender<u64>,
    silences: watch::Sender<u64>,
}

/// The signals that a connection watches.
#[derive(Debug)]
pub(super) struct Signals {
    /// The faults that are on.
    pub(super) active: watch::Receiver<Active>,
    /// Changes when every open connection must be dropped.
    pub(super) drops: watch::Receiver<u64>,
    /// Changes when every open connection must send no more messages.
    pub(super) silences: watch::Receiver<u64>,
}

impl Signals {
    /// Returns whether there is a signal that the connection has not handled yet.
    pub(super) fn is_interrupted(&self) -> bool {
        let has_changed = |signal: &watch::Receiver<u64>| signal.has_changed().unwrap_or(true);
        has_changed(&self.drops) || has_changed(&self.silences)
    }
}

impl Switch {
    pub(super) fn new(faults: &[Fault]) -> Self {
        let active = faults.iter().fold(0, |bits, fault| bits | fault.bit());
        Self {
            active: watch::Sender::new(Active(active)),
            drops: watch::Sender::new(0),
            silences: watch::Sender::new(0),
        }
    }

    /// Turns a fault on or off.
    pub fn set(&self, fault: Fault, on: bool) {
        self.active.send_modify(|Active(bits)| {
            *bits = if on { *bits | fault.bit() } else { *bits & !fault.bit() };
        });
    }

    /// Returns whether a fault is on.
    pub fn is_on(&self, fault: Fault) -> bool {
        self.active().has(fault)
    }

    /// Drops every open connection, once.
    pub fn drop_connections(&self) {
        self.drops.send_modify(|count| *count += 1);
    }

    /// Makes every open connection silent. Later connections are not affected.
    pub(super) fn silence_connections(&self) {
        self.silences.send_modify(|count| *count += 1);
    }

    pub(super) fn active(&self) -> Active {
        *self.active.borrow()
    }

    /// Returns the signals that a connection watches.
    pub(super) fn signals(&self) -> Signals {
        Signals {
            active: self.active.subscribe(),
            drops: self.drops.subscribe(),
            silences: self.silences.subscribe(),
        }
    }
}

/// The faults of both simulated upstreams.
#[derive(Clone, Debug)]
pub struct Faults {
    /// The faults of the exchange.
    pub coinbase: Switch,
    /// The faults of the Mastodon server.
    pub mastodon: Switch,
}

impl Faults {
    pub(super) fn new(faults: &[Fault]) -> Self {
        Self { coinbase: Switch::new(faults), mastodon: Switch::new(faults) }
    }

    /// Turns a fault on or off at both upstreams.
    pub fn set(&self, fault: Fault, on: bool) {
        self.coinbase.set(fault, on);
        self.mastodon.set(fault, on);
    }

    /// Drops every open connection to either upstream, once.
    pub fn drop_connections(&self) {
        self.coinbase.drop_connections();
        self.mastodon.drop_connections();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_on_until_it_is_switched_off() {
        let switch = Switch::new(&[Fault::Silent]);
        switch.set(Fault::Refuse, true);
        assert_eq!(switch.active().names(), ["silent", "refuse"]);
        switch.set(Fault::Silent, false);
        switch.set(Fault::Silent, false);
        assert_eq!(switch.active().names(), ["refuse"]);
    }

    #[test]
    fn the_command_line_and_http_use_the_same_names() {
        for fault in Fault::value_variants() {
            assert_eq!(Fault::from_str(fault.name(), false), Ok(*fault));
        }
    }
}
