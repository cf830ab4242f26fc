//! Updates and their effects.

use serde_json::{Value, json};

use super::*;
use crate::source::mastodon::{fixtures, status::Envelope};

const DAY: Duration = Duration::from_hours(24);

fn now() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().expect("a time")
}

fn timeline() -> Timeline {
    // Starts long enough ago that no post needs a lookup.
    Timeline::new(now() - Duration::from_hours(1), DAY)
}

fn wanted(topics: &[&str]) -> Wanted {
    topics.iter().map(|topic| topic.parse().expect("a topic")).collect()
}

fn server(host: &str) -> Arc<ServerName> {
    Arc::new(ServerName { host: host.into(), domain: host.into() })
}

/// A post that was written at noon.
fn status(id: &str, changes: &Value) -> Status {
    let mut json = json!({
        "id": id,
        "uri": format!("https://origin.example/{id}"),
        "created_at": "2026-11-22T12:00:00.000Z",
        "visibility": "public",
        "language": "en",
        "content": "<p>Hello</p>",
        "account": {"acct": "ana"},
        "tags": [{"name": "rust"}],
    });
    for (key, value) in changes.as_object().expect("an object") {
        json[key] = value.clone();
    }
    Status::new(json).expect("a status")
}

/// Handles an update of a server, and returns the effects as short texts.
fn take(timeline: &mut Timeline, host: &str, update: Update, wanted: &Wanted) -> Vec<String> {
    let received = ServerUpdate { server: server(host), at: now(), update };
    match timeline.take(&received, wanted) {
        Outcome::Done(effects) => summary(&effects),
        Outcome::Ask(question) => vec![format!("ask {}", question.id)],
    }
}

fn summary(effects: &Effects) -> Vec<String> {
    let published = effects.publish.iter().map(|(topic, outgoing)| {
        let event: Value = serde_json::from_slice(&outgoing.json).expect("JSON");
        let (role, uri) = match &outgoing.role {
            Role::Posted(uri) => ("post", uri),
            Role::Edited(uri) => ("post.edited", uri),
            Role::Deleted(uri) => ("post.deleted", uri),
            role => panic!("unexpected {role:?}"),
        };
        assert_eq!(event["type"], role, "the role is that of the event");
        assert_eq!(event["id"], **uri);
        format!("{role} {topic}")
    });
    published.chain(effects.ignored.iter().map(|why| format!("{why:?}"))).collect()
}

/// The server, its update, and the effects.
type Step = (&'static str, Update, &'static [&'static str]);

#[test]
#[expect(clippy::too_many_lines, reason = "it is a table")]
fn each_update_has_its_effects() {
    use Update::{Delete, Edit, Post};
    let everything = ["mastodon/public", "mastodon/server/a.example", "mastodon/server/b.example"];
    let edit = |at: &str| json!({"content": "<p>Hullo</p>", "edited_at": at});
    let post = || Post(status("1", &json!({})));
    let delete = || Delete("1".into());
    let cases: Vec<(&str, Vec<Step>)> = vec![
        (
            "a post, sent twice, and by two servers",
            vec![
                ("a.example", post(), &["post mastodon/public", "post mastodon/server/a.example"]),
                ("a.example", post(), &["Known"]),
                ("b.example", post(), &["post mastodon/server/b.example"]),
                ("b.example", post(), &["Known"]),
            ],
        ),
        (
            "a delete is published once on each topic of the post",
            vec![
                ("a.example", post(), &["post mastodon/public", "post mastodon/server/a.example"]),
                ("b.example", post(), &["post mastodon/server/b.example"]),
                (
                    "b.example",
                    delete(),
                    &[
                        "post.deleted mastodon/public",
                        "post.deleted mastodon/server/a.example",
                        "post.deleted mastodon/server/b.example",
                    ],
                ),
                ("a.example", delete(), &["Deleted"]),
                ("a.example", post(), &["Deleted"]),
                ("c.example", post(), &["Deleted"]),
            ],
        ),
        (
            "a delete overtakes its post",
            vec![
                ("a.example", delete(), &["Unpublished"]),
                ("a.example", post(), &["Deleted"]),
                ("a.example", Edit(status("1", &edit("2026-11-22T12:01:00Z"))), &["Deleted"]),
                ("b.example", post(), &["Deleted"]),
            ],
        ),
        (
            "a delete arrives before the post, which is from another server",
            vec![
                ("b.example", post(), &["post mastodon/public", "post mastodon/server/b.example"]),
                ("a.example", delete(), &["Unpublished"]),
                (
                    "a.example",
                    post(),
                    &["post.deleted mastodon/public", "post.deleted mastodon/server/b.example"],
                ),
            ],
        ),
        (
            "two servers use the same id for different posts",
            vec![
                ("a.example", post(), &["post mastodon/public", "post mastodon/server/a.example"]),
                ("b.example", delete(), &["Unpublished"]),
                ("a.example", post(), &["Known"]),
            ],
        ),
        (
            "an edit of an unpublished post is ignored",
            vec![
                ("a.example", Edit(status("1", &edit("2026-11-22T12:01:00Z"))), &["Unpublished"]),
                ("a.example", post(), &["post mastodon/public", "post mastodon/server/a.example"]),
            ],
        ),
        (
            "an edit is published once, if it changes the content",
            vec![
                ("a.example", post(), &["post mastodon/public", "post mastodon/server/a.example"]),
                ("a.example", Edit(status("1", &json!({"poll": {"votes_count": 9}}))), &["Known"]),
                (
                    "a.example",
                    Edit(status("1", &edit("2026-11-22T12:02:00Z"))),
                    &["post.edited mastodon/public", "post.edited mastodon/server/a.example"],
                ),
                ("a.example", Edit(status("1", &edit("2026-11-22T12:02:00Z"))), &["Known"]),
                ("b.example", Edit(status("1", &edit("2026-11-22T12:02:00Z"))), &["Known"]),
                // Another server formats the same content differently.
                (
                    "b.example",
                    Edit(status(
                        "1",
                        &json!({"content": "<p>Hullo<br></p>", "edited_at": "2026-11-22T12:02:00Z"}),
                    )),
                    &["Known"],
                ),
                ("b.example", Edit(status("1", &edit("2026-11-22T12:01:00Z"))), &["Known"]),
                (
                    "b.example",
                    Edit(status("1", &edit("2026-11-22T12:03:00Z"))),
                    &["post.edited mastodon/public", "post.edited mastodon/server/a.example"],
                ),
            ],
        ),
        (
            "software that does not send the time of the edit",
            vec![
                ("a.example", post(), &["post mastodon/public", "post mastodon/server/a.example"]),
                (
                    "a.example",
                    Edit(status("1", &json!({"content": "<p>Hullo</p>"}))),
                    &["post.edited mastodon/public", "post.edited mastodon/server/a.example"],
                ),
            ],
        ),
        (
            "an edit that a check finds",
            vec![
                ("a.example", post(), &["post mastodon/public", "post mastodon/server/a.example"]),
                (
                    "a.example",
                    Post(status("1", &edit("2026-11-22T12:02:00Z"))),
                    &["post.edited mastodon/public", "post.edited mastodon/server/a.example"],
                ),
                ("a.example", Post(status("1", &edit("2026-11-22T12:02:00Z"))), &["Known"]),
            ],
        ),
        (
            "an edit by an author who has opted out deletes the post",
            vec![
                ("a.example", post(), &["post mastodon/public", "post mastodon/server/a.example"]),
                (
                    "a.example",
                    Edit(status("1", &json!({"account": {"acct": "ana", "noindex": true}}))),
                    &["post.deleted mastodon/public", "post.deleted mastodon/server/a.example"],
                ),
                ("a.example", post(), &["Deleted"]),
            ],
        ),
        (
            "posts that must not be forwarded",
            vec![
                (
                    "a.example",
                    Post(status("1", &json!({"visibility": "unlisted"}))),
                    &["Refused(NotPublic)"],
                ),
                (
                    "a.example",
                    Post(status("2", &json!({"visibility": null}))),
                    &["Refused(NotPublic)"],
                ),
                (
                    "a.example",
                    Post(status("3", &json!({"reblog": {"id": "9"}}))),
                    &["Refused(Boost)"],
                ),
                (
                    "a.example",
                    Post(status("4", &json!({"account": {"note": "#nobot"}}))),
                    &["Refused(OptedOut)"],
                ),
            ],
        ),
        (
            "a mass delete of posts that were not published",
            (100..400)
                .map(|id| ("a.example", Delete(id.to_string()), &["Unpublished"][..]))
                .collect(),
        ),
    ];
    let wanted = wanted(&everything);
    for (name, steps) in cases {
        // The ids contain no time, so unknown ones need a lookup. Here none was published before.
        let mut timeline = timeline();
        for (step, (host, update, expected)) in steps.into_iter().enumerate() {
            let received = ServerUpdate { server: server(host), at: now(), update };
            let effects = match timeline.take(&received, &wanted) {
                Outcome::Done(effects) => effects,
                Outcome::Ask(_) => timeline.recall(&received, Found::default(), &wanted),
            };
            assert_eq!(summary(&effects), expected, "case: {name}, step {step}");
        }
    }
}

#[test]
fn a_post_goes_to_each_of_its_topics_that_is_wanted() {
    let all = wanted(&[
        "mastodon/public",
        "mastodon/server/a.example",
        "mastodon/server/b.example",
        "mastodon/tag/rust",
        "mastodon/tag/%E6%97%A5%E6%9C%AC",
        "mastodon/tag/go",
        "mastodon/lang/pt",
        "mastodon/lang/pt-br",
        "mastodon/lang/en",
    ]);
    let post = status(
        "1",
        &json!({"language": "pt-BR", "tags": [{"name": "Rust"}, {"name": "日本"}, {"name": "rust"}]}),
    );
    assert_eq!(
        take(&mut timeline(), "a.example", Update::Post(post.clone()), &all),
        [
            "post mastodon/lang/pt",
            "post mastodon/lang/pt-br",
            "post mastodon/public",
            "post mastodon/server/a.example",
            "post mastodon/tag/%E6%97%A5%E6%9C%AC",
            "post mastodon/tag/rust",
        ]
    );
    let update = Update::Post(post.clone());
    let lang = wanted(&["mastodon/lang/pt"]);
    assert_eq!(take(&mut timeline(), "a.example", update, &lang), ["post mastodon/lang/pt"]);
    let update = Update::Post(post);
    assert_eq!(
        take(&mut timeline(), "a.example", update, &wanted(&["mastodon/tag/go"])),
        ["Unwanted"]
    );
}

#[test]
fn a_topic_that_becomes_wanted_later_gets_the_post_from_the_next_server() {
    let mut timeline = timeline();
    let update = || Update::Post(status("1", &json!({})));
    let before = wanted(&["mastodon/public"]);
    let after = wanted(&["mastodon/public", "mastodon/tag/rust"]);
    assert_eq!(take(&mut timeline, "a.example", update(), &before), ["post mastodon/public"]);
    assert_eq!(take(&mut timeline, "b.example", update(), &after), ["post mastodon/tag/rust"]);
    // The delete is published on both topics, although none is wanted.
    assert_eq!(
        take(&mut timeline, "a.example", Update::Delete("1".into()), &Wanted::new()),
        ["post.deleted mastodon/public", "post.deleted mastodon/tag/rust"],
        "a delete is published even if the topic is no longer wanted"
    );
}

#[test]
fn published_posts_are_stored_for_later_processes() {
    let mut timeline = timeline();
    let wanted = wanted(&["mastodon/public", "mastodon/server/b.example"]);
    let mut remember = |host: &str| {
        let update = Update::Post(status("1", &json!({})));
        let received = ServerUpdate { server: server(host), at: now(), update };
        let Outcome::Done(effects) = timeline.take(&received, &wanted) else { panic!("asks") };
        effects.remember.map(|r| (r.server.to_string(), r.topics.len()))
    };
    assert_eq!(remember("a.example"), Some(("a.example".into(), 1)));
    assert_eq!(remember("a.example"), None, "it is already stored");
    assert_eq!(remember("b.example"), Some(("b.example".into(), 2)));
    assert_eq!(
        remember("c.example"),
        Some(("c.example".into(), 2)),
        "a delete with this id can arrive"
    );
}

/// The timeline of a process that started at noon.
fn successor() -> Timeline {
    Timeline::new(now(), DAY)
}

fn ask(timeline: &mut Timeline, update: Update, wanted: &Wanted) -> (ServerUpdate, Lookup) {
    let received = ServerUpdate { server: server("a.example"), at: now(), update };
    match timeline.take(&received, wanted) {
        Outcome::Ask(question) => (received, question),
        Outcome::Done(effects) => panic!("does not ask: {effects:?}"),
    }
}

#[test]
fn posts_of_an_earlier_process_are_looked_up() {
    let wanted = wanted(&["mastodon/public", "mastodon/tag/rust", "mastodon/lang/en"]);
    let old = || json!({"created_at": "2026-11-22T11:59:00Z"});
    let answer = || Found {
        uri: Some("https://origin.example/1".into()),
        topics: ["mastodon/public", "mastodon/tag/old"].map(|t| t.parse().expect("a topic")).into(),
    };

    let mut timeline = successor();
    let (received, question) = ask(&mut timeline, Update::Post(status("1", &old())), &wanted);
    assert_eq!(question.uri.as_deref(), Some("https://origin.example/1"));
    assert_eq!(question.topics, wanted);
    let effects = timeline.recall(&received, answer(), &wanted);
    assert_eq!(summary(&effects), ["post mastodon/lang/en", "post mastodon/tag/rust"]);
    assert_eq!(
        take(&mut timeline, "a.example", Update::Delete("1".into()), &wanted),
        [
            "post.deleted mastodon/lang/en",
            "post.deleted mastodon/public",
            "post.deleted mastodon/tag/old",
            "post.deleted mastodon/tag/rust"
        ]
    );

    let mut timeline = successor();
    let (received, _) = ask(&mut timeline, Update::Post(status("1", &old())), &wanted);
    let effects = timeline.recall(&received, Found::default(), &wanted);
    assert_eq!(effects.publish.len(), 3, "it was not published before");

    let mut timeline = successor();
    let (received, question) = ask(&mut timeline, Update::Delete("1".into()), &wanted);
    assert_eq!((&*question.id, question.uri.as_deref()), ("1", None));
    let effects = timeline.recall(&received, answer(), &wanted);
    let expected = ["post.deleted mastodon/public", "post.deleted mastodon/tag/old"];
    assert_eq!(summary(&effects), expected);

    let mut timeline = successor();
    let mut edit = old();
    edit["edited_at"] = json!("2026-11-22T11:59:30Z");
    let (received, _) = ask(&mut timeline, Update::Edit(status("1", &edit)), &wanted);
    let effects = timeline.recall(&received, answer(), &wanted);
    let expected = ["post.edited mastodon/public", "post.edited mastodon/tag/old"];
    assert_eq!(summary(&effects), expected);

    let mut timeline = successor();
    let (received, _) = ask(&mut timeline, Update::Edit(status("1", &edit)), &wanted);
    let effects = timeline.recall(&received, Found::default(), &wanted);
    assert_eq!(summary(&effects), ["Unpublished"]);
}

#[test]
fn posts_of_an_earlier_term_are_published_again_unless_the_log_has_them() {
    let wanted = wanted(&["mastodon/public"]);
    let post = || Update::Post(status("1", &json!({})));
    let start = now() - Duration::from_hours(1);
    let in_log = Found { uri: Some("https://origin.example/1".into()), topics: wanted.clone() };
    for (found, expected) in [(Found::default(), "post mastodon/public"), (in_log, "Known")] {
        let mut timeline = timeline();
        timeline.begin(start, 1);
        assert_eq!(take(&mut timeline, "a.example", post(), &wanted), ["post mastodon/public"]);
        timeline.begin(start, 1);
        assert_eq!(take(&mut timeline, "a.example", post(), &wanted), ["Known"]);
        timeline.begin(start, 2);
        let (received, question) = ask(&mut timeline, post(), &wanted);
        assert_eq!(question.topics, wanted);
        let effects = timeline.recall(&received, found, &wanted);
        assert_eq!(summary(&effects), [expected]);
        assert_eq!(take(&mut timeline, "a.example", post(), &wanted), ["Known"]);
        let deleted = take(&mut timeline, "a.example", Update::Delete("1".into()), &wanted);
        assert_eq!(deleted, ["post.deleted mastodon/public"]);
        timeline.begin(start, 3);
        assert_eq!(take(&mut timeline, "a.example", post(), &wanted), ["Deleted"]);
    }
}

#[test]
fn only_posts_that_may_be_stored_are_looked_up() {
    let id = |at: &str| snowflake::id(at.parse().expect("a time"));
    let cases = [
        ("just before", id("2026-11-22T11:59:00Z"), true),
        ("clocks disagree", id("2026-11-22T12:05:00Z"), true),
        ("after", id("2026-11-22T12:30:00Z"), false),
        ("too long ago", id("2026-11-20T12:00:00Z"), false),
        ("forwarded late", id("2026-11-21T09:00:00Z"), true),
        ("no time in it", "AzK3q9TmR0cV1xYw2E".to_owned(), true),
    ];
    for (name, id, asks) in cases {
        let update = Update::Delete(id);
        let received = ServerUpdate { server: server("a.example"), at: now(), update };
        let outcome = successor().take(&received, &Wanted::new());
        assert_eq!(matches!(outcome, Outcome::Ask(_)), asks, "case: {name}");
    }
}

#[test]
fn a_synthetic_stream_has_the_expected_effects() {
    for capture in fixtures::captures("stream-events.jsonl", "ws-public-synthetic.jsonl") {
        let mut timeline = timeline();
        let wanted = wanted(&["mastodon/public"]);
        let mut counts = std::collections::BTreeMap::new();
        for line in fixtures::lines_of(&capture) {
            let Envelope::Update(update) = Envelope::parse(line["raw"].as_str().expect("a frame"))
            else {
                continue;
            };
            let received = ServerUpdate { server: server("social.example"), at: now(), update };
            let effects = match timeline.take(&received, &wanted) {
                Outcome::Done(effects) => effects,
                Outcome::Ask(_) => timeline.recall(&received, Found::default(), &wanted),
            };
            for (_, outgoing) in &effects.publish {
                assert!(outgoing.json.len() <= domain::frame::MAX_EVENT_BYTES);
            }
            let what = summary(&effects).join(", ");
            *counts.entry(what).or_insert(0) += 1;
            match line["note"].as_str().expect("a note") {
                "edit of a post seen earlier" => {
                    assert_eq!(summary(&effects), ["post.edited mastodon/public"]);
                }
                "quote policy changed" => assert_eq!(summary(&effects), ["Known"]),
                note if note.starts_with("edit of a 90-day-old") => {
                    assert_eq!(summary(&effects), ["Unpublished"]);
                }
                note if note.starts_with("… then the update") => {
                    assert_eq!(summary(&effects), ["Deleted"]);
                }
                _ => {}
            }
        }
        insta::assert_json_snapshot!(capture.name, counts);
    }
}
