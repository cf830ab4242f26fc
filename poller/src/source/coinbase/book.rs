//! The order book of one product.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    decimal::Decimal,
    message::{Change, Level, Side},
};

/// Most levels of a book. The largest ones of the exchange have some tens of thousands.
pub(super) const MAX_LEVELS: usize = 100_000;

/// The levels of both sides, by price.
#[derive(Debug, Default)]
pub(super) struct Book {
    asks: BTreeMap<u128, Level>,
    bids: BTreeMap<u128, Level>,
}

impl Book {
    /// Makes a book from these levels, which can be in any order.
    pub(super) fn new(asks: &[Level], bids: &[Level]) -> Self {
        let side = |levels: &[Level]| {
            let levels = levels.iter().filter(|level| !level.size.is_zero());
            levels.map(|level| (level.price.units(), *level)).collect()
        };
        Self { asks: side(asks), bids: side(bids) }
    }

    /// Applies changes in their order. Removing a level that does not exist is fine.
    pub(super) fn apply(&mut self, changes: &[Change]) {
        for Change { side, level } in changes {
            let levels = match side {
                Side::Buy => &mut self.bids,
                Side::Sell => &mut self.asks,
            };
            if level.size.is_zero() {
                levels.remove(&level.price.units());
            } else {
                levels.insert(level.price.units(), *level);
            }
        }
    }

    /// Returns whether it has more than [`MAX_LEVELS`] levels.
    pub(super) fn is_too_large(&self) -> bool {
        self.asks.len() + self.bids.len() > MAX_LEVELS
    }

    /// Returns whether the highest bid reaches the lowest ask, which never happens in a valid book.
    pub(super) fn is_crossed(&self) -> bool {
        let bid = self.bids.last_key_value();
        let ask = self.asks.first_key_value();
        bid.zip(ask).is_some_and(|((bid, _), (ask, _))| bid >= ask)
    }

    /// Returns a snapshot in the format of the exchange, with the best `depth` levels on each side.
    pub(super) fn snapshot(&self, product: &str, depth: usize, time: &str) -> Bytes {
        let mut json = Vec::with_capacity(128 + 2 * depth.min(1_024) * 32);
        json.extend_from_slice(br#"{"type":"snapshot","product_id":""#);
        json.extend_from_slice(product.as_bytes());
        json.extend_from_slice(br#"","asks":["#);
        write_levels(self.asks.values().take(depth), &mut json);
        json.extend_from_slice(br#"],"bids":["#);
        write_levels(self.bids.values().rev().take(depth), &mut json);
        json.push(b']');
        if !time.is_empty() {
            json.extend_from_slice(br#","time":""#);
            json.extend_from_slice(time.as_bytes());
            json.push(b'"');
        }
        json.push(b'}');
        json.into()
    }
}

fn write_levels<'a>(levels: impl Iterator<Item = &'a Level>, json: &mut Vec<u8>) {
    let mut write = |separator: &[u8], decimal: Decimal| {
        json.extend_from_slice(separator);
        decimal.write(json);
    };
    let mut is_first = true;
    for Level { price, size } in levels {
        write(if is_first { br#"[""# } else { br#""],[""# }, *price);
        write(br#"",""#, *size);
        is_first = false;
    }
    if !is_first {
        json.extend_from_slice(br#""]"#);
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn level(price: &str, size: &str) -> Level {
        let read = |text| Decimal::parse(text).expect("a decimal");
        Level { price: read(price), size: read(size) }
    }

    fn change(side: Side, price: &str, amount: &str) -> Change {
        Change { side, level: level(price, amount) }
    }

    fn text(book: &Book, depth: usize) -> String {
        String::from_utf8(book.snapshot("A-B", depth, "").to_vec()).expect("UTF-8")
    }

    #[test]
    fn levels_are_keyed_by_number_and_written_as_spelled() {
        let mut book = Book::new(
            &[level("10.5", "1.0"), level("9.50", "2")],
            &[level("8", "0"), level("7.10", "3")],
        );
        book.apply(&[
            change(Side::Sell, "10.50", "4.00"),
            change(Side::Buy, "7.1", "0.000"),
            change(Side::Buy, "6", "0.00"),
            change(Side::Buy, "5.0", "1"),
            change(Side::Buy, "6.0", "1"),
        ]);
        let expected = r#"{"type":"snapshot","product_id":"A-B","asks":[["9.50","2"],["10.50","4.00"]],"bids":[["6.0","1"],["5.0","1"]]}"#;
        assert_eq!(text(&book, 200), expected);
        assert!(text(&book, 1).contains(r#""asks":[["9.50","2"]],"bids":[["6.0","1"]]"#));
        assert!(text(&Book::default(), 9).ends_with(r#""asks":[],"bids":[]}"#));
        assert!(!book.is_crossed());
        book.apply(&[change(Side::Buy, "9.5", "1")]);
        assert!(book.is_crossed());
    }

    proptest! {
        #[test]
        fn updates_have_the_same_effect_as_on_a_naive_model(
            updates in vec((any::<bool>(), 0_u8..20, 0_u8..4, any::<bool>()), 0..200)
        ) {
            let mut book = Book::default();
            // The model keeps texts in a list and compares prices without trailing zeros.
            let mut model: Vec<(Side, String, String)> = Vec::new();
            for (buy, price, size, padded) in updates {
                let side = if buy { Side::Buy } else { Side::Sell };
                let price = format!("{price}.5{}", if padded { "00" } else { "" });
                let size = format!("{size}{}", if padded { ".00" } else { "" });
                book.apply(&[change(side, &price, &size)]);
                let trimmed = |text: &str| text.trim_end_matches('0').to_owned();
                model.retain(|(s, p, _)| *s != side || trimmed(p) != trimmed(&price));
                if !size.starts_with('0') {
                    model.push((side, price, size));
                }
            }
            model.sort_by(|(_, a, _), (_, b, _)| {
                let number = |text: &str| text.parse::<f64>().expect("a number");
                number(a).total_cmp(&number(b))
            });
            let rows = |side: Side| -> Vec<String> {
                let rows = model.iter().filter(|(s, ..)| *s == side);
                rows.map(|(_, price, size)| format!(r#"["{price}","{size}"]"#)).collect()
            };
            let asks = rows(Side::Sell);
            let mut bids = rows(Side::Buy);
            bids.reverse();
            let expected = format!(r#""asks":[{}],"bids":[{}]}}"#, asks.join(","), bids.join(","));
            prop_assert!(text(&book, 100).ends_with(&expected));
        }
    }
}
