//! Principals, their rights and the limits of their classes.

use serde::{Deserialize, Serialize};

use crate::topic::Topic;

/// The class and the subject of a client without a token.
pub const ANONYMOUS: &str = "anonymous";

/// The separator between the classes of a principal.
const SEPARATOR: char = ',';

/// Maximum length of a list of classes, in bytes. Each event of a connection carries the list, and API
/// Gateway limits that part of an event to 8 KB.
const MAX_CLASSES_BYTES: usize = 1_024;

/// Maximum length of a subject, in bytes.
const MAX_ID_BYTES: usize = 256;

/// The owner of a connection or a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Principal {
    /// The token's subject, or `anonymous`.
    pub id: String,
    /// The class that the rules refer to, such as `trader`. Several classes are separated by commas.
    pub class: String,
}

/// Why a name is not valid for a principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrincipalError {
    /// The subject is empty, too long or has control characters.
    #[error("subject is empty, over {MAX_ID_BYTES} bytes, or has control characters")]
    Id,
    /// The subject is the reserved name of clients without a token.
    #[error("subject is {ANONYMOUS}, which is reserved for clients without a token")]
    Reserved,
    /// A class is empty, or has a comma or a control character; or there is no class.
    #[error("class is empty, or has commas or control characters")]
    Class,
    /// The list of classes is too long.
    #[error("classes are over {MAX_CLASSES_BYTES} bytes")]
    TooManyClasses,
}

impl Principal {
    /// Returns the principal of a client without a token.
    pub fn anonymous() -> Self {
        Self { id: ANONYMOUS.to_owned(), class: ANONYMOUS.to_owned() }
    }

    /// Returns the principal of a token with this subject and at least one class.
    ///
    /// # Errors
    ///
    /// [`PrincipalError`] for a name that the rules could confuse with another.
    pub fn named<'a>(
        id: &str,
        classes: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, PrincipalError> {
        if id.is_empty() || id.len() > MAX_ID_BYTES || id.contains(char::is_control) {
            return Err(PrincipalError::Id);
        }
        if id == ANONYMOUS {
            return Err(PrincipalError::Reserved);
        }
        let mut joined = String::new();
        for class in classes {
            if class.is_empty() || class.contains(|c: char| c == SEPARATOR || c.is_control()) {
                return Err(PrincipalError::Class);
            }
            if joined.split(SEPARATOR).any(|known| known == class) {
                continue;
            }
            if !joined.is_empty() {
                joined.push(SEPARATOR);
            }
            joined.push_str(class);
        }
        match joined.len() {
            0 => Err(PrincipalError::Class),
            1..=MAX_CLASSES_BYTES => Ok(Self { id: id.to_owned(), class: joined }),
            _ => Err(PrincipalError::TooManyClasses),
        }
    }

    /// Returns whether it is a client without a token. All such clients share one principal.
    pub fn is_anonymous(&self) -> bool {
        self.id == ANONYMOUS
    }

    /// Returns its classes.
    pub fn classes(&self) -> impl Iterator<Item = &str> {
        self.class.split(SEPARATOR)
    }
}

/// A right that the rules can permit or forbid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right<'a> {
    /// To open a WebSocket, and to use the REST interface.
    Connect,
    /// To read and replace the rules.
    Admin,
    /// To receive a topic's events as they happen.
    Subscribe(&'a Topic),
    /// To read a topic's past events.
    History(&'a Topic),
}

/// The limits of a class. An absent value means no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Concurrent connections of one principal, or of one address for clients without a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Topics that a connection can be subscribed to at the same time.
    pub topics: usize,
    /// Messages a second that a connection may send, with a burst of twice that.
    pub messages_per_second: u32,
    /// REST requests a second of one principal, or of one address for clients without a token, with a
    /// burst of twice that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<u32>,
    /// How many of a topic's newest events a client can read from the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<u64>,
    /// Bytes of history a second that one principal, or one address for clients without a token, is given, with
    /// a burst of 16 times that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history_bytes_per_second: Option<u32>,
}

impl Limits {
    /// Largest value of `connections`: one database item lists all connections of a principal.
    pub const MAX_CONNECTIONS: u32 = 5_000;

    /// Returns the larger value of each limit.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        fn larger<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
            Some(one?.max(other?))
        }
        Self {
            connections: larger(self.connections, other.connections),
            topics: self.topics.max(other.topics),
            messages_per_second: self.messages_per_second.max(other.messages_per_second),
            requests_per_second: larger(self.requests_per_second, other.requests_per_second),
            history: larger(self.history, other.history),
            history_bytes_per_second: larger(
                self.history_bytes_per_second,
                other.history_bytes_per_second,
            ),
        }
    }

    /// Returns the first number of a topic's history, given its newest number.
    pub fn oldest(&self, head: u64) -> u64 {
        self.history.map_or(1, |depth| (head + 1).saturating_sub(depth).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_joined_without_duplicates() {
        let ann = Principal::named("ann", ["trader", "member", "trader"]).expect("a principal");
        assert_eq!(ann.class, "trader,member");
        assert_eq!(ann.classes().collect::<Vec<_>>(), ["trader", "member"]);
        assert!(!ann.is_anonymous() && Principal::anonymous().is_anonymous());
        let longest = "x".repeat(256);
        assert_eq!(Principal::named(&longest, ["member"]).expect("a principal").id, longest);
    }

    #[test]
    fn ambiguous_names_are_rejected() {
        let long = "x".repeat(257);
        let cases: [(&str, &[&str], PrincipalError); 8] = [
            ("", &["member"], PrincipalError::Id),
            (&long, &["member"], PrincipalError::Id),
            ("a\0b", &["member"], PrincipalError::Id),
            ("anonymous", &["trader"], PrincipalError::Reserved),
            ("ann", &[], PrincipalError::Class),
            ("ann", &[""], PrincipalError::Class),
            ("ann", &["blocked,trader"], PrincipalError::Class),
            ("ann", &[&"y".repeat(1_025)], PrincipalError::TooManyClasses),
        ];
        for (id, classes, expected) in cases {
            assert_eq!(
                Principal::named(id, classes.iter().copied()),
                Err(expected),
                "case: {id} {classes:?}"
            );
        }
    }

    #[test]
    fn history_is_limited_to_the_newest_events() {
        let limits = |history| Limits {
            connections: Some(1),
            topics: 2,
            messages_per_second: 3,
            requests_per_second: None,
            history,
            history_bytes_per_second: None,
        };
        let cases = [(None, 50, 1), (Some(10), 50, 41), (Some(10), 5, 1), (Some(0), 5, 6)];
        for (history, head, expected) in cases {
            assert_eq!(limits(history).oldest(head), expected, "case: {history:?} {head}");
        }
        assert_eq!(limits(Some(10)).or(limits(Some(5))).history, Some(10));
        assert_eq!(limits(Some(10)).or(limits(None)).history, None);
    }
}
