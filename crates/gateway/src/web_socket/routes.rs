//! The routes of the WebSocket API, and the expression that selects one for a message.

use std::collections::BTreeMap;

use serde_json::Value;

/// The routes of a WebSocket API by route key.
#[derive(Clone, Debug, Default)]
pub struct Routes(BTreeMap<String, Route>);

/// The target of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The function that receives the events.
    pub function: String,
    /// Whether the `body` of the function's response is sent to the client (a "two-way" route).
    pub is_two_way: bool,
}

impl Routes {
    /// Adds a one-way route, and returns the table with it.
    #[must_use]
    pub fn with(self, key: impl Into<String>, function: impl Into<String>) -> Self {
        self.with_route(key, Route { function: function.into(), is_two_way: false })
    }

    /// Adds a two-way route, and returns the table with it.
    #[must_use]
    pub fn with_two_way(self, key: impl Into<String>, function: impl Into<String>) -> Self {
        self.with_route(key, Route { function: function.into(), is_two_way: true })
    }

    fn with_route(mut self, key: impl Into<String>, route: Route) -> Self {
        self.insert(key, route);
        self
    }

    /// Adds a route, or replaces it.
    pub fn insert(&mut self, key: impl Into<String>, route: Route) {
        self.0.insert(key.into(), route);
    }

    /// Returns the routes by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Route)> {
        self.0.iter().map(|(key, route)| (key.as_str(), route))
    }

    pub(crate) fn connect(&self) -> Option<&Route> {
        self.0.get("$connect")
    }

    pub(crate) fn disconnect(&self) -> Option<&Route> {
        self.0.get("$disconnect")
    }

    /// Returns the key and the route of a message. Keys that start with `$` are reserved: no message can
    /// select them. A message that matches no key gets `$default`, if there is one.
    pub(crate) fn select(&self, selection: &Selection, body: &str) -> Option<(&str, &Route)> {
        let key = selection.evaluate(body).filter(|key| !key.starts_with('$'));
        let route = key.and_then(|key| self.0.get_key_value(&key));
        let (key, route) = route.or_else(|| self.0.get_key_value("$default"))?;
        Some((key, route))
    }
}

/// A route selection expression: `$request.body.x.y`, `${request.body.x}/${request.body.y}` or a
/// constant (API Gateway developer guide, "Route selection expressions").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Body(Vec<String>),
}

/// Why a text is not a route selection expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{expression:?} is not a route selection expression")]
pub struct SelectionError {
    expression: String,
}

impl Default for Selection {
    /// The common `$request.body.action`.
    fn default() -> Self {
        Self(vec![Part::Body(vec!["action".to_owned()])])
    }
}

impl Selection {
    /// Parses an expression.
    ///
    /// # Errors
    ///
    /// [`SelectionError`] when a variable is not a path under `request.body`.
    pub fn parse(expression: &str) -> Result<Self, SelectionError> {
        let error = || SelectionError { expression: expression.to_owned() };
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = expression;
        while let Some(at) = rest.find(['$', '\\']) {
            literal.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(after) = rest.strip_prefix('\\') {
                let escaped = after.chars().next().ok_or_else(error)?;
                literal.push(escaped);
                rest = &after[escaped.len_utf8()..];
                continue;
            }
            let (path, after) = match rest.strip_prefix("${") {
                Some(inner) => inner.split_once('}').ok_or_else(error)?,
                None => (&rest[1..], ""),
            };
            let path = path.strip_prefix("request.body.").ok_or_else(error)?;
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(Part::Body(path.split('.').map(str::to_owned).collect()));
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self(parts))
    }

    /// Evaluates the expression for a message. Returns `None` if the message is not a JSON object.
    fn evaluate(&self, body: &str) -> Option<String> {
        let body: Value = serde_json::from_str(body)
            .or_else(|_| serde_json::from_str(&quote_bare_keys(body)))
            .ok()
            .filter(Value::is_object)?;
        Some(self.0.iter().map(|part| part.evaluate(&body)).collect())
    }
}

impl Part {
    fn evaluate(&self, body: &Value) -> String {
        match self {
            Self::Literal(text) => text.clone(),
            Self::Body(path) => {
                let value = path.iter().try_fold(body, |value, name| value.get(name));
                value.map(as_text).unwrap_or_default()
            }
        }
    }
}

/// Returns the text of a value in a route key, as API Gateway writes it.
fn as_text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => {
            format!("[{}]", values.iter().map(as_text).collect::<Vec<_>>().join(", "))
        }
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

/// Puts quotes around bare keys: API Gateway's parser accepts `{"action":"x", body:"y"}`.
fn quote_bare_keys(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut in_string = false;
    let mut before_key = false;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let mut taken = first.len_utf8();
        match first {
            '\\' if in_string => taken += rest[1..].chars().next().map_or(0, char::len_utf8),
            '"' => {
                in_string = !in_string;
                before_key = false;
            }
            _ if in_string || first.is_whitespace() => {}
            '{' | ',' => before_key = true,
            _ if before_key => {
                before_key = false;
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '-');
                let name = &rest[..end.unwrap_or(rest.len())];
                if !name.is_empty() && rest[name.len()..].trim_start().starts_with(':') {
                    out.extend(["\"", name, "\""]);
                    rest = &rest[name.len()..];
                    continue;
                }
            }
            _ => {}
        }
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selects_the_route_of_a_message() {
        let routes = Routes::default()
            .with("$connect", "connect")
            .with("$disconnect", "disconnect")
            .with("$default", "default")
            .with("join", "join")
            .with("5", "five")
            .with("true", "yes")
            .with("[a, b]", "list");
        let cases = [
            (r#"{"action":"join"}"#, "join"),
            (r#"{ "x": {"action":"nested"}, "action" : "join" }"#, "join"),
            (r#"{"action":"join", body:"hello"}"#, "join"),
            (r#"{body:"{\",x:", action:"join"}"#, "join"),
            (r#"{"action":"Join"}"#, "$default"),
            (r#"{"action":"joi\u006e"}"#, "join"),
            (r#"{"action":5}"#, "5"),
            (r#"{"action":true}"#, "true"),
            (r#"{"action":["a","b"]}"#, "[a, b]"),
            (r#"{"action":null}"#, "$default"),
            (r#"{"other":"join"}"#, "$default"),
            (r#"{"action":"$connect"}"#, "$default"),
            (r#"{"action":"$disconnect"}"#, "$default"),
            (r#"{"action":"jo"#, "$default"),
            ("{}", "$default"),
            ("\"join\"", "$default"),
            ("[1]", "$default"),
            ("hello", "$default"),
            ("{ü:\\", "$default"),
            ("", "$default"),
        ];
        for (body, expected) in cases {
            let (key, _) = routes.select(&Selection::default(), body).expect("$default");
            assert_eq!(key, expected, "case: {body}");
        }
    }

    #[test]
    fn without_a_default_route_a_message_may_have_no_route() {
        let routes = Routes::default().with("$connect", "connect").with("join", "join");
        assert_eq!(routes.select(&Selection::default(), "hello"), None);
        assert_eq!(routes.select(&Selection::default(), r#"{"action":"$connect"}"#), None);
    }

    #[test]
    fn parses_and_evaluates_expressions() {
        let body = r#"{"service":"chat","action":"join","deep":{"er":7}}"#;
        let cases = [
            ("$request.body.action", "join"),
            ("$request.body.deep.er", "7"),
            ("${request.body.service}/${request.body.action}", "chat/join"),
            ("join-${request.body.missing}", "join-"),
            ("constant", "constant"),
            (r"\$request.body.action", "$request.body.action"),
        ];
        for (expression, expected) in cases {
            let selection = Selection::parse(expression).expect(expression);
            assert_eq!(selection.evaluate(body).as_deref(), Some(expected), "case: {expression}");
        }
        assert_eq!(Selection::parse("$request.body.action"), Ok(Selection::default()));
        for wrong in ["$context.routeKey", "${request.body.x", "$", "\\"] {
            assert!(Selection::parse(wrong).is_err(), "case: {wrong}");
        }
    }
}
