//! One product: which of its topics are wanted, and its state.

use std::collections::BTreeSet;

use domain::topic::{Topic, TopicError};

use super::{level2::Level2, liveness::Liveness, subscriptions::Channel, trades::Trades};

/// One product.
#[derive(Debug)]
pub(super) struct Product {
    pub(super) ticker_topic: Topic,
    pub(super) matches_topic: Topic,
    pub(super) level2_topic: Topic,
    /// The channels whose topics are wanted.
    pub(super) wants: BTreeSet<Channel>,
    pub(super) trades: Trades,
    pub(super) level2: Level2,
    pub(super) liveness: Liveness,
    is_looked_up: bool,
}

impl Product {
    /// Starts without wanted channels.
    ///
    /// # Errors
    ///
    /// [`TopicError`] when `id` is not a pair.
    pub(super) fn new(id: &str) -> Result<Self, TopicError> {
        Ok(Self {
            ticker_topic: Topic::coinbase("ticker", id)?,
            matches_topic: Topic::coinbase("matches", id)?,
            level2_topic: Topic::coinbase("level2", id)?,
            wants: BTreeSet::new(),
            trades: Trades::default(),
            level2: Level2::default(),
            liveness: Liveness::default(),
            is_looked_up: false,
        })
    }

    pub(super) fn wants(&self, channel: Channel) -> bool {
        self.wants.contains(&channel)
    }

    /// Drops the state that only unwanted topics need, except the newest trade.
    pub(super) fn settle(&mut self) {
        if !self.wants(Channel::Matches) {
            self.trades.rest();
        }
        if !self.wants(Channel::Level2) {
            self.level2.forget();
        }
        if self.wants.is_empty() {
            self.liveness.rest();
        }
    }

    /// Returns whether to look up its newest trade in the log. Returns `true` once.
    pub(super) fn is_to_look_up(&mut self) -> bool {
        let is_first = self.wants(Channel::Matches) && !self.is_looked_up;
        self.is_looked_up |= is_first;
        is_first
    }

    /// Drops the state that belongs to the connection.
    pub(super) fn disconnect(&mut self) {
        self.trades.disconnect();
        self.level2.forget();
        self.liveness.rest();
    }
}
