//! The exchange's messages, with the fields and their order as in the real ones.
#![expect(clippy::similar_names, reason = "a side has a size")]

use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    decimal::{padded, trimmed, trimmed_wide},
    market::{LevelChange, Market, Product, Side, Trade},
};

/// Returns a `match`, or the `last_match` that a new subscriber receives.
pub(super) fn matched(kind: &str, product: &Product, trade: &Trade) -> String {
    let Trade { id, maker_order, taker_order, maker, sequence, at, .. } = trade;
    let side = maker.as_str();
    let product_id = product.id;
    let size = trimmed(trade.size, product.size_scale);
    let price = trimmed(trade.price, product.price_scale);
    format!(
        r#"{{"type":"{kind}","trade_id":{id},"maker_order_id":"{maker_order}","taker_order_id":"{taker_order}","side":"{side}","size":"{size}","price":"{price}","product_id":"{product_id}","sequence":{sequence},"time":"{at:.6}"}}"#
    )
}

/// Returns the `ticker` after a market's last trade.
pub(super) fn ticker(market: &Market) -> String {
    let Product { id, price_scale, size_scale, .. } = *market.product;
    let sequence = market.sequence;
    let Some(trade) = market.trades.back() else {
        return format!(
            r#"{{"type":"ticker","sequence":{sequence},"product_id":"{id}","price":"0","open_24h":"0","volume_24h":"0","low_24h":"0","high_24h":"0","volume_30d":"0","best_bid":"","best_bid_size":"","best_ask":"","best_ask_size":""}}"#
        );
    };
    let price = |ticks| trimmed(ticks, price_scale);
    let size = |units| trimmed(units, size_scale);
    let level = |side| {
        let (ticks, units) = market.book.best(side).unwrap_or_default();
        (price(ticks), size(units))
    };
    let (bid, bid_size) = level(Side::Buy);
    let (ask, ask_size) = level(Side::Sell);
    let last = price(trade.price);
    let open = price(market.open_price());
    let low = price(market.low);
    let high = price(market.high);
    let volume = trimmed_wide(market.volume, size_scale);
    let month = trimmed_wide(market.volume * 31, size_scale);
    let side = trade.maker.opposite().as_str();
    let last_size = size(trade.size);
    let sequence = trade.sequence;
    let trade_id = trade.id;
    let at = trade.at;
    format!(
        r#"{{"type":"ticker","sequence":{sequence},"product_id":"{id}","price":"{last}","open_24h":"{open}","volume_24h":"{volume}","low_24h":"{low}","high_24h":"{high}","volume_30d":"{month}","best_bid":"{bid}","best_bid_size":"{bid_size}","best_ask":"{ask}","best_ask_size":"{ask_size}","side":"{side}","time":"{at:.6}","trade_id":{trade_id},"last_size":"{last_size}"}}"#
    )
}

/// Returns the `snapshot` of a book.
pub(super) fn snapshot(market: &Market, now: Timestamp) -> String {
    let Product { id, price_scale, size_scale, .. } = *market.product;
    let mut text = format!(r#"{{"type":"snapshot","product_id":"{id}""#);
    for (name, side) in [("asks", Side::Sell), ("bids", Side::Buy)] {
        let _ = write!(text, r#","{name}":["#);
        for (nth, (price, size)) in market.book.levels(side).enumerate() {
            let comma = if nth == 0 { "" } else { "," };
            let price = padded(price, price_scale);
            let size = padded(size, size_scale);
            let _ = write!(text, r#"{comma}["{price}","{size}"]"#);
        }
        text.push(']');
    }
    let _ = write!(text, r#","time":"{now:.6}"}}"#);
    text
}

/// Returns the `l2update` with the changed levels.
pub(super) fn l2update(product: &Product, changes: &[LevelChange], now: Timestamp) -> String {
    let id = product.id;
    let mut text = format!(r#"{{"type":"l2update","product_id":"{id}","changes":["#);
    for (nth, (side, price, size)) in changes.iter().enumerate() {
        let comma = if nth == 0 { "" } else { "," };
        let price = padded(*price, product.price_scale);
        let size = padded(*size, product.size_scale);
        let _ = write!(text, r#"{comma}["{}","{price}","{size}"]"#, side.as_str());
    }
    let _ = write!(text, r#"],"time":"{now:.6}"}}"#);
    text
}

/// Returns the `heartbeat` of one product, at a full second.
pub(super) fn heartbeat(market: &Market, now: Timestamp) -> String {
    let last = market.trades.back().map_or(0, |trade| trade.id);
    let id = market.product.id;
    let sequence = market.sequence;
    let second = Timestamp::from_second(now.as_second()).unwrap_or(now);
    format!(
        r#"{{"type":"heartbeat","last_trade_id":{last},"product_id":"{id}","sequence":{sequence},"time":"{second:.6}"}}"#
    )
}

/// Returns an `error`.
pub(super) fn error(message: &str, reason: Option<&str>) -> String {
    let mut error = json!({"type": "error", "message": message});
    if let Some(reason) = reason {
        error["reason"] = reason.into();
    }
    error.to_string()
}

/// Returns a trade in the format of the REST interface.
pub(super) fn rest_trade(product: &Product, trade: &Trade) -> Value {
    json!({
        "trade_id": trade.id,
        "side": trade.maker.as_str(),
        "size": trimmed(trade.size, product.size_scale),
        "price": trimmed(trade.price, product.price_scale),
        "time": format!("{:.6}", trade.at),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::market::Markets;

    #[test]
    fn a_match_and_its_ticker_agree() {
        let mut exchange = Markets::new(1, 20.0, Timestamp::UNIX_EPOCH);
        for _ in 0..500 {
            let tick = exchange.tick(Timestamp::UNIX_EPOCH);
            let market = &exchange.all[tick.market];
            let Some(trade) = tick.trades.last() else { continue };
            let matched: Value = parse(&matched("match", market.product, trade));
            let ticker: Value = parse(&ticker(market));
            for (field, twin) in [
                ("trade_id", "trade_id"),
                ("sequence", "sequence"),
                ("price", "price"),
                ("size", "last_size"),
                ("time", "time"),
                ("product_id", "product_id"),
            ] {
                assert_eq!(matched[field], ticker[twin], "{field}");
            }
            assert_ne!(matched["side"], ticker["side"]);
        }
    }

    #[test]
    fn messages_have_the_format_of_the_real_ones() {
        let exchange = Markets::new(1, 20.0, Timestamp::UNIX_EPOCH);
        let market = &exchange.all[0];
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(
            l2update(market.product, &[(Side::Buy, 6_351_460, 0), (Side::Sell, 6_352_000, 7)], now),
            r#"{"type":"l2update","product_id":"BTC-USD","changes":[["buy","63514.60","0.00000000"],["sell","63520.00","0.00000007"]],"time":"1970-01-01T00:00:00.000000Z"}"#
        );
        let snapshot = snapshot(market, now);
        assert!(snapshot.starts_with(r#"{"type":"snapshot","product_id":"BTC-USD","asks":[["#));
        assert!(snapshot.len() > 300_000, "{}", snapshot.len());
        parse(&snapshot);
        let keys = |text: &str| {
            text.split('"')
                .filter(|part| part.ends_with("_id"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            keys(&matched("last_match", market.product, &market.trades[0])),
            ["trade_id", "maker_order_id", "taker_order_id", "product_id"]
        );
        let untraded = exchange
            .all
            .iter()
            .find(|market| market.trades.is_empty())
            .expect("a product without trades");
        assert_eq!(parse(&heartbeat(untraded, now))["last_trade_id"], 0);
        assert_eq!(parse(&ticker(untraded))["price"], "0");
    }

    fn parse(text: &str) -> Value {
        serde_json::from_str(text).expect("JSON")
    }
}
