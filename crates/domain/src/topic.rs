//! Topics: the names that clients subscribe to. Each topic numbers its own events.

use std::{fmt, str::FromStr, sync::Arc};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use unicode_normalization::UnicodeNormalization;

pub use crate::source::TopicKind;
use crate::source::{CHANNELS, Channel, Family, Key};

/// Length of the longest topic, in bytes of its canonical spelling.
pub const MAX_TOPIC_BYTES: usize = 128;

/// The characters that are not percent-encoded in a topic: `[A-Za-z0-9._:@-]`.
const ENCODED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'.').remove(b'_').remove(b':').remove(b'@').remove(b'-');

/// A topic in canonical spelling, such as `coinbase/ticker/BTC-USD`.
///
/// A topic is well-formed, but need not exist at the upstream. Each topic has one canonical spelling:
/// unnecessary percent-encoding is removed, hashtags are lower-cased and converted to Unicode's NFKC
/// form, and language codes and server names are lower-cased.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Arc<str>);

/// Why a text is not a topic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// The topic is longer than [`MAX_TOPIC_BYTES`].
    #[error("topic is longer than {MAX_TOPIC_BYTES} bytes")]
    TooLong,
    /// A part has a character or an encoding that is not allowed.
    #[error("topic has characters other than A-Z a-z 0-9 . _ : @ - and percent-encoded UTF-8")]
    Malformed,
    /// No source has such a channel.
    #[error("there is no such topic; see /api/v1/topics")]
    NoSuchChannel,
    /// The key is not valid for the channel, for example a pair that is not `BASE-QUOTE`.
    #[error("the key of the topic is not valid for its channel")]
    BadKey,
}

impl Topic {
    /// Parses a topic and returns it in canonical spelling.
    ///
    /// # Errors
    ///
    /// Any [`TopicError`].
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        if text.len() > MAX_TOPIC_BYTES {
            return Err(TopicError::TooLong);
        }
        let parts = text.split('/').map(decode).collect::<Result<Vec<_>, _>>()?;
        let [family, channel, key @ ..] = parts.as_slice() else {
            return Err(TopicError::NoSuchChannel);
        };
        let channel = Family::named(family)
            .and_then(|family| family.channel(channel))
            .ok_or(TopicError::NoSuchChannel)?;
        match (channel.key, key) {
            (None, []) => Ok(Self(channel.path().into())),
            (Some(grammar), [key]) => Self::with_key(channel, grammar, key),
            (None | Some(_), _) => Err(TopicError::NoSuchChannel),
        }
    }

    /// Returns the topic of a Coinbase channel and product.
    ///
    /// # Errors
    ///
    /// [`TopicError`] when the channel is unknown or the product is not a pair.
    pub fn coinbase(channel: &str, product: &str) -> Result<Self, TopicError> {
        Self::parse(&format!("{}/{channel}/{product}", Family::Coinbase))
    }

    /// Returns the topics of a Coinbase product, one for each channel; none if it is not a pair.
    pub fn of_product(product: &str) -> impl Iterator<Item = Self> {
        let channels = Family::Coinbase.channels();
        channels.filter_map(move |channel| Self::coinbase(channel.name, product).ok())
    }

    /// Returns the topics of the channels that have no key.
    pub fn without_key() -> impl Iterator<Item = Self> {
        CHANNELS
            .iter()
            .filter(|channel| channel.key.is_none())
            .map(|channel| Self(channel.path().into()))
    }

    /// Returns the topic of all public posts.
    pub fn mastodon_public() -> Self {
        Self(TopicKind::Public.channel().path().into())
    }

    /// Returns the topic that reports changes of the state of a source.
    pub fn system_sources() -> Self {
        Self(TopicKind::System.channel().path().into())
    }

    /// Returns the topic of a server's posts; `None` if the host name does not fit in a topic.
    pub fn mastodon_server(host: &str) -> Option<Self> {
        Self::with_key(TopicKind::Server.channel(), Key::Host, host).ok()
    }

    /// Returns the topic of a hashtag, given without `#`; `None` if it does not fit in a topic.
    pub fn mastodon_tag(tag: &str) -> Option<Self> {
        Self::with_key(TopicKind::Tag.channel(), Key::Tag, tag).ok()
    }

    /// Returns the topic of a language code; `None` if it does not fit in a topic.
    pub fn mastodon_lang(code: &str) -> Option<Self> {
        Self::with_key(TopicKind::Lang.channel(), Key::Language, code).ok()
    }

    fn with_key(channel: &Channel, grammar: Key, key: &str) -> Result<Self, TopicError> {
        let key = canonical_key(grammar, key).ok_or(TopicError::BadKey)?;
        let text = format!("{}/{}", channel.path(), utf8_percent_encode(&key, ENCODED));
        if text.len() > MAX_TOPIC_BYTES {
            return Err(TopicError::TooLong);
        }
        Ok(Self(text.into()))
    }

    /// Returns the canonical spelling.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the first part: `coinbase`, `mastodon` or `system`.
    pub fn source(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }

    /// Returns the second part, such as `ticker`.
    pub fn channel(&self) -> &str {
        self.0.split('/').nth(1).unwrap_or_default()
    }

    /// Returns the third part as spelled in the topic, such as `BTC-USD`; `None` if there is none.
    pub fn key(&self) -> Option<&str> {
        self.0.split('/').nth(2)
    }

    /// Returns the family of sources that the topic belongs to.
    pub fn family(&self) -> Family {
        self.row().family
    }

    /// Returns the kind of the topic's events.
    pub fn kind(&self) -> TopicKind {
        self.row().kind
    }

    fn row(&self) -> &'static Channel {
        let row = Family::named(self.source()).and_then(|family| family.channel(self.channel()));
        row.expect("a topic has a channel of the table")
    }
}

/// Returns the canonical spelling of a key, or `None` if the key is invalid.
fn canonical_key(grammar: Key, key: &str) -> Option<String> {
    let (key, is_valid): (String, fn(&str) -> bool) = match grammar {
        Key::Pair => (key.to_owned(), is_pair),
        Key::Host => (key.to_lowercase(), is_host),
        Key::Tag => (fold_tag(key), is_tag),
        Key::Language => (key.to_lowercase(), is_language),
    };
    is_valid(&key).then_some(key)
}

fn decode(part: &str) -> Result<String, TopicError> {
    let mut rest = part.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = match (byte, tail) {
            (b'%', [high, low, tail @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                tail
            }
            (b'.' | b'_' | b':' | b'@' | b'-', tail) => tail,
            (byte, tail) if byte.is_ascii_alphanumeric() => tail,
            _ => return Err(TopicError::Malformed),
        };
    }
    let text = percent_decode_str(part).decode_utf8().map_err(|_| TopicError::Malformed)?;
    Ok(text.into_owned())
}

/// Coinbase's grammar of products: `BASE-QUOTE`, in upper-case letters and digits.
fn is_pair(key: &str) -> bool {
    let part = |part: &str| {
        (1..=20).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
    };
    key.split_once('-').is_some_and(|(base, quote)| part(base) && part(quote))
}

fn is_host(key: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let (host, port) = key.split_once(':').unwrap_or((key, "1"));
    host.split('.').all(label) && port.parse::<u16>().is_ok()
}

fn fold_tag(tag: &str) -> String {
    tag.nfkc().flat_map(char::to_lowercase).nfkc().collect()
}

fn is_tag(key: &str) -> bool {
    !key.is_empty()
        && !key.chars().any(|c| c.is_control() || c.is_whitespace() || "/#?".contains(c))
}

fn is_language(key: &str) -> bool {
    let mut subtags = key.split('-');
    subtags.next().is_some_and(|main| {
        (2..=3).contains(&main.len()) && main.bytes().all(|b| b.is_ascii_lowercase())
    }) && subtags
        .all(|sub| (1..=8).contains(&sub.len()) && sub.bytes().all(|b| b.is_ascii_alphanumeric()))
}

impl FromStr for Topic {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, TopicError> {
        Self::parse(text)
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Topic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Topic {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_topic_has_one_spelling() {
        let cases = [
            ("coinbase/ticker/BTC-USD", Ok("coinbase/ticker/BTC-USD")),
            ("coinbase/ticker/%42TC-USD", Ok("coinbase/ticker/BTC-USD")),
            ("coinbase/matches/1INCH-EUR", Ok("coinbase/matches/1INCH-EUR")),
            ("mastodon/public", Ok("mastodon/public")),
            ("mastodon/server/Mastodon.Social", Ok("mastodon/server/mastodon.social")),
            ("mastodon/server/127.0.0.1:4802", Ok("mastodon/server/127.0.0.1:4802")),
            ("mastodon/tag/RustLang", Ok("mastodon/tag/rustlang")),
            ("mastodon/tag/%EF%BC%B2ust", Ok("mastodon/tag/rust")),
            ("mastodon/tag/%e6%97%a5", Ok("mastodon/tag/%E6%97%A5")),
            ("mastodon/lang/pt-BR", Ok("mastodon/lang/pt-br")),
            ("system/sources", Ok("system/sources")),
            ("coinbase/ticker/btc-usd", Err(TopicError::BadKey)),
            ("coinbase/ticker/BTC", Err(TopicError::BadKey)),
            ("coinbase/ticker/BTC-USD-X", Err(TopicError::BadKey)),
            ("coinbase/full/BTC-USD", Err(TopicError::NoSuchChannel)),
            ("coinbase/ticker", Err(TopicError::NoSuchChannel)),
            ("Coinbase/ticker/BTC-USD", Err(TopicError::NoSuchChannel)),
            ("mastodon/public/", Err(TopicError::NoSuchChannel)),
            ("mastodon/tag/", Err(TopicError::BadKey)),
            ("mastodon/tag/%FF", Err(TopicError::Malformed)),
            ("mastodon/tag/%4", Err(TopicError::Malformed)),
            ("mastodon/tag/日本", Err(TopicError::Malformed)),
            ("mastodon/tag/a%2Fb", Err(TopicError::BadKey)),
            ("mastodon/tag/a%00b", Err(TopicError::BadKey)),
            ("mastodon/tag/%4G", Err(TopicError::Malformed)),
            ("mastodon/tag/%G4", Err(TopicError::Malformed)),
            ("mastodon/server/a-b.example", Ok("mastodon/server/a-b.example")),
            ("mastodon/server/-a.example", Err(TopicError::BadKey)),
            ("mastodon/server/a..example", Err(TopicError::BadKey)),
            ("mastodon/server/a_b.example", Err(TopicError::BadKey)),
            ("mastodon/server/a@b", Err(TopicError::BadKey)),
            ("mastodon/server/a.example:x", Err(TopicError::BadKey)),
            ("mastodon/server/a.example:70000", Err(TopicError::BadKey)),
            ("mastodon/lang/zh-Hant-TW", Ok("mastodon/lang/zh-hant-tw")),
            ("mastodon/lang/e", Err(TopicError::BadKey)),
            ("mastodon/lang/e1", Err(TopicError::BadKey)),
            ("mastodon/lang/en-", Err(TopicError::BadKey)),
            ("mastodon/lang/en-a_b", Err(TopicError::BadKey)),
            ("mastodon/lang/en-123456789", Err(TopicError::BadKey)),
            ("mastodon/lang/english", Err(TopicError::BadKey)),
            ("", Err(TopicError::NoSuchChannel)),
        ];
        for (text, expected) in cases {
            let parsed = Topic::parse(text);
            assert_eq!(
                parsed.as_ref().map(Topic::as_str),
                expected.as_ref().copied(),
                "case: {text}"
            );
        }
        assert_eq!(Topic::parse(&"a".repeat(129)), Err(TopicError::TooLong));
        let longest = format!("mastodon/tag/{}", "a".repeat(128 - "mastodon/tag/".len()));
        assert_eq!(Topic::parse(&longest).map(|topic| topic.to_string()), Ok(longest.clone()));
        let tag = &longest["mastodon/tag/".len()..];
        assert_eq!(Topic::mastodon_tag(tag).map(|topic| topic.to_string()), Some(longest.clone()));
        assert_eq!(Topic::mastodon_tag(&format!("{tag}a")), None);
        assert_eq!(Topic::mastodon_tag(&"日".repeat(20)), None, "too long once encoded");
    }

    #[test]
    fn a_topic_knows_its_parts() {
        let topic = Topic::coinbase("level2", "ETH-EUR").expect("a topic");
        assert_eq!(topic.source(), "coinbase");
        assert_eq!(topic.channel(), "level2");
        assert_eq!(topic.key(), Some("ETH-EUR"));
        assert_eq!(topic.kind(), TopicKind::Level2);
        assert_eq!(topic.family(), Family::Coinbase);
        assert_eq!(Topic::mastodon_public().key(), None);
        for (topic, text) in [
            (Topic::mastodon_server("a.example"), "mastodon/server/a.example"),
            (Topic::mastodon_tag("Rust"), "mastodon/tag/rust"),
            (Topic::mastodon_lang("en"), "mastodon/lang/en"),
        ] {
            assert_eq!(format!("{topic:?}"), format!("Some({text})"));
        }
    }

    #[test]
    fn topics_are_derived_from_the_table() {
        let names = |topics: Vec<Topic>| topics.iter().map(Topic::to_string).collect::<Vec<_>>();
        assert_eq!(
            names(Topic::of_product("A-B").collect()),
            ["coinbase/ticker/A-B", "coinbase/matches/A-B", "coinbase/level2/A-B"]
        );
        assert_eq!(Topic::of_product("a").count(), 0);
        let singles = names(Topic::without_key().collect());
        assert_eq!(singles, ["mastodon/public", "system/sources"]);
    }

    proptest! {
        #[test]
        fn parsing_is_idempotent(text in "(mastodon/(tag|lang|server)/|coinbase/ticker/)[ -~]{0,20}") {
            if let Ok(topic) = Topic::parse(&text) {
                prop_assert_eq!(Topic::parse(topic.as_str()), Ok(topic));
            }
        }

        #[test]
        fn every_hashtag_that_fits_survives_its_spelling(tag in "\\PC{1,12}") {
            if let Some(topic) = Topic::mastodon_tag(&tag) {
                prop_assert_eq!(Topic::parse(topic.as_str()), Ok(topic));
            }
        }
    }
}
