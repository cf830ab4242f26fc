//! An order book that is never crossed and remembers which levels changed.
#![expect(clippy::similar_names, reason = "a side has a size")]

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, rngs::StdRng};

/// A side of the book.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Side {
    Buy,
    Sell,
}

impl Side {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Buy => "buy",
            Self::Sell => "sell",
        }
    }

    pub(crate) fn opposite(self) -> Self {
        match self {
            Self::Buy => Self::Sell,
            Self::Sell => Self::Buy,
        }
    }
}

/// A price level: ticks and the size resting there, in the smallest units.
pub(crate) type Level = (u64, u64);

/// A level after a change; size zero means that it was removed.
pub(crate) type LevelChange = (Side, u64, u64);

/// Resting sizes by price.
#[derive(Debug)]
pub(crate) struct Book {
    bids: BTreeMap<u64, u64>,
    asks: BTreeMap<u64, u64>,
    changed: BTreeSet<(Side, u64)>,
    depth: usize,
    spacing: u64,
    lot: u64,
}

impl Book {
    /// Creates a book with `depth` levels on each side of `fair`.
    pub(super) fn around(fair: u64, depth: usize, lot: u64, rng: &mut StdRng) -> Self {
        let spacing = (fair / (depth as u64 * 8 + 1)).max(1);
        let mut book = Self {
            bids: BTreeMap::new(),
            asks: BTreeMap::new(),
            changed: BTreeSet::new(),
            depth,
            spacing,
            lot,
        };
        for side in [Side::Buy, Side::Sell] {
            let mut price = fair;
            for _ in 0..depth {
                let step = rng.random_range(1..=spacing * 2 - 1);
                price = match side {
                    Side::Buy => price.saturating_sub(step),
                    Side::Sell => price + step,
                };
                let size = book.random_size(rng);
                book.place(side, price, size);
            }
        }
        book.changed.clear();
        book
    }

    /// Returns the best level of a side.
    pub(crate) fn best(&self, side: Side) -> Option<Level> {
        self.levels(side).next()
    }

    /// Returns a side's levels, best first.
    pub(crate) fn levels(&self, side: Side) -> Box<dyn Iterator<Item = Level> + '_> {
        match side {
            Side::Buy => Box::new(self.bids.iter().rev().map(|(price, size)| (*price, *size))),
            Side::Sell => Box::new(self.asks.iter().map(|(price, size)| (*price, *size))),
        }
    }

    /// Fills the `orders` best levels of the side opposite to `taker`. The last one may remain in part.
    pub(super) fn take(&mut self, taker: Side, orders: usize, rng: &mut StdRng) -> Vec<Level> {
        let resting = taker.opposite();
        let hit: Vec<Level> = self.levels(resting).take(orders).collect();
        let mut fills = Vec::with_capacity(hit.len());
        for (nth, (price, size)) in hit.iter().copied().enumerate() {
            let partly = nth + 1 == hit.len() && size > 1;
            let filled = if partly { rng.random_range(1..size) } else { size };
            self.set(resting, price, size - filled);
            fills.push((price, filled));
        }
        fills
    }

    /// Moves the market: cancels the orders that `fair` has passed, and places others near it.
    pub(super) fn requote(&mut self, fair: u64, rng: &mut StdRng) {
        let overrun: Vec<_> = self
            .bids
            .range(fair..)
            .map(|(price, _)| (Side::Buy, *price))
            .chain(self.asks.range(..=fair).map(|(price, _)| (Side::Sell, *price)))
            .collect();
        for (side, price) in overrun {
            self.set(side, price, 0);
        }
        for side in [Side::Buy, Side::Sell] {
            for _ in 0..rng.random_range(1..=3) {
                let away = 1 + rng.random_range(0..=self.spacing * 4) * rng.random_range(0..=4) / 4;
                let size = self.random_size(rng);
                self.place(side, beyond(side, fair, away), size);
            }
            self.keep_depth(side, fair, rng);
        }
    }

    /// Returns the levels that changed since the last call.
    pub(super) fn take_changes(&mut self) -> Vec<LevelChange> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|(side, price)| (side, price, self.size_at(side, price))).collect()
    }

    fn keep_depth(&mut self, side: Side, fair: u64, rng: &mut StdRng) {
        let reach = self.spacing * self.depth as u64;
        let somewhere = beyond(side, fair, rng.random_range(1..=reach));
        let levels = self.side(side).len();
        if levels < self.depth {
            let size = self.random_size(rng);
            self.place(side, somewhere, size);
            self.place(side, beyond(side, fair, 1 + reach / 2), size);
        } else if levels > self.depth + self.depth / 20 {
            let farther = match side {
                Side::Buy => self.bids.range(..somewhere).next_back(),
                Side::Sell => self.asks.range(somewhere..).next(),
            };
            if let Some((price, _)) = farther {
                self.set(side, *price, 0);
            }
        }
    }

    /// Places an order at a level. The caller must stay on its side of the fair price.
    fn place(&mut self, side: Side, price: u64, size: u64) {
        if price > 0 {
            self.set(side, price, size);
        }
    }

    fn set(&mut self, side: Side, price: u64, size: u64) {
        let levels = match side {
            Side::Buy => &mut self.bids,
            Side::Sell => &mut self.asks,
        };
        if size == 0 {
            levels.remove(&price);
        } else {
            levels.insert(price, size);
        }
        self.changed.insert((side, price));
    }

    fn side(&self, side: Side) -> &BTreeMap<u64, u64> {
        match side {
            Side::Buy => &self.bids,
            Side::Sell => &self.asks,
        }
    }

    fn size_at(&self, side: Side, price: u64) -> u64 {
        self.side(side).get(&price).copied().unwrap_or(0)
    }

    /// Returns a random size of at most three lots. Small sizes are much more likely.
    fn random_size(&self, rng: &mut StdRng) -> u64 {
        let roll: u64 = rng.random_range(1..=1_000);
        1 + self.lot * roll / 1_000 * roll / 1_000 * roll / 1_000 * 3
    }
}

fn beyond(side: Side, fair: u64, away: u64) -> u64 {
    match side {
        Side::Buy => fair.saturating_sub(away),
        Side::Sell => fair + away,
    }
}
