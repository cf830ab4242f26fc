//! The web pages that can open a WebSocket. Browsers send the origin of a page in the `Origin` header.

use lambda_http::http::{
    HeaderMap,
    header::{HOST, ORIGIN},
};

/// The accepted origins. Programs other than browsers send no `Origin` header and are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Pages from anywhere.
    Any,
    /// Pages from the host of the WebSocket.
    Same,
    /// Pages from these origins, such as `https://example.org`, and from the host of the WebSocket.
    Listed(Vec<String>),
}

impl Origins {
    /// Parses `*`, `same`, or a comma-separated list of origins.
    ///
    /// # Errors
    ///
    /// A sentence that names the entry that is not an origin.
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
                            _ => Err(format!(
                                "{origin:?} is not an origin such as https://example.org"
                            )),
                        }
                    });
                Ok(Self::Listed(origins.collect::<Result<_, _>>()?))
            }
        }
    }

    /// Returns whether a handshake with these headers is accepted.
    pub fn admit(&self, headers: &HeaderMap) -> bool {
        let mut origins = headers.get_all(ORIGIN).iter();
        let Some(origin) = origins.next() else { return true };
        if let Self::Any = self {
            return true;
        }
        let (Ok(origin), None) = (origin.to_str(), origins.next()) else { return false };
        // Browsers send the origin as the standard writes it, so any other text is not one of theirs.
        let parsed = reqwest::Url::parse(origin).map(|url| url.origin().ascii_serialization());
        if parsed.ok().as_deref() != Some(origin) {
            return false;
        }
        let mut hosts = headers.get_all(HOST).iter();
        let is_same = match (hosts.next().map(|host| host.to_str()), hosts.next()) {
            (Some(Ok(host)), None) => {
                let of_page = origin.split_once("://").map(|(_, host)| host);
                of_page.is_some_and(|page| page.eq_ignore_ascii_case(host))
            }
            _ => false,
        };
        match self {
            Self::Any => true,
            Self::Same => is_same,
            Self::Listed(listed) => is_same || listed.iter().any(|it| it == origin),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_accepted_by_their_origin() {
        let listed = Origins::parse("https://a.example, https://b.example:8443").expect("origins");
        let cases = [
            (Origins::Same, None, true),
            (Origins::Same, Some("http://host:8080"), true),
            (Origins::Same, Some("http://HOST:8080"), false),
            (Origins::Same, Some("http://host:8080\t"), false),
            (Origins::Same, Some("http://host:8080/"), false),
            (Origins::Same, Some("http://host:8080 "), false),
            (Origins::Same, Some("http://a@host:8080"), false),
            (Origins::Same, Some("HTTP://host:8080"), false),
            (Origins::Same, Some("x://host:8080"), false),
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
        let mut two = HeaderMap::new();
        two.append(ORIGIN, "http://host".parse().expect("a value"));
        two.append(HOST, "evil".parse().expect("a value"));
        two.append(HOST, "host".parse().expect("a value"));
        assert!(!Origins::Same.admit(&two));
    }

    #[test]
    fn a_malformed_origin_is_rejected() {
        for text in ["", "example.org", "https://example.org/", "https://a.example,,"] {
            assert!(Origins::parse(text).is_err(), "case: {text}");
        }
    }
}
