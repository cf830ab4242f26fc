//! The products that the simulated exchange lists.

use serde_json::{Value, json};

use crate::decimal::padded;

/// Whether a product can be traded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Status {
    /// The product is traded.
    Online,
    /// The product is listed, but was never traded.
    Untraded,
    /// The REST interface lists the product, but it can no longer be traded.
    Delisted,
}

/// A product, and the parameters of its market.
#[derive(Debug)]
pub(crate) struct Product {
    pub(crate) id: &'static str,
    base: &'static str,
    quote: &'static str,
    /// The number of decimals of a price. A tick is the smallest unit.
    pub(crate) price_scale: u32,
    /// The number of decimals of a size.
    pub(crate) size_scale: u32,
    /// The initial price, in ticks.
    pub(super) price: u64,
    /// A common order size, in the smallest units.
    pub(super) lot: u64,
    /// The number of levels on each side of the book.
    pub(super) depth: usize,
    /// The weight of the product among all trades.
    pub(super) weight: u32,
    /// The id of the first trade.
    pub(crate) first_trade: u64,
    pub(crate) status: Status,
}

impl Product {
    const fn online(
        (id, base, quote): (&'static str, &'static str, &'static str),
        (price_scale, size_scale): (u32, u32),
        (price, lot): (u64, u64),
        depth: usize,
        weight: u32,
        first_trade: u64,
    ) -> Self {
        let status = Status::Online;
        Self {
            id,
            base,
            quote,
            price_scale,
            size_scale,
            price,
            lot,
            depth,
            weight,
            first_trade,
            status,
        }
    }

    const fn with_status(self, status: Status) -> Self {
        Self { status, weight: 0, first_trade: 0, ..self }
    }

    /// Returns the product in the format of `GET /products`.
    pub(crate) fn describe(&self) -> Value {
        let delisted = self.status == Status::Delisted;
        json!({
            "id": self.id,
            "base_currency": self.base,
            "quote_currency": self.quote,
            "quote_increment": padded(1, self.price_scale),
            "base_increment": padded(1, self.size_scale),
            "display_name": self.id,
            "min_market_funds": "1",
            "margin_enabled": false,
            "post_only": false,
            "limit_only": self.status == Status::Untraded,
            "cancel_only": delisted,
            "status": if delisted { "delisted" } else { "online" },
            "status_message": "",
            "trading_disabled": delisted,
            "fx_stablecoin": self.base == "USDT",
            "max_slippage_percentage": "0.02000000",
            "auction_mode": false,
            "high_bid_limit_percentage": "",
        })
    }
}

/// All products.
pub(crate) static PRODUCTS: [Product; 17] = [
    Product::online(
        ("BTC-USD", "BTC", "USD"),
        (2, 8),
        (6_341_250, 4_000_000),
        6_000,
        30,
        912_000_001,
    ),
    Product::online(
        ("ETH-USD", "ETH", "USD"),
        (2, 8),
        (177_480, 60_000_000),
        3_000,
        18,
        731_000_001,
    ),
    Product::online(("SOL-USD", "SOL", "USD"), (2, 8), (14_822, 900_000_000), 900, 12, 204_000_001),
    Product::online(("DOGE-USD", "DOGE", "USD"), (5, 1), (18_204, 9_000), 800, 9, 98_000_001),
    Product::online(("XRP-USD", "XRP", "USD"), (4, 6), (21_377, 250_000_000), 800, 7, 121_000_001),
    Product::online(("ADA-USD", "ADA", "USD"), (4, 8), (6_120, 30_000_000_000), 500, 4, 77_000_001),
    Product::online(("LTC-USD", "LTC", "USD"), (2, 8), (9_377, 150_000_000), 500, 4, 88_000_001),
    Product::online(("LINK-USD", "LINK", "USD"), (3, 2), (16_481, 4_000), 500, 4, 56_000_001),
    Product::online(
        ("AVAX-USD", "AVAX", "USD"),
        (2, 8),
        (2_714, 1_200_000_000),
        400,
        3,
        43_000_001,
    ),
    Product::online(
        ("BTC-EUR", "BTC", "EUR"),
        (2, 8),
        (5_418_930, 2_000_000),
        1_500,
        5,
        71_000_001,
    ),
    Product::online(("BTC-GBP", "BTC", "GBP"), (2, 8), (4_692_115, 1_500_000), 900, 2, 52_000_001),
    Product::online(("ETH-EUR", "ETH", "EUR"), (2, 8), (151_660, 40_000_000), 900, 3, 48_000_001),
    Product::online(("ETH-BTC", "ETH", "BTC"), (5, 8), (2_799, 30_000_000), 600, 3, 33_000_001),
    Product::online(("SHIB-USD", "SHIB", "USD"), (8, 0), (1_342, 700_000), 400, 3, 64_000_001),
    Product::online(("USDT-USD", "USDT", "USD"), (5, 2), (99_987, 120_000), 300, 2, 61_000_001),
    Product::online(("TIDE-USD", "TIDE", "USD"), (4, 2), (8_000, 5_000), 20, 0, 0)
        .with_status(Status::Untraded),
    Product::online(("REP-USD", "REP", "USD"), (2, 6), (1_250, 3_000_000), 0, 0, 0)
        .with_status(Status::Delisted),
];
