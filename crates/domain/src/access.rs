//! Who is connected, what rights there are, and what each class may use up.

use serde::{Deserialize, Serialize};

use crate::topic::Topic;

/// The class of whoever shows no token.
pub const ANONYMOUS: &str = "anonymous";

/// What is between classes where somebody has several.
const SEPARATOR: char = ',';

/// Longest list of classes, in bytes: it travels in each event of a connection, where API Gateway
/// has room for 8 KB.
const MAX_CLASSES_BYTES: usize = 1_024;

/// Longest subject, in bytes.
const MAX_ID_BYTES: usize = 256;

/// Whom a connection or a request belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Principal {
    /// The token's subject, or `anonymous`.
    pub id: String,
    /// The class the rules speak of, such as `trader`; several are separated by commas.
    pub class: String,
}

/// Why nobody can be called that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrincipalError {
    /// The subject is empty, too long or has control characters.
    #[error("subject is empty, over {MAX_ID_BYTES} bytes, or has control characters")]
    Id,
    /// The subject is the name of those who have none.
    #[error("subject is {ANONYMOUS}, which is the name of whoever shows no token")]
    Reserved,
    /// A class is empty, or has commas or control characters.
    #[error("class is empty, or has commas or control characters")]
    Class,
    /// The classes are too long together.
    #[error("classes are over {MAX_CLASSES_BYTES} bytes")]
    TooManyClasses,
}

impl Principal {
    /// Whoever shows no token.
    pub fn anonymous() -> Self {
        Self { id: ANONYMOUS.to_owned(), class: ANONYMOUS.to_owned() }
    }

    /// Somebody with a token that names these classes, of which there is at least one.
    ///
    /// # Errors
    ///
    /// [`PrincipalError`] for a name that the rules could not tell from another.
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

    /// Whether it is somebody without a token, who cannot be told from others by name.
    pub fn is_anonymous(&self) -> bool {
        self.id == ANONYMOUS
    }

    /// Its classes.
    pub fn classes(&self) -> impl Iterator<Item = &str> {
        self.class.split(SEPARATOR)
    }
}

/// What the rules give or withhold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right<'a> {
    /// To open a WebSocket, and to use the REST interface.
    Connect,
    /// To read and replace the rules.
    Admin,
    /// To get a topic's events as they come.
    Subscribe(&'a Topic),
    /// To get a topic's events of the past.
    History(&'a Topic),
}

/// What somebody of a class may use up. What is absent has no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Connections of one principal at the same time; of one address for those without a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Topics that a connection is subscribed to at the same time.
    pub topics: usize,
    /// Messages a second that a connection sends, with a burst of twice that.
    pub messages_per_second: u32,
    /// REST requests a second of one principal, with a burst of twice that; of one address for
    /// those without a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<u32>,
    /// How many of a topic's newest events count as its history: older ones are not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<u64>,
}

impl Limits {
    /// Most connections that can be counted: they stand in one item of the database.
    pub const MAX_CONNECTIONS: u32 = 5_000;

    /// The larger of each.
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
        }
    }

    /// The first number of a topic's history, if its newest is `head`.
    pub fn oldest(&self, head: u64) -> u64 {
        self.history.map_or(1, |depth| (head + 1).saturating_sub(depth).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_joined_and_told_apart() {
        let ann = Principal::named("ann", ["trader", "member", "trader"]).expect("a principal");
        assert_eq!(ann.class, "trader,member");
        assert_eq!(ann.classes().collect::<Vec<_>>(), ["trader", "member"]);
        assert!(!ann.is_anonymous() && Principal::anonymous().is_anonymous());
    }

    #[test]
    fn names_that_could_be_mistaken_are_refused() {
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
    fn history_has_a_depth() {
        let limits = |history| Limits {
            connections: Some(1),
            topics: 2,
            messages_per_second: 3,
            requests_per_second: None,
            history,
        };
        let cases = [(None, 50, 1), (Some(10), 50, 41), (Some(10), 5, 1), (Some(0), 5, 6)];
        for (history, head, expected) in cases {
            assert_eq!(limits(history).oldest(head), expected, "case: {history:?} {head}");
        }
        assert_eq!(limits(Some(10)).or(limits(Some(5))).history, Some(10));
        assert_eq!(limits(Some(10)).or(limits(None)).history, None);
    }
}
