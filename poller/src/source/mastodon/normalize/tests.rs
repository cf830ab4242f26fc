//! Conversions of valid and invalid statuses.

use domain::post::PostEvent;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::source::mastodon::{fixtures, size};

fn origin() -> ServerName {
    ServerName { host: "social.example".into(), domain: "example.org".into() }
}

fn now() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().expect("a time")
}

fn normalize(json: Value) -> Post {
    post(&Status::new(json).expect("a status"), &origin(), now())
}

/// A status with the given members besides an id.
fn with(members: &Value) -> Post {
    let mut json = json!({"id": "1", "uri": "https://social.example/1"});
    for (key, value) in members.as_object().expect("an object") {
        json[key] = value.clone();
    }
    normalize(json)
}

#[test]
fn a_plain_status_becomes_a_post() {
    insta::assert_json_snapshot!(normalize(json!({
        "id": "117659978849024469",
        "uri": "https://social.example/users/ana/statuses/117659978849024469",
        "url": "https://social.example/@ana/117659978849024469",
        "created_at": "2026-11-22T11:59:58.355Z",
        "edited_at": null,
        "in_reply_to_id": null,
        "sensitive": false,
        "spoiler_text": "",
        "visibility": "public",
        "language": "en",
        "content": "<p>Shipping it :blobcat: <a href=\"https://social.example/tags/RustLang\" class=\"mention hashtag\" rel=\"tag\">#<span>RustLang</span></a></p>",
        "account": {
            "acct": "ana", "username": "ana", "display_name": "Ana \u{202e}:blobcat:\n", "bot": false,
            "url": "https://social.example/@ana",
            "avatar": "https://files.example/ana.gif", "avatar_static": "https://files.example/ana.png",
        },
        "media_attachments": [], "mentions": [], "poll": null, "card": null,
        "tags": [{"name": "RustLang"}, {"name": "rustlang"}, {"name": "ＲＵＳＴ"}],
        "emojis": [{"shortcode": "blobcat", "url": "https://files.example/blobcat.png"}],
        "reblogs_count": 1, "favourites_count": "2", "replies_count": 3,
    })));
}

#[test]
fn a_full_status_becomes_a_post() {
    insta::assert_json_snapshot!(normalize(json!({
        "id": 117_659_978_849_024_469_u64,
        "uri": "https://remote.example/notes/9",
        "url": "https://remote.example/notes/9",
        "created_at": "2026-11-22T11:59:58Z",
        "edited_at": "2026-11-22T12:00:01.000Z",
        "in_reply_to_id": "117659978849024468",
        "sensitive": false,
        "spoiler_text": "Dinner <b>&</b> more",
        "visibility": "public",
        "language": "pt-BR",
        "content": "<p>hi<script>alert(1)</script><img src=x onerror=alert(2)></p>",
        "account": {"acct": "bo@remote.example", "display_name": "", "bot": true, "url": "javascript:alert(1)"},
        "mentions": [{"acct": "ana"}, {"acct": "chie@ja.example"}, {"username": "dalia"}, {}],
        "media_attachments": [
            {
                "type": "image", "url": "https://files.example/1.png", "preview_url": "https://files.example/1s.png",
                "description": "A crab", "blurhash": "UBL_:rOpGG-oBUNG",
                "meta": {"original": {"width": 640, "height": "480"}},
            },
            {"type": "unknown", "url": null, "preview_url": null, "remote_url": "https://remote.example/f.bin", "meta": null},
            {"type": "hologram", "url": "data:image/png;base64,AAAA"},
        ],
        "poll": {
            "options": [{"title": "Tabs", "votes_count": 3}, {"title": "Spaces", "votes_count": null}],
            "multiple": true, "votes_count": 3, "voters_count": null, "expired": false,
            "expires_at": "2026-11-23T12:00:00.000Z",
        },
        "card": {
            "url": "https://news.example/story", "title": "A story", "description": "", "type": "video",
            "html": "<iframe src=\"https://news.example\"></iframe>", "image": "https://news.example/s.png",
            "provider_name": "News", "width": "400",
        },
    })));
}

#[test]
fn invalid_values_are_omitted() {
    let post = with(&json!({
        "url": "javascript:alert(1)", "created_at": "yesterday", "language": "<script>", "content": 3,
        "account": null, "tags": {}, "mentions": "x", "media_attachments": [null, 1], "poll": {"options": []},
        "card": {"title": "no URL"}, "reblogs_count": -1, "sensitive": "true",
    }));
    assert_eq!(post.at, now());
    assert_eq!((post.url, post.language, &*post.html, &*post.text), (None, None, "", ""));
    assert_eq!((&*post.author.handle, &*post.author.name), ("unknown@example.org", "unknown"));
    assert_eq!((post.tags.len(), post.mentions.len(), post.media.len()), (0, 0, 2));
    assert_eq!((post.poll, post.card, post.boosts, post.sensitive), (None, None, 0, true));
}

#[test]
fn texts_and_lists_are_bounded() {
    let long = "日".repeat(100_000);
    let post = with(&json!({
        "url": format!("https://a.example/{long}"), "spoiler_text": long,
        "account": {"acct": long, "display_name": long},
        "tags": vec![json!({"name": long}); 500], "mentions": vec![json!({"acct": "a"}); 500],
        "media_attachments": vec![json!({"description": long, "blurhash": long}); 500],
    }));
    assert_eq!(post.url, None);
    assert_eq!(post.content_warning.map(|text| text.len()), Some(MAX_PARAGRAPH_BYTES));
    assert!(post.author.name.len() <= MAX_LINE_BYTES && post.author.handle.len() < 600);
    assert_eq!((post.tags.len(), post.mentions.len(), post.media.len()), (1, MAX_ITEMS, MAX_ITEMS));
    assert!(post.tags[0].len() <= MAX_LINE_BYTES);
}

#[test]
fn only_public_posts_of_authors_who_did_not_opt_out_are_admitted() {
    let cases = [
        ("public", json!({"visibility": "public"}), Ok(())),
        ("unlisted", json!({"visibility": "unlisted"}), Err(Exclusion::NotPublic)),
        ("private", json!({"visibility": "private"}), Err(Exclusion::NotPublic)),
        ("direct", json!({"visibility": "direct"}), Err(Exclusion::NotPublic)),
        ("unknown", json!({"visibility": "followers_and_friends"}), Err(Exclusion::NotPublic)),
        ("absent", json!({}), Err(Exclusion::NotPublic)),
        (
            "local only",
            json!({"visibility": "public", "local_only": true}),
            Err(Exclusion::NotPublic),
        ),
        ("boost", json!({"visibility": "public", "reblog": {"id": "2"}}), Err(Exclusion::Boost)),
        (
            "opted out",
            json!({"visibility": "public", "account": {"noindex": true}}),
            Err(Exclusion::OptedOut),
        ),
    ];
    for (name, mut json, expected) in cases {
        json["id"] = json!("1");
        json["uri"] = json!("https://social.example/1");
        let status = Status::new(json).expect("a status");
        assert_eq!(admit(&status), expected, "case: {name}");
    }
}

#[test]
fn recorded_statuses_become_posts_that_fit() {
    for line in fixtures::lines("statuses.jsonl", "statuses-real.jsonl") {
        let Some(status) = Status::new(line["status"].clone()) else {
            panic!("not read: {line:.300}");
        };
        let post = post(&status, &origin(), now());
        assert_eq!(post.author.handle.matches('@').count(), 1, "{}", post.author.handle);
        assert_eq!(post.at != now(), line["status"]["created_at"].is_string());
        let written = line["status"]["content"].as_str().unwrap_or_default();
        assert_eq!(post.text.is_empty(), html::text(&html::sanitize(written)).is_empty());
        let media = line["status"]["media_attachments"].as_array().map_or(0, Vec::len);
        assert_eq!(post.media.len(), media);
        let json = size::fit(PostEvent::Post(Box::new(post.clone())));
        assert!(json.len() <= domain::frame::MAX_EVENT_BYTES);
        let read: PostEvent = serde_json::from_slice(&json).expect("an event");
        assert_eq!(read, PostEvent::Post(Box::new(post)));
    }
}

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,40}".prop_map(Value::from),
        "<(p|script|a href=\"javascript:x\"|b)>[a-z]{0,9}".prop_map(Value::from),
        Just(json!("https://a.example/?\"<>\\")),
        Just(json!("2026-11-22T12:00:00Z")),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "id",
        "uri",
        "url",
        "content",
        "account",
        "acct",
        "display_name",
        "note",
        "fields",
        "name",
        "tags",
        "mentions",
        "media_attachments",
        "meta",
        "original",
        "width",
        "poll",
        "options",
        "title",
        "card",
        "spoiler_text",
        "language",
        "created_at",
        "edited_at",
        "visibility",
        "description",
        "blurhash",
        "type",
        "sensitive",
        "replies_count",
        "in_reply_to_id",
    ])
    .prop_map(str::to_owned)
}

proptest! {
    #[test]
    fn every_status_becomes_a_post_that_can_be_parsed(
        members in prop::collection::vec((key(), anything()), 0..20), text in "\\PC{0,20}",
    ) {
        let mut json = Value::Object(members.into_iter().collect());
        json["id"] = json!("1");
        json["uri"] = json!(format!("https://a.example/{text}"));
        let status = Status::new(json).expect("a status");
        let _ = admit(&status);
        let post = post(&status, &origin(), now());
        prop_assert_eq!(html::sanitize(&post.html), post.html.clone());
        for url in [&post.url, &post.author.url, &post.author.avatar].into_iter().flatten() {
            prop_assert!(url.starts_with("http"), "{}", url);
        }
        let bytes = size::fit(PostEvent::Post(Box::new(post.clone())));
        prop_assert_eq!(bytes.clone(), size::fit(PostEvent::Post(Box::new(post.clone()))));
        let read: PostEvent = serde_json::from_slice(&bytes).expect("an event");
        prop_assert_eq!(read, PostEvent::Post(Box::new(post)));
    }
}
