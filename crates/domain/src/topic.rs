//! Topics: what a client subscribes to, and what an event is numbered in.

use std::{fmt, str::FromStr, sync::Arc};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use unicode_normalization::UnicodeNormalization;

pub use crate::source::TopicKind;

/// Longest topic, in bytes of its canonical spelling.
pub const MAX_TOPIC_BYTES: usize = 128;

/// The topic that tells of every change of a source's state.
pub const SYSTEM_SOURCES: &str = "system/sources";

/// What a topic's parts keep as they are: `[A-Za-z0-9._:@-]`. All else is percent-encoded.
const ENCODED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'.').remove(b'_').remove(b':').remove(b'@').remove(b'-');

/// A topic that exists by its grammar, in canonical spelling, such as `coinbase/ticker/BTC-USD`.
///
/// One topic has one spelling: needless percent-encoding is undone, hashtags are lower-cased and
/// put in Unicode's NFKC form, and so are language codes and server names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Arc<str>);

/// Why a text names no topic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Longer than [`MAX_TOPIC_BYTES`].
    #[error("topic is longer than {MAX_TOPIC_BYTES} bytes")]
    TooLong,
    /// A character or an encoding that topics cannot have.
    #[error("topic has a part that is not made of A-Z a-z 0-9 . _ : @ - or percent-encoded UTF-8")]
    Malformed,
    /// No source has such a channel.
    #[error("there is no such topic; see /api/v1/topics")]
    NoSuchChannel,
    /// The key is not one the channel can have, such as a pair that is not `BASE-QUOTE`.
    #[error("topic has a key that its channel cannot have")]
    BadKey,
}

impl Topic {
    /// Reads a topic and returns it in canonical spelling.
    ///
    /// # Errors
    ///
    /// Any [`TopicError`].
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        if text.len() > MAX_TOPIC_BYTES {
            return Err(TopicError::TooLong);
        }
        let parts = text.split('/').map(decode).collect::<Result<Vec<_>, _>>()?;
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        match parts[..] {
            ["coinbase", channel @ ("ticker" | "matches" | "level2"), key] => {
                if !is_pair(key) {
                    return Err(TopicError::BadKey);
                }
                Ok(Self(format!("coinbase/{channel}/{key}").into()))
            }
            ["mastodon", "public"] => Ok(Self("mastodon/public".into())),
            ["mastodon", "server", key] => Self::mastodon("server", &key.to_lowercase(), is_host),
            ["mastodon", "tag", key] => Self::mastodon("tag", &fold_tag(key), is_tag),
            ["mastodon", "lang", key] => Self::mastodon("lang", &key.to_lowercase(), is_language),
            ["system", "sources"] => Ok(Self(SYSTEM_SOURCES.into())),
            _ => Err(TopicError::NoSuchChannel),
        }
    }

    /// The topic of a Coinbase channel and product.
    ///
    /// # Errors
    ///
    /// [`TopicError`] when the channel is not ours or the product is no pair.
    pub fn coinbase(channel: &str, product: &str) -> Result<Self, TopicError> {
        Self::parse(&format!("coinbase/{channel}/{product}"))
    }

    /// The topic of all public posts.
    pub fn mastodon_public() -> Self {
        Self("mastodon/public".into())
    }

    /// The topic of the sources' states.
    pub fn system_sources() -> Self {
        Self(SYSTEM_SOURCES.into())
    }

    /// The topic of one server's posts; `None` for a host name that fits no topic.
    pub fn mastodon_server(host: &str) -> Option<Self> {
        Self::mastodon("server", &host.to_lowercase(), is_host).ok()
    }

    /// The topic of a hashtag, given without `#`; `None` for one that fits no topic.
    pub fn mastodon_tag(tag: &str) -> Option<Self> {
        Self::mastodon("tag", &fold_tag(tag), is_tag).ok()
    }

    /// The topic of a language code; `None` for one that fits no topic.
    pub fn mastodon_lang(code: &str) -> Option<Self> {
        Self::mastodon("lang", &code.to_lowercase(), is_language).ok()
    }

    fn mastodon(channel: &str, key: &str, valid: fn(&str) -> bool) -> Result<Self, TopicError> {
        if !valid(key) {
            return Err(TopicError::BadKey);
        }
        let text = format!("mastodon/{channel}/{}", utf8_percent_encode(key, ENCODED));
        if text.len() > MAX_TOPIC_BYTES {
            return Err(TopicError::TooLong);
        }
        Ok(Self(text.into()))
    }

    /// The canonical spelling.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first part: `coinbase`, `mastodon` or `system`.
    pub fn source(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }

    /// The second part, such as `ticker`.
    pub fn channel(&self) -> &str {
        self.0.split('/').nth(1).unwrap_or_default()
    }

    /// The third part as it is spelled in the topic, such as `BTC-USD`; `None` where there is none.
    pub fn key(&self) -> Option<&str> {
        self.0.split('/').nth(2)
    }

    /// What the events of this topic are.
    pub fn kind(&self) -> TopicKind {
        match (self.source(), self.channel()) {
            ("coinbase", "ticker") => TopicKind::Ticker,
            ("coinbase", "matches") => TopicKind::Matches,
            ("coinbase", _) => TopicKind::Level2,
            ("mastodon", "public") => TopicKind::Public,
            ("mastodon", "server") => TopicKind::Server,
            ("mastodon", "tag") => TopicKind::Tag,
            ("mastodon", _) => TopicKind::Lang,
            _ => TopicKind::System,
        }
    }
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

/// Coinbase's product grammar: `BASE-QUOTE`, upper-case letters and digits, one hyphen.
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
            ("mastodon/lang/english", Err(TopicError::BadKey)),
            ("", Err(TopicError::NoSuchChannel)),
        ];
        for (text, expected) in cases {
            let parsed = Topic::parse(text);
            let parsed = parsed.as_ref().map(Topic::as_str).map_err(Clone::clone);
            assert_eq!(parsed, expected, "case: {text}");
        }
        assert_eq!(Topic::parse(&"a".repeat(129)), Err(TopicError::TooLong));
        assert_eq!(Topic::mastodon_tag(&"日".repeat(20)), None, "too long once encoded");
    }

    #[test]
    fn a_topic_knows_its_parts() {
        let topic = Topic::coinbase("level2", "ETH-EUR").expect("a topic");
        assert_eq!(topic.source(), "coinbase");
        assert_eq!(topic.channel(), "level2");
        assert_eq!(topic.key(), Some("ETH-EUR"));
        assert_eq!(topic.kind(), TopicKind::Level2);
        assert_eq!(Topic::mastodon_public().key(), None);
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
