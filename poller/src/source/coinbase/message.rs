//! The messages of the exchange, parsed in one pass, borrowing from the text where possible.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{book::MAX_LEVELS, decimal::Decimal};

/// One message, with the fields that matter here.
#[derive(Debug, Default)]
pub(super) struct Message<'a> {
    /// Its `type`.
    pub(super) kind: Cow<'a, str>,
    pub(super) product: Option<Cow<'a, str>>,
    pub(super) trade_id: Option<u64>,
    pub(super) last_trade_id: Option<u64>,
    pub(super) time: Option<Cow<'a, str>>,
    pub(super) channels: Vec<Acknowledged<'a>>,
    /// The text of an error.
    pub(super) message: Option<Cow<'a, str>>,
    /// The reason of an error, if it has one.
    pub(super) reason: Option<Cow<'a, str>>,
}

/// A channel in the set of channels that the exchange confirms.
#[derive(Debug, Deserialize)]
pub(super) struct Acknowledged<'a> {
    #[serde(borrow)]
    pub(super) name: Text<'a>,
    #[serde(borrow, default)]
    pub(super) product_ids: Option<Vec<Text<'a>>>,
}

/// A string that is borrowed unless it has escapes.
#[derive(Debug, Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// The repeated parts of a message. Each message reuses them, so that parsing does not allocate.
#[derive(Debug, Default)]
pub(super) struct Levels {
    pub(super) changes: Vec<Change>,
    pub(super) asks: Vec<Level>,
    pub(super) bids: Vec<Level>,
}

/// A level of the book.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level {
    pub(super) price: Decimal,
    pub(super) size: Decimal,
}

/// The state of a level after a change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) side: Side,
    pub(super) level: Level,
}

/// A side of the book.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Side {
    /// Bids.
    Buy,
    /// Asks.
    Sell,
}

impl<'a> Message<'a> {
    /// Parses a text that is one JSON object. Its repeated parts go to `levels`.
    pub(super) fn read(text: &'a str, levels: &mut Levels) -> serde_json::Result<Self> {
        levels.changes.clear();
        levels.asks.clear();
        levels.bids.clear();
        let mut json = serde_json::Deserializer::from_str(text);
        let message = Reader(levels).deserialize(&mut json)?;
        json.end()?;
        Ok(message)
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Field {
    Type,
    ProductId,
    TradeId,
    LastTradeId,
    Time,
    Changes,
    Asks,
    Bids,
    Channels,
    Message,
    Reason,
    #[serde(other)]
    Other,
}

struct Reader<'s>(&'s mut Levels);

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Message<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Message<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Message<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message with a type")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Message<'de>, A::Error> {
        let Self(levels) = self;
        let text = |text: Option<Text<'de>>| text.map(|Text(text)| text);
        let mut message = Message::default();
        while let Some(field) = map.next_key()? {
            match field {
                Field::Type => message.kind = map.next_value::<Text<'de>>()?.0,
                Field::ProductId => message.product = text(map.next_value()?),
                Field::TradeId => message.trade_id = map.next_value()?,
                Field::LastTradeId => message.last_trade_id = map.next_value()?,
                Field::Time => message.time = text(map.next_value()?),
                Field::Changes => map.next_value_seed(InPlace(&mut levels.changes))?,
                Field::Asks => map.next_value_seed(InPlace(&mut levels.asks))?,
                Field::Bids => map.next_value_seed(InPlace(&mut levels.bids))?,
                Field::Channels => message.channels = map.next_value()?,
                Field::Message => message.message = text(map.next_value()?),
                Field::Reason => message.reason = text(map.next_value()?),
                Field::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        if message.kind.is_empty() {
            return Err(de::Error::missing_field("type"));
        }
        Ok(message)
    }
}

/// Parses an array into an existing vector.
struct InPlace<'s, T>(&'s mut Vec<T>);

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for InPlace<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.0.clear();
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for InPlace<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(element) = seq.next_element()? {
            if self.0.len() == MAX_LEVELS {
                return Err(de::Error::custom("too many levels"));
            }
            self.0.push(element);
        }
        Ok(())
    }
}

/// Parses `[price, size]`; more elements are ignored.
struct LevelRow;

/// Parses `[side, price, size]`; more elements are ignored.
struct ChangeRow;

impl<'de> Visitor<'de> for LevelRow {
    type Value = Level;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of price and size")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Level, A::Error> {
        let level =
            Level { price: element(&mut seq, 0, &self)?, size: element(&mut seq, 1, &self)? };
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(level)
    }
}

impl<'de> Visitor<'de> for ChangeRow {
    type Value = Change;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of side, price and size")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Change, A::Error> {
        let change = Change {
            side: element(&mut seq, 0, &self)?,
            level: Level {
                price: element(&mut seq, 1, &self)?,
                size: element(&mut seq, 2, &self)?,
            },
        };
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(change)
    }
}

fn element<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(
    seq: &mut A,
    index: usize,
    expected: &dyn de::Expected,
) -> Result<T, A::Error> {
    seq.next_element()?.ok_or_else(|| de::Error::invalid_length(index, expected))
}

impl<'de> Deserialize<'de> for Level {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(LevelRow)
    }
}

impl<'de> Deserialize<'de> for Change {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ChangeRow)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_that_are_not_messages_are_rejected() {
        for text in [
            "",
            "[]",
            "{}",
            "null",
            "7",
            r#"{"product_id":"BTC-USD"}"#,
            r#"{"type":"match","trade_id":10"#,
            r#"{"type":"match"} {}"#,
            r#"{"type":7}"#,
            r#"{"type":"match","trade_id":"10"}"#,
            r#"{"type":"match","trade_id":-10}"#,
            r#"{"type":"l2update","changes":[["buy","1"]]}"#,
            r#"{"type":"l2update","changes":[["bid","1","1"]]}"#,
            r#"{"type":"l2update","changes":[["buy","1","1e-8"]]}"#,
            r#"{"type":"l2update","changes":[["buy",1,"1"]]}"#,
        ] {
            assert!(Message::read(text, &mut Levels::default()).is_err(), "case: {text}");
        }
    }

    #[test]
    fn fields_are_read_in_any_order_and_spelling() {
        let mut levels = Levels::default();
        let text = r#"{"changes":[["sell","2","0.10","?"],["buy","1","0"]],"x":{"type":"no"},
            "product_id":"BTC\u002dUSD","time":null,"trade_id":7,"type":"l2update"}"#;
        let message = Message::read(text, &mut levels).expect("a message");
        assert_eq!(message.kind, "l2update");
        assert_eq!(message.product.as_deref(), Some("BTC-USD"));
        assert_eq!((message.trade_id, message.time), (Some(7), None));
        assert_eq!(levels.changes.len(), 2);
        assert_eq!(levels.changes[0].side, Side::Sell);

        let text = r#"{"type":"subscriptions","channels":[{"name":"level2_50","product_ids":
            ["BTC-USD"],"account_ids":null},{"name":"ticker"}]}"#;
        let message = Message::read(text, &mut levels).expect("a message");
        assert_eq!(message.channels[0].name.0, "level2_50");
        assert!(message.channels[1].product_ids.is_none());
        assert!(levels.changes.is_empty(), "nothing is left of the previous message");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}|\\{\"type\":\"(snapshot|l2update)\",\"(asks|changes)\":[\\[\\]\",a-z0-9.]{0,30}\\}?") {
            let _ = Message::read(&text, &mut Levels::default());
        }
    }
}
