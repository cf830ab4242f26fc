//! Query strings, with the rules of Mastodon for repeated names, `id[]` and booleans.

use url::form_urlencoded;

/// The parameters of a request, in order.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(raw: Option<&str>) -> Self {
        let pairs = form_urlencoded::parse(raw.unwrap_or_default().as_bytes());
        Self(pairs.into_owned().collect())
    }

    /// Returns the first value of a parameter.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns every value of a parameter.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns the value of a parameter, if it is a number.
    pub(super) fn id(&self, name: &str) -> Option<u64> {
        self.get(name).and_then(|text| text.parse().ok())
    }

    /// Returns whether a boolean parameter is true.
    pub(super) fn is_set(&self, name: &str) -> bool {
        let off = ["", "0", "f", "F", "false", "FALSE", "off", "OFF"];
        self.get(name).is_some_and(|value| !off.contains(&value))
    }

    /// Returns the query of an adjacent page, with its cursor in place of the others.
    pub(super) fn page(&self, cursor: &str, id: u64) -> String {
        let mut pairs = self.0.clone();
        let replaced = ["max_id", "min_id", "since_id", "access_token"];
        pairs.retain(|(name, _)| !replaced.contains(&name.as_str()));
        pairs.push((cursor.to_owned(), id.to_string()));
        pairs.sort();
        form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
    }
}
