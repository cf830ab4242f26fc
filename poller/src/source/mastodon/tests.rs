//! Which servers there are, and what concerns them.

use domain::topic::Topic;

use super::*;
use crate::config::Servers;

fn options(servers: &[&str]) -> Options {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }
    let mut options = <Cli as clap::Parser>::parse_from(["poller"]).options;
    let url = |server: &&str| server.parse().expect("a URL");
    options.mastodon_servers = Servers(servers.iter().map(url).collect());
    options.mastodon_tokens = vec![("A.example".into(), SecretString::from("secret"))];
    options
}

#[test]
fn each_server_is_a_source_named_by_its_host() {
    let servers =
        ["https://a.example/", "http://127.0.0.1:4802", "https://xn--bcher-kva.example:443"];
    let sources = sources(&options(&servers)).expect("sources");
    let names: Vec<&str> = sources.iter().map(|source| source.name()).collect();
    assert_eq!(names, ["a.example", "127.0.0.1:4802", "xn--bcher-kva.example"]);
    assert!(super::sources(&options(&["mailto:a@b.example"])).is_err());
}

#[test]
fn a_server_is_read_only_for_topics_that_can_have_its_posts() {
    let timeline = Arc::default();
    let base = "https://a.example".parse().expect("a URL");
    let server = Mastodon::new(base, None, "Headwater/test", timeline).expect("a source");
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
