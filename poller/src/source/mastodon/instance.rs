//! The description of a server, and how the server can be read.

use serde_json::Value;
use url::Url;

use super::status::Loose;

/// Who can read a feed of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Everyone.
    Public,
    /// Its users.
    Authenticated,
    /// Users with a permission from an administrator.
    Disabled,
}

/// The description of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Instance {
    /// The domain in its users' handles.
    pub(super) domain: String,
    /// The URL of its streaming interface, if it has one.
    pub(super) streaming: Option<Url>,
    /// Who can read the posts of its own users.
    pub(super) local: Access,
    /// Who can read the posts from other servers.
    pub(super) remote: Access,
}

/// Which part of the public timeline to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// The posts of its own users.
    Local,
    /// The posts from other servers.
    Remote,
}

/// How to read a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By its stream.
    Stream {
        /// Base URL of the streaming interface.
        url: Url,
        /// Whether the account is known to be allowed to read it.
        checked: bool,
    },
    /// By polling its public timeline.
    Poll(Part),
    /// It cannot be read, for this reason.
    None(&'static str),
}

impl Instance {
    /// Parses `/api/v2/instance`, or `/api/v1/instance` of older servers, of the server at `base`. Its streaming
    /// interface may be at one of these other hosts.
    pub(super) fn read(json: &Value, base: &Url, streaming_hosts: &[String]) -> Self {
        let instance = Loose::new(json);
        let configuration = instance.get("configuration");
        let feeds = configuration.get("timelines_access").get("live_feeds");
        let access = |key| match feeds.text(key) {
            Some("authenticated") => Access::Authenticated,
            Some("disabled") => Access::Disabled,
            _ => Access::Public,
        };
        // Version 1 calls the domain `uri`. Some software returns a whole URL.
        let domain = instance.text("domain").or_else(|| instance.text("uri")).map(|domain| {
            domain.split_once("//").map_or(domain, |(_, rest)| rest).trim_end_matches('/')
        });
        Self {
            domain: domain.or(base.host_str()).unwrap_or_default().to_owned(),
            streaming: configuration
                .get("urls")
                .text("streaming")
                .or_else(|| instance.get("urls").text("streaming_api"))
                .and_then(|url| streaming(url, base))
                .filter(|url| is_trusted(url, base, streaming_hosts)),
            local: access("local"),
            remote: access("remote"),
        }
    }

    /// Returns how it can be read, with or without a user's token.
    pub(super) fn way(&self, has_token: bool) -> Way {
        use Access::{Authenticated, Disabled, Public};
        match (has_token, self.local, self.remote) {
            (true, local, remote) => {
                let part = Part::Whole;
                let checked = local != Disabled || remote != Disabled;
                self.streaming.clone().map_or(Way::Poll(part), |url| Way::Stream { url, checked })
            }
            (false, Public, Public) => Way::Poll(Part::Whole),
            (false, Public, _) => Way::Poll(Part::Local),
            (false, _, Public) => Way::Poll(Part::Remote),
            (false, Authenticated, _) | (false, _, Authenticated) => Way::None(
                "the server shows its public timeline only to its users, and no token is set",
            ),
            (false, Disabled, Disabled) => Way::None(DISABLED),
        }
    }
}

/// The reason for not reading a server with disabled live feeds.
pub(super) const DISABLED: &str =
    "the server's live feeds are disabled (timelines_access.live_feeds: disabled)";

/// Returns the URL to stream from. A token is never sent unencrypted to a server with an https URL.
fn streaming(url: &str, base: &Url) -> Option<Url> {
    let mut url = Url::parse(url).ok()?;
    // Some software returns https.
    let scheme = match url.scheme() {
        "wss" | "https" => "wss",
        "ws" | "http" if base.scheme() == "http" => "ws",
        _ => return None,
    };
    url.set_scheme(scheme).ok()?;
    url.path_segments_mut().ok()?.pop_if_empty().extend(["api", "v1", "streaming"]);
    Some(url)
}

/// Returns whether a server may name this address: at its own host, at a host of the same registrable domain, or
/// at one that the operator allows. Otherwise a server could have us connect to any host, and get the token there.
fn is_trusted(url: &Url, base: &Url, streaming_hosts: &[String]) -> bool {
    let (Some(host), Some(ours)) = (url.host_str(), base.host_str()) else { return false };
    let registrable = |url: &Url| match url.domain() {
        Some(domain) => psl::domain_str(domain).map(str::to_owned),
        None => None,
    };
    let is_same_domain = || registrable(url).is_some_and(|it| Some(it) == registrable(base));
    host == ours || is_same_domain() || streaming_hosts.iter().any(|it| it == host)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::source::mastodon::fixtures;

    fn base() -> Url {
        Url::parse("https://social.example").expect("a URL")
    }

    #[test]
    fn older_and_odd_servers_are_understood() {
        let cases = [
            ("nothing", json!({}), ("social.example", None)),
            (
                "version 1",
                json!({"uri": "example.org", "urls": {"streaming_api": "wss://s.social.example"}}),
                ("example.org", Some("wss://s.social.example/api/v1/streaming")),
            ),
            (
                "version 1 of Pleroma",
                json!({"uri": "https://example.org/", "urls": {"streaming_api": "wss://social.example"}}),
                ("example.org", Some("wss://social.example/api/v1/streaming")),
            ),
            (
                "https",
                json!({"configuration": {"urls": {"streaming": "https://social.example/"}}}),
                ("social.example", Some("wss://social.example/api/v1/streaming")),
            ),
            (
                "unencrypted",
                json!({"configuration": {"urls": {"streaming": "ws://example.org/"}}}),
                ("social.example", None),
            ),
            (
                "no URL",
                json!({"configuration": {"urls": {"streaming": "example.org"}}}),
                ("social.example", None),
            ),
        ];
        for (name, json, expected) in cases {
            let instance = Instance::read(&json, &base(), &[]);
            let streaming = instance.streaming.as_ref().map(Url::as_str);
            assert_eq!((&*instance.domain, streaming), expected, "case: {name}");
        }
    }

    #[test]
    fn a_stream_at_a_host_of_somebody_else_is_not_used() {
        let cases = [
            ("https://social.example", "wss://social.example", true),
            ("https://social.example", "wss://streaming.social.example", true),
            ("https://social.example", "wss://social.example:8443", true),
            ("https://social.community.example", "wss://streaming.community.example", true),
            ("https://social.example", "wss://evil.example", false),
            ("https://social.example", "wss://social.example.evil.example", false),
            ("https://one.github.io", "wss://two.github.io", false),
            ("https://one.co.uk", "wss://two.co.uk", false),
            ("https://social.example", "wss://allowed.example", true),
            ("https://social.example", "wss://169.254.169.254", false),
            ("https://social.example", "wss://[::1]", false),
            ("https://social.example", "wss://localhost", false),
            ("http://127.0.0.1:4800", "ws://127.0.0.1:4801", true),
            ("http://127.0.0.1:4800", "ws://10.0.0.1", false),
            ("http://localhost:4800", "ws://localhost:4801", true),
        ];
        for (base, streaming, expected) in cases {
            let json = json!({"configuration": {"urls": {"streaming": streaming}}});
            let base = Url::parse(base).expect("a URL");
            let instance = Instance::read(&json, &base, &["allowed.example".to_owned()]);
            assert_eq!(instance.streaming.is_some(), expected, "case: {streaming} of {base}");
        }
    }

    #[test]
    fn the_way_follows_from_what_the_server_allows() {
        use Access::{Authenticated, Disabled, Public};
        let url = Url::parse("wss://social.example/api/v1/streaming").expect("a URL");
        let stream = |checked| Way::Stream { url: url.clone(), checked };
        let cases = [
            (true, Public, Public, stream(true)),
            (true, Authenticated, Authenticated, stream(true)),
            (true, Disabled, Authenticated, stream(true)),
            (true, Disabled, Disabled, stream(false)),
            (false, Public, Public, Way::Poll(Part::Whole)),
            (false, Public, Disabled, Way::Poll(Part::Local)),
            (false, Authenticated, Public, Way::Poll(Part::Remote)),
            (false, Disabled, Disabled, Way::None(DISABLED)),
        ];
        for (has_token, local, remote, expected) in cases {
            let instance =
                Instance { domain: String::new(), streaming: Some(url.clone()), local, remote };
            assert_eq!(instance.way(has_token), expected, "case: {instance:?} {has_token}");
        }
        let instance = Instance {
            domain: String::new(),
            streaming: None,
            local: Authenticated,
            remote: Disabled,
        };
        assert_eq!(instance.way(true), Way::Poll(Part::Whole));
        assert!(matches!(instance.way(false), Way::None(why) if why.contains("token")));
    }

    #[test]
    fn servers_of_many_kinds_are_understood() {
        let cases = [
            ("open", false, Some("wss://streaming.kite.example/api/v1/streaming")),
            ("closed", true, Some("wss://quiet.example/api/v1/streaming")),
            ("older", false, Some("wss://old.example/api/v1/streaming")),
            ("unencrypted", false, None),
        ];
        for (name, disabled, streaming) in cases {
            let json = fixtures::own_json(&format!("instance-{name}.json"));
            assert_instance(name, &json, disabled, streaming);
        }
        let recorded = [
            (
                "mastodon.social-2026-08-02",
                true,
                Some("wss://streaming.mastodon.social/api/v1/streaming"),
            ),
            ("localhost-4.6.4", false, None),
            ("mastodon_4.5", false, Some("wss://streaming.mastodon.social/api/v1/streaming")),
            ("gotosocial", false, Some("wss://social.browser.org/api/v1/streaming")),
            ("pleroma", false, Some("wss://fgc.network/api/v1/streaming")),
            ("pixelfed", false, None),
            ("firefish", false, Some("wss://firefish.ranranhome.info/api/v1/streaming")),
        ];
        for (name, disabled, streaming) in recorded {
            if let Some(json) = fixtures::recorded_json(&format!("instance-v2-{name}.json")) {
                assert_instance(name, &json, disabled, streaming);
            }
        }
    }

    fn assert_instance(name: &str, json: &Value, disabled: bool, streaming: Option<&str>) {
        // The answers are those of many servers.
        let url = streaming.map(|url| Url::parse(url).expect("a URL"));
        let hosts: Vec<String> =
            url.iter().filter_map(|url| url.host_str()).map(str::to_owned).collect();
        let instance = Instance::read(json, &base(), &hosts);
        assert_eq!(instance.streaming.as_ref().map(Url::as_str), streaming, "case: {name}");
        assert_eq!(instance.way(false) == Way::None(DISABLED), disabled, "case: {name}");
        assert_ne!(instance.domain, "social.example", "case: {name}");
    }
}
