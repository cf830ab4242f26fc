//! The routes of an HTTP API.

use std::collections::BTreeMap;

use http::Method;
use percent_encoding::percent_decode_str;

use crate::authorizer::Authorizer;

/// The routes of an HTTP API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpRoutes(Vec<HttpRoute>);

/// A route of an HTTP API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRoute {
    /// The requests that the route matches.
    pub key: RouteKey,
    /// The function that receives them.
    pub function: String,
    /// Their authorizer. `None` admits every client.
    pub authorizer: Option<Authorizer>,
}

/// A route key: `$default`, or a method (or `ANY`) and a path such as `GET /items/{id}` or
/// `ANY /files/{path+}` (API Gateway developer guide, "Create routes for HTTP APIs").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteKey {
    text: String,
    method: Option<Method>,
    /// `None` for `$default`.
    path: Option<Vec<Segment>>,
}

/// A part of a path between slashes, the most specific kind first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Literal(String),
    Variable(String),
    /// A variable that matches the rest of the path.
    Greedy(String),
}

/// Why a text is not a route key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a route key such as `GET /items/{{id}}`, `ANY /{{proxy+}}` or `$default`")]
pub struct RouteKeyError {
    text: String,
}

/// The route that a request matches.
pub(crate) struct RouteMatch<'a> {
    pub(crate) route: &'a HttpRoute,
    /// The values of the variables in the path, decoded.
    pub(crate) variables: BTreeMap<&'a str, String>,
}

impl HttpRoutes {
    /// Creates a table with one route, `$default`, to one function.
    pub fn to(function: impl Into<String>, authorizer: Option<Authorizer>) -> Self {
        let key = RouteKey::default_route();
        Self(vec![HttpRoute { key, function: function.into(), authorizer }])
    }

    /// Adds a route. Of several equally specific routes, the first applies.
    pub fn push(&mut self, route: HttpRoute) {
        self.0.push(route);
    }

    /// Whether there is no route.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the routes in the order in which they were added.
    pub fn as_slice(&self) -> &[HttpRoute] {
        &self.0
    }

    /// Returns the most specific route of a request. A literal segment is more specific than a
    /// variable, a variable more than a greedy one, and a method more than `ANY`. `$default` comes last.
    pub(crate) fn select(&self, method: &Method, path: &str) -> Option<RouteMatch<'_>> {
        let candidates = self.0.iter().filter_map(|route| {
            let variables = route.key.matches(method, path)?;
            Some(RouteMatch { route, variables })
        });
        candidates.min_by(|a, b| a.route.key.rank().cmp(&b.route.key.rank()))
    }
}

impl RouteKey {
    /// Returns the key that matches the requests that no other route matches.
    pub fn default_route() -> Self {
        Self { text: "$default".to_owned(), method: None, path: None }
    }

    /// Parses a key.
    ///
    /// # Errors
    ///
    /// [`RouteKeyError`] when the text is not a route key.
    pub fn parse(text: &str) -> Result<Self, RouteKeyError> {
        if text == "$default" {
            return Ok(Self::default_route());
        }
        let error = || RouteKeyError { text: text.to_owned() };
        let (method, path) = text.split_once(' ').ok_or_else(error)?;
        let method = match method {
            "ANY" => None,
            method => Some(method.parse().map_err(|_| error())?),
        };
        let path = path.trim().strip_prefix('/').ok_or_else(error)?;
        let segments: Vec<Segment> = path.split('/').map(Segment::parse).collect();
        let is_greedy = |segment: &Segment| matches!(segment, Segment::Greedy(_));
        if segments.iter().rev().skip(1).any(is_greedy) {
            return Err(error());
        }
        Ok(Self { text: text.to_owned(), method, path: Some(segments) })
    }

    /// Returns the text of the key.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn matches(&self, method: &Method, path: &str) -> Option<BTreeMap<&str, String>> {
        if self.method.as_ref().is_some_and(|wanted| wanted != method) {
            return None;
        }
        let Some(segments) = &self.path else { return Some(BTreeMap::new()) };
        let mut variables = BTreeMap::new();
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let mut rest = Some(path.strip_prefix('/').unwrap_or(path));
        for segment in segments {
            let left = rest?;
            let (part, after) = match left.split_once('/') {
                Some((part, after)) => (part, Some(after)),
                None => (left, None),
            };
            match segment {
                Segment::Literal(literal) if literal == part => {}
                Segment::Literal(_) => return None,
                Segment::Variable(_) | Segment::Greedy(_) if part.is_empty() => return None,
                Segment::Variable(name) => {
                    variables.insert(name.as_str(), decode(part));
                }
                Segment::Greedy(name) => {
                    variables.insert(name.as_str(), decode(left));
                    return Some(variables);
                }
            }
            rest = after;
        }
        rest.is_none().then_some(variables)
    }

    /// Returns the rank of the key. A lower rank is preferred.
    fn rank(&self) -> (bool, Vec<u8>, bool) {
        let kinds = self.path.iter().flatten().map(|segment| match segment {
            Segment::Literal(_) => 0,
            Segment::Variable(_) => 1,
            Segment::Greedy(_) => 2,
        });
        (self.path.is_none(), kinds.collect(), self.method.is_none())
    }
}

impl Segment {
    fn parse(text: &str) -> Self {
        match text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
            None => Self::Literal(text.to_owned()),
            Some(name) => match name.strip_suffix('+') {
                Some(name) => Self::Greedy(name.to_owned()),
                None => Self::Variable(name.to_owned()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_most_specific_route_gets_a_request() {
        let mut routes = HttpRoutes::default();
        let keys = [
            "$default",
            "ANY /{proxy+}",
            "GET /items/{id}",
            "ANY /items/{id}",
            "GET /items/new",
            "POST /items/{id}/tags/{tag}",
            "GET /files/{path+}",
            "GET /",
        ];
        for key in keys {
            let key = RouteKey::parse(key).expect(key);
            routes.push(HttpRoute { key, function: "f".to_owned(), authorizer: None });
        }
        let cases = [
            ("GET", "/items/new", "GET /items/new", ""),
            ("GET", "/items/7", "GET /items/{id}", "id=7"),
            ("GET", "/items/a%2Fb", "GET /items/{id}", "id=a/b"),
            ("PUT", "/items/7", "ANY /items/{id}", "id=7"),
            ("POST", "/items/7/tags/x", "POST /items/{id}/tags/{tag}", "id=7 tag=x"),
            ("GET", "/files/a/b/c", "GET /files/{path+}", "path=a/b/c"),
            ("POST", "/files/a", "ANY /{proxy+}", "proxy=files/a"),
            ("GET", "/items/7/", "ANY /{proxy+}", "proxy=items/7/"),
            ("GET", "/", "GET /", ""),
            ("POST", "/", "$default", ""),
        ];
        for (method, path, key, variables) in cases {
            let method = method.parse().expect("a method");
            let found = routes.select(&method, path).expect("a route");
            let variables_found: Vec<_> =
                found.variables.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let matched = (found.route.key.as_str(), variables_found.join(" "));
            assert_eq!(matched, (key, variables.to_owned()), "case: {method} {path}");
        }
    }

    #[test]
    fn invalid_keys_are_rejected() {
        for key in ["", "GET", "GET items", "/items", "G@T /", "GET /{a+}/b"] {
            assert!(RouteKey::parse(key).is_err(), "case: {key}");
        }
    }

    proptest! {
        #[test]
        fn every_path_has_a_route_if_there_is_a_default(path in "[/%a-f0-9{}+.]{0,30}|\\PC{0,20}") {
            let mut routes = HttpRoutes::default();
            for key in ["$default", "GET /items/{id}", "GET /files/{path+}"] {
                let key = RouteKey::parse(key).expect(key);
                routes.push(HttpRoute { key, function: "f".to_owned(), authorizer: None });
            }
            for path in [path.clone(), format!("/items/{path}"), format!("/files/{path}")] {
                prop_assert!(routes.select(&Method::GET, &path).is_some(), "{}", path);
            }
        }

        #[test]
        fn no_key_panics(key in "(GET|ANY|\\PC{0,3}) ?[/{}+a-z]{0,20}|\\PC{0,20}") {
            let _ = RouteKey::parse(&key);
        }
    }
}
