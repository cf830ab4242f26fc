//! Which servers can be sources, and which topics concern them.

use domain::topic::Topic;

use super::*;

fn server(base: &str) -> Result<Mastodon, MastodonError> {
    let now = Timestamp::UNIX_EPOCH;
    let timeline = Arc::new(Mutex::new(Timeline::new(now, Duration::from_hours(24))));
    Mastodon::new(base.parse().expect("a URL"), None, "Headwater/test", timeline)
}

#[test]
fn a_server_is_a_source_named_by_its_host() {
    let cases = [
        ("https://a.example/", Some("a.example")),
        ("http://127.0.0.1:4802", Some("127.0.0.1:4802")),
        ("https://b\u{fc}cher.example:443", Some("xn--bcher-kva.example")),
        ("mailto:a@b.example", None),
        ("ftp://a.example", None),
    ];
    for (base, expected) in cases {
        let server = server(base).ok();
        assert_eq!(server.as_ref().map(Source::name), expected, "case: {base}");
    }
}

#[test]
fn a_server_is_read_only_for_topics_that_can_have_its_posts() {
    let server = server("https://a.example").expect("a source");
    let cases = [
        ("", false),
        ("mastodon/public", true),
        ("mastodon/server/a.example", true),
        ("mastodon/server/b.example", false),
        ("mastodon/tag/rust", true),
        ("mastodon/lang/en", true),
        ("coinbase/ticker/BTC-USD", false),
        ("system/sources", false),
    ];
    for (topic, expected) in cases {
        let wanted: Wanted = Topic::parse(topic).into_iter().collect();
        assert_eq!(server.concerns(&wanted), expected, "case: {topic}");
    }
}
