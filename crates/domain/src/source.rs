//! The table of sources and channels, and the state of a source.
//!
//! Everything that depends on which channels exist is derived from [`CHANNELS`]: the grammar of
//! topics, the names that rules can use, and how the events of a topic may be treated under load.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A family of sources: the first part of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// The Coinbase exchange: one source, which has the name of the family.
    Coinbase,
    /// Mastodon servers: each server is a source, and its host is its name.
    Mastodon,
    /// Headwater itself.
    System,
}

/// The kind of events on a topic. There is one for each row of [`CHANNELS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TopicKind {
    /// Coinbase `ticker` messages of one product.
    Ticker,
    /// Coinbase `match` and `last_match` messages of one product.
    Matches,
    /// The order book of one product: `snapshot` messages with `l2update` messages between them.
    Level2,
    /// Posts of every configured server.
    Public,
    /// Posts of one server.
    Server,
    /// Posts with one hashtag.
    Tag,
    /// Posts in one language.
    Lang,
    /// Changes of the state of a source.
    System,
}

/// The grammar of the third part of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A currency pair, such as `BTC-USD`.
    Pair,
    /// A host name, with a port if it is not the default.
    Host,
    /// A hashtag without `#`.
    Tag,
    /// A language code, such as `pt-br`.
    Language,
}

/// A channel of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel {
    /// The family it belongs to.
    pub family: Family,
    /// Its name: the second part of a topic.
    pub name: &'static str,
    /// The grammar of the key; `None` when the channel is a single topic.
    pub key: Option<Key>,
    /// The kind of its events.
    pub kind: TopicKind,
    /// What its events mean to a subscriber.
    pub content: Content,
}

/// What a channel's events mean to a subscriber, and so how they may be treated under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Each event replaces the one before it: of several pending events only the newest is sent.
    Values,
    /// Every event counts.
    Events,
    /// Snapshots, and the changes since the last one: a subscriber starts at a snapshot.
    Book,
    /// Posts, which can be edited and deleted.
    Posts,
}

/// All channels.
pub const CHANNELS: [Channel; 8] = {
    use {
        Content::{Book, Events, Posts, Values},
        Family::{Coinbase, Mastodon, System},
        Key::{Host, Language, Pair, Tag},
    };
    const fn row(
        family: Family,
        name: &'static str,
        key: Option<Key>,
        kind: TopicKind,
        content: Content,
    ) -> Channel {
        Channel { family, name, key, kind, content }
    }
    [
        row(Coinbase, "ticker", Some(Pair), TopicKind::Ticker, Values),
        row(Coinbase, "matches", Some(Pair), TopicKind::Matches, Events),
        row(Coinbase, "level2", Some(Pair), TopicKind::Level2, Book),
        row(Mastodon, "public", None, TopicKind::Public, Posts),
        row(Mastodon, "server", Some(Host), TopicKind::Server, Posts),
        row(Mastodon, "tag", Some(Tag), TopicKind::Tag, Posts),
        row(Mastodon, "lang", Some(Language), TopicKind::Lang, Posts),
        row(System, "sources", None, TopicKind::System, Events),
    ]
};

impl Family {
    /// All families.
    pub const ALL: [Self; 3] = [Self::Coinbase, Self::Mastodon, Self::System];

    /// Returns its name, which is the first part of its topics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Coinbase => "coinbase",
            Self::Mastodon => "mastodon",
            Self::System => "system",
        }
    }

    /// Returns the family with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.name() == name)
    }

    /// Returns the family of a source, given the name that its [`SourceState`] has.
    ///
    /// Every name that is not the name of a family is the host of a Mastodon server.
    pub fn of_source(source: &str) -> Self {
        Self::named(source).unwrap_or(Self::Mastodon)
    }

    /// Returns its channels.
    pub fn channels(self) -> impl Iterator<Item = &'static Channel> {
        CHANNELS.iter().filter(move |channel| channel.family == self)
    }

    /// Returns its channel with this name.
    pub fn channel(self, name: &str) -> Option<&'static Channel> {
        self.channels().find(|channel| channel.name == name)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Channel {
    /// Returns the family and the name, such as `coinbase/ticker`.
    ///
    /// For a channel without a key, this is its topic.
    pub fn path(&self) -> String {
        format!("{}/{}", self.family, self.name)
    }
}

impl TopicKind {
    /// Returns the channel whose topics are of this kind.
    pub fn channel(self) -> &'static Channel {
        let channel = CHANNELS.iter().find(|channel| channel.kind == self);
        channel.expect("the table has every kind")
    }

    /// Returns whether a newer event makes a pending one obsolete.
    pub fn conflates(self) -> bool {
        self.channel().content == Content::Values
    }

    /// Returns whether a subscriber needs the newest snapshot before the events that follow it.
    pub fn has_snapshots(self) -> bool {
        self.channel().content == Content::Book
    }
}

/// What a source is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It receives events from its upstream.
    Live,
    /// It is connecting to its upstream.
    Connecting,
    /// It cannot reach its upstream; the detail says why.
    Down,
    /// It is live, and its upstream is a simulator.
    Simulated,
}

/// The state of a source, as reported on `system/sources` and by `/api/v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceState {
    /// The name of the source, such as `coinbase`.
    pub source: String,
    /// What it is doing.
    pub state: State,
    /// When it entered this state.
    pub since: Timestamp,
    /// A sentence for people, or an empty string.
    pub detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_and_every_path_is_in_the_table_once() {
        for channel in &CHANNELS {
            assert_eq!(channel.kind.channel(), channel);
            assert_eq!(channel.family.channel(channel.name), Some(channel));
        }
    }

    #[test]
    fn an_unknown_source_is_a_mastodon_server() {
        assert_eq!(Family::of_source("coinbase"), Family::Coinbase);
        assert_eq!(Family::of_source("mastodon.social"), Family::Mastodon);
    }

    #[test]
    fn channels_differ_in_how_their_events_are_treated() {
        let cases = [
            (TopicKind::Ticker, true, false),
            (TopicKind::Matches, false, false),
            (TopicKind::Level2, false, true),
            (TopicKind::Public, false, false),
            (TopicKind::Tag, false, false),
            (TopicKind::System, false, false),
        ];
        for (kind, conflates, snapshots) in cases {
            assert_eq!(kind.conflates(), conflates, "case: {kind:?}");
            assert_eq!(kind.has_snapshots(), snapshots, "case: {kind:?}");
        }
    }
}
