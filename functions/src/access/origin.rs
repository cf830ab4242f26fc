//! Which web pages may open a WebSocket: browsers say where a page is from, in `Origin`.

use lambda_http::http::{
    HeaderMap,
    header::{HOST, ORIGIN},
};

/// The origins that are let in. Programs that are no browsers say none, and are let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Pages from anywhere.
    Any,
    /// Pages from the host that the WebSocket is at.
    Same,
    /// Pages from these, such as `https://example.org`, and from the host that the WebSocket is at.
    Listed(Vec<String>),
}

impl Origins {
    /// Reads `*`, `same`, or a comma list of origins.
    ///
    /// # Errors
    ///
    /// A sentence, when something in the list is no origin.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "*" => Ok(Self::Any),
            "same" => Ok(Self::Same),
            list => {
                let origins =
                    list.split(',').map(str::trim).map(|origin| {
                        match reqwest::Url::parse(origin) {
                            Ok(url) if url.origin().ascii_serialization() == origin => {
                                Ok(origin.to_owned())
                            }
                            _ => {
                                Err(format!("{origin:?} is no origin such as https://example.org"))
                            }
                        }
                    });
                Ok(Self::Listed(origins.collect::<Result<_, _>>()?))
            }
        }
    }

    /// Whether a handshake with these headers may go on.
    pub fn admit(&self, headers: &HeaderMap) -> bool {
        let mut origins = headers.get_all(ORIGIN).iter();
        let Some(origin) = origins.next() else { return true };
        let (Ok(origin), None) = (origin.to_str(), origins.next()) else { return false };
        let is_same = || {
            let host = headers.get(HOST).and_then(|host| host.to_str().ok());
            let of_page = origin.split_once("://").map(|(_, host)| host);
            host.is_some_and(|host| of_page.is_some_and(|page| page.eq_ignore_ascii_case(host)))
        };
        match self {
            Self::Any => true,
            Self::Same => is_same(),
            Self::Listed(listed) => is_same() || listed.iter().any(|it| it == origin),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_let_in_by_where_they_are_from() {
        let listed = Origins::parse("https://a.example, https://b.example:8443").expect("origins");
        let cases = [
            (Origins::Same, None, true),
            (Origins::Same, Some("http://host:8080"), true),
            (Origins::Same, Some("http://HOST:8080"), true),
            (Origins::Same, Some("http://host"), false),
            (Origins::Same, Some("http://host:8080.evil.example"), false),
            (Origins::Same, Some("null"), false),
            (Origins::Any, Some("null"), true),
            (listed.clone(), Some("https://a.example"), true),
            (listed.clone(), Some("https://b.example:8443"), true),
            (listed.clone(), Some("http://host:8080"), true),
            (listed.clone(), Some("http://a.example"), false),
            (listed, Some("https://a.example.evil"), false),
        ];
        for (origins, origin, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, "host:8080".parse().expect("a value"));
            if let Some(origin) = origin {
                headers.insert(ORIGIN, origin.parse().expect("a value"));
            }
            assert_eq!(origins.admit(&headers), expected, "case: {origins:?} {origin:?}");
        }
        let mut two = HeaderMap::new();
        two.append(ORIGIN, "http://host".parse().expect("a value"));
        two.append(ORIGIN, "http://evil".parse().expect("a value"));
        assert!(!Origins::Same.admit(&two));
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in ["", "example.org", "https://example.org/", "https://a.example,,"] {
            assert!(Origins::parse(text).is_err(), "case: {text}");
        }
    }
}
