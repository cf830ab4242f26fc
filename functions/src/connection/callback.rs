//! The base URL of `@connections`.

use std::{fmt, str::FromStr, sync::Arc};

/// The placeholders for values of an event.
const PLACEHOLDERS: [&str; 3] = ["{domain}", "{api}", "{stage}"];

/// The base URL of `@connections`, with placeholders for values of the events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callback(Arc<str>);

impl Default for Callback {
    /// Returns the URL that AWS documents: the address that clients connect to, over HTTPS.
    fn default() -> Self {
        Self("https://{domain}/{stage}".into())
    }
}

impl Callback {
    /// Returns the base URL for the events of one connection.
    pub fn fill(&self, domain: &str, api: &str, stage: &str) -> Arc<str> {
        if !self.0.contains('{') {
            return self.0.clone();
        }
        let filled = PLACEHOLDERS.iter().zip([domain, api, stage]);
        filled.fold(self.0.to_string(), |url, (name, value)| url.replace(name, value)).into()
    }
}

impl fmt::Display for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Callback {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = PLACEHOLDERS.iter().fold(text.to_owned(), |url, name| url.replace(name, "x"));
        if bare.contains(['{', '}']) {
            return Err(format!("the placeholders are {}", PLACEHOLDERS.join(", ")));
        }
        match reqwest::Url::parse(&bare) {
            Ok(url) if url.has_host() && matches!(url.scheme(), "http" | "https") => {
                Ok(Self(text.trim_end_matches('/').into()))
            }
            _ => Err("not an http or https URL".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_replaced_by_values_of_the_event() {
        let cases = [
            ("https://{domain}/{stage}", "https://d:1/live"),
            ("http://127.0.0.1:9/_aws/{api}/{stage}/", "http://127.0.0.1:9/_aws/a/live"),
            ("https://push.example.org", "https://push.example.org"),
        ];
        for (text, expected) in cases {
            let callback: Callback = text.parse().expect(text);
            assert_eq!(callback.fill("d:1", "a", "live").as_ref(), expected, "case: {text}");
        }
        assert_eq!(Callback::default().to_string().parse(), Ok(Callback::default()));
    }

    #[test]
    fn a_malformed_url_is_rejected() {
        for text in ["", "example.org", "ws://example.org", "https://{host}", "https://{domain"] {
            assert!(text.parse::<Callback>().is_err(), "case: {text}");
        }
    }
}
