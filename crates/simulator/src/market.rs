//! The market: a seeded generator of trades and books, without sockets or clocks.

use std::{collections::VecDeque, time::Duration};

use jiff::Timestamp;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use uuid::{Builder, Uuid};

pub(super) use self::{
    book::{Book, Level, LevelChange, Side},
    products::{PRODUCTS, Product, Status},
};

mod book;
mod products;

/// The number of trades that are kept for REST, per product.
const HISTORY: usize = 100_000;
/// The number of trades of every product before the simulation starts.
const BACK_HISTORY: u16 = 300;
/// The number of resting orders that one taker fills. All entries of this table are equally likely.
const SWEEPS: [usize; 20] = [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 3, 5];
/// The mean of [`SWEEPS`].
const MEAN_SWEEP: f64 = 1.45;

/// One trade.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Trade {
    pub(super) id: u64,
    pub(super) maker_order: Uuid,
    pub(super) taker_order: Uuid,
    /// The side of the order that was resting.
    pub(super) maker: Side,
    pub(super) price: u64,
    pub(super) size: u64,
    pub(super) sequence: u64,
    pub(super) at: Timestamp,
}

/// The trades of one taker.
#[derive(Debug, PartialEq)]
pub(super) struct Tick {
    /// Index of the market in [`Markets::all`].
    pub(super) market: usize,
    /// The trades, in order. They have the same taker and the same time.
    pub(super) trades: Vec<Trade>,
    /// The time until the next taker.
    pub(super) wait: Duration,
}

/// One product's book, trades and daily figures.
#[derive(Debug)]
pub(super) struct Market {
    pub(super) product: &'static Product,
    pub(super) book: Book,
    pub(super) trades: VecDeque<Trade>,
    pub(super) sequence: u64,
    pub(super) low: u64,
    pub(super) high: u64,
    pub(super) volume: u128,
    fair: u64,
    next_trade: u64,
}

/// All markets, driven by one random number generator.
#[derive(Debug)]
pub(super) struct Markets {
    pub(super) all: Vec<Market>,
    rng: StdRng,
    mean_wait: f64,
}

impl Markets {
    /// Opens all markets with a history that ends at `now`. `rate` is the mean number of trades per second.
    pub(super) fn new(seed: u64, rate: f64, now: Timestamp) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut all: Vec<_> =
            PRODUCTS.iter().map(|it| Market::open(it, it.depth, &mut rng)).collect();
        for market in all.iter_mut().filter(|market| market.product.weight > 0) {
            for ago in (1..=BACK_HISTORY).rev() {
                market.trade(now - Duration::from_millis(u64::from(ago) * 1_700), &mut rng);
            }
            market.book.take_changes();
        }
        Self { all, rng, mean_wait: MEAN_SWEEP / rate }
    }

    /// Opens all markets without a history and without orders.
    pub(super) fn empty(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let open = |product| Market::open(product, 0, &mut rng);
        Self { all: PRODUCTS.iter().map(open).collect(), rng, mean_wait: f64::INFINITY }
    }

    /// Makes one trade of the usual size at the opening price. The book does not change.
    pub(super) fn record(&mut self, market: usize, now: Timestamp) -> Trade {
        let product = self.all[market].product;
        let taker_order = random_uuid(&mut self.rng);
        let fills = vec![(product.price, product.lot)];
        let trades = self.all[market].fill(Side::Buy, taker_order, fills, now, &mut self.rng);
        trades[0]
    }

    /// Lets one taker trade at `now` on a random market.
    pub(super) fn tick(&mut self, now: Timestamp) -> Tick {
        let market = self.pick();
        let trades = self.all[market].trade(now, &mut self.rng);
        let uniform: f64 = self.rng.random_range(f64::EPSILON..1.0);
        let wait = Duration::from_secs_f64(-uniform.ln() * self.mean_wait);
        Tick { market, trades, wait }
    }

    /// Returns the book levels that changed since the last call, by market.
    pub(super) fn take_changes(&mut self) -> Vec<(usize, Vec<LevelChange>)> {
        let changes = self.all.iter_mut().map(|market| market.book.take_changes()).enumerate();
        changes.filter(|(_, changes)| !changes.is_empty()).collect()
    }

    fn pick(&mut self) -> usize {
        let total: u32 = PRODUCTS.iter().map(|product| product.weight).sum();
        let mut roll = self.rng.random_range(0..total);
        for (index, product) in PRODUCTS.iter().enumerate() {
            match roll.checked_sub(product.weight) {
                None => return index,
                Some(rest) => roll = rest,
            }
        }
        0
    }
}

impl Market {
    fn open(product: &'static Product, depth: usize, rng: &mut StdRng) -> Self {
        let fair = product.price;
        Self {
            product,
            book: Book::around(fair, depth, product.lot, rng),
            trades: VecDeque::new(),
            sequence: product.first_trade * 130,
            low: fair,
            high: fair,
            volume: u128::from(product.lot) * 9_000,
            fair,
            next_trade: product.first_trade,
        }
    }

    /// Returns the price of a day ago.
    pub(super) fn open_price(&self) -> u64 {
        self.product.price
    }

    /// Moves the price slightly, and lets one taker fill up to five orders.
    fn trade(&mut self, now: Timestamp, rng: &mut StdRng) -> Vec<Trade> {
        let start = self.product.price;
        let reach = (start / 25_000).max(1);
        let moved = self.fair + rng.random_range(0..=reach * 2);
        self.fair = moved.saturating_sub(reach).clamp(start * 7 / 10, start * 14 / 10);
        self.book.requote(self.fair, rng);

        let taker = if rng.random_bool(0.5) { Side::Buy } else { Side::Sell };
        let orders = SWEEPS[rng.random_range(0..SWEEPS.len())];
        let taker_order = random_uuid(rng);
        let fills = self.book.take(taker, orders, rng);
        self.fill(taker, taker_order, fills, now, rng)
    }

    /// Records the trades of one taker.
    fn fill(
        &mut self,
        taker: Side,
        taker_order: Uuid,
        fills: Vec<Level>,
        now: Timestamp,
        rng: &mut StdRng,
    ) -> Vec<Trade> {
        let mut trades = Vec::with_capacity(fills.len());
        for (price, size) in fills {
            self.sequence += rng.random_range(1..60);
            trades.push(Trade {
                id: self.next_trade,
                maker_order: random_uuid(rng),
                taker_order,
                maker: taker.opposite(),
                price,
                size,
                sequence: self.sequence,
                at: now,
            });
            self.next_trade += 1;
            self.low = self.low.min(price);
            self.high = self.high.max(price);
            self.volume += u128::from(size);
        }
        self.trades.extend(&trades);
        let surplus = self.trades.len().saturating_sub(HISTORY);
        self.trades.drain(..surplus);
        trades
    }
}

fn random_uuid(rng: &mut StdRng) -> Uuid {
    Builder::from_random_bytes(rng.random()).into_uuid()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_market() {
        let run = |seed| {
            let mut markets = Markets::new(seed, 20.0, Timestamp::UNIX_EPOCH);
            let ticks: Vec<_> = (0..500).map(|_| markets.tick(Timestamp::UNIX_EPOCH)).collect();
            (ticks, markets.take_changes())
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn trade_ids_are_contiguous_from_the_back_history_on() {
        let mut markets = Markets::new(1, 20.0, Timestamp::UNIX_EPOCH);
        for _ in 0..2_000 {
            markets.tick(Timestamp::UNIX_EPOCH);
        }
        for market in &markets.all {
            let ids: Vec<_> = market.trades.iter().map(|trade| trade.id).collect();
            let first = market.product.first_trade;
            assert!(ids.iter().copied().eq(first..first + ids.len() as u64));
            let traded = market.product.status == Status::Online;
            assert_eq!(ids.len() >= 300, traded, "{}", market.product.id);
            assert!(market.trades.iter().is_sorted_by_key(|trade| trade.sequence));
        }
    }

    #[test]
    fn the_book_is_never_crossed_and_its_changes_add_up() {
        let mut markets = Markets::new(3, 20.0, Timestamp::UNIX_EPOCH);
        let copy = |markets: &Markets| -> Vec<BTreeMap<(Side, u64), u64>> {
            let sides = |market: &Market| {
                [Side::Buy, Side::Sell]
                    .into_iter()
                    .flat_map(|side| {
                        market.book.levels(side).map(move |(price, size)| ((side, price), size))
                    })
                    .collect()
            };
            markets.all.iter().map(sides).collect()
        };
        let mut mirrors = copy(&markets);
        for _ in 0..3_000 {
            markets.tick(Timestamp::UNIX_EPOCH);
            for (market, changes) in markets.take_changes() {
                for (side, price, size) in changes {
                    mirrors[market].insert((side, price), size);
                }
                let book = &markets.all[market].book;
                let bid = book.best(Side::Buy).unwrap();
                let ask = book.best(Side::Sell).unwrap();
                assert!(bid.0 < ask.0, "{bid:?} {ask:?}");
            }
        }
        for mirror in &mut mirrors {
            mirror.retain(|_, size| *size > 0);
        }
        assert_eq!(mirrors, copy(&markets));
        for market in &markets.all {
            let levels = market.book.levels(Side::Buy).count();
            assert!(levels * 3 >= market.product.depth, "{} {levels}", market.product.id);
        }
    }

    #[test]
    fn the_rate_is_the_mean_of_trades_a_second() {
        let mut markets = Markets::new(5, 1_000.0, Timestamp::UNIX_EPOCH);
        let mut trades = 0_u32;
        let mut elapsed = Duration::ZERO;
        while elapsed < Duration::from_secs(20) {
            let tick = markets.tick(Timestamp::UNIX_EPOCH);
            trades += u32::try_from(tick.trades.len()).unwrap();
            elapsed += tick.wait;
        }
        assert!((18_000..22_000).contains(&trades), "{trades}");
    }
}
