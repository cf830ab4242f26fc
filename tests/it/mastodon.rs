//! Posts, from the servers to the clients.

use harness::{Event, Headwater, MastodonServer, until};
use serde_json::{Value, json};

const PUBLIC: &str = "mastodon/public";

#[tokio::test]
async fn a_post_is_published_on_all_of_its_topics() {
    let server = MastodonServer::start().await.unwrap();
    let headwater = Headwater::setup().servers(&[&server]).start().await;
    let mut client = headwater.client().await;
    let of_server = format!("mastodon/server/{}", server.host());
    let topics = [PUBLIC, &of_server, "mastodon/tag/caf%C3%A9", "mastodon/lang/pt"];
    client.subscribe(&topics).await;
    client.subscribe(&["mastodon/lang/de", "mastodon/tag/tea"]).await;
    server.streamed().await;
    let status = server.status(&json!({
        "content": "<p>Um <b>café</b>?</p>", "language": "pt",
        "tags": [{"name": "Café"}, {"name": "manhã"}],
    }));
    server.post(&status);
    let mut texts = Vec::new();
    for topic in topics {
        let event = client.event(topic).await;
        assert_eq!(event.seq, 1, "{topic}");
        texts.push(event.text);
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "all topics have the same bytes");
    let post: Value = serde_json::from_str(&texts[0]).unwrap();
    assert_eq!(post["type"], "post");
    assert_eq!(post["id"], status["uri"]);
    assert_eq!(post["url"], status["url"]);
    assert_eq!(post["server"], *server.host());
    assert_eq!(post["author"]["handle"], format!("ana@{}", server.host()));
    assert_eq!(post["author"]["name"], "Ana");
    assert_eq!(
        (&post["html"], &post["text"]),
        (&json!("<p>Um <b>café</b>?</p>"), &json!("Um café?"))
    );
    assert_eq!((&post["language"], &post["tags"]), (&json!("pt"), &json!(["café", "manhã"])));
    server.post(&server.status(&json!({"language": "de", "content": "Tee"})));
    assert_eq!(client.event("mastodon/lang/de").await.json()["text"], "Tee");
    for topic in ["mastodon/tag/tea", "mastodon/lang/pt"] {
        assert_eq!(client.drain(topic), [], "{topic}");
    }
}

#[tokio::test]
async fn hostile_markup_is_sanitized() {
    let server = MastodonServer::start().await.unwrap();
    let headwater = Headwater::setup().servers(&[&server]).start().await;
    let mut client = headwater.client().await;
    client.subscribe(&[PUBLIC]).await;
    server.streamed().await;
    let hostile = [
        "<p>one<script>alert(1)</script></p>",
        r#"<img src=x onerror="alert(1)">two"#,
        r#"<a href="javascript:alert(1)">three</a>"#,
        r#"<a href="https://a.example/" onclick="alert(1)" target="_self">four</a>"#,
        r#"<p style="position:fixed" onmouseover=alert(1)>five</p>"#,
        "<svg><style><a title=\"</style><img src onerror=alert(1)>\">six</svg>",
        r#"<iframe srcdoc="<script>alert(1)</script>"></iframe>seven"#,
        "<math><mtext><table><mglyph><style><!--</style><img title=\"--&gt;&lt;img src onerror=alert(1)&gt;\">eight",
        "<form action=https://evil.example><input name=password>nine</form>",
        "<scr<script>ipt>alert(1)</scr</script>ipt>ten",
        "<p>eleven<!-- <script>alert(1)</script> --></p><base href=//evil.example>",
        "<a href=\" &#14; java\nscript:alert(1)\">twelve</a>",
        "<<<p>>thirteen</</p",
    ];
    for content in hostile {
        server.post(&server.status(&json!({
            "content": content,
            "spoiler_text": "<script>alert(2)</script>",
            "account": {
                "acct": "mallory", "display_name": "<img src=x onerror=alert(3)>",
                "url": "javascript:alert(4)", "avatar_static": "data:text/html,x",
            },
            "media_attachments": [{"type": "image", "url": "javascript:alert(5)", "description": "<b>"}],
        })));
    }
    for content in hostile {
        let post = client.event(PUBLIC).await.json();
        let html = post["html"].as_str().unwrap().to_lowercase();
        let tags: Vec<&str> = html.split('<').skip(1).collect();
        for tag in &tags {
            let name: String = tag
                .trim_start_matches('/')
                .chars()
                .take_while(char::is_ascii_alphanumeric)
                .collect();
            let harmless = ["a", "b", "p", "span", "br", "div", "em", "strong"];
            assert!(harmless.contains(&name.as_str()), "{content} became {html}");
            let tag = tag.split('>').next().unwrap();
            assert!(!tag.contains(" on") && !tag.contains("style"), "{content} became {html}");
            assert!(!tag.contains("script:"), "{content} became {html}");
        }
        assert_eq!(post["author"].get("url"), None, "{post}");
        assert_eq!(post["author"].get("avatar"), None, "{post}");
        assert_eq!(post["media"][0].get("url"), None, "{post}");
        assert_eq!(post["sensitive"], true);
    }
}

#[tokio::test]
async fn posts_that_are_not_public_are_not_forwarded() {
    let server = MastodonServer::start().await.unwrap();
    let headwater = Headwater::setup().servers(&[&server]).start().await;
    let mut client = headwater.client().await;
    client.subscribe(&[PUBLIC]).await;
    server.streamed().await;
    for changes in [
        json!({"visibility": "unlisted"}),
        json!({"visibility": "private"}),
        json!({"visibility": null}),
        json!({"reblog": {"id": "1", "uri": "https://a.example/1"}}),
        json!({"account": {"acct": "bo", "note": "<p>please #nobot</p>"}}),
        json!({"account": {"acct": "bo", "noindex": true}}),
        json!({"uri": null}),
    ] {
        server.post(&server.status(&changes));
    }
    let status = server.status(&json!({}));
    server.post(&status);
    let event = client.event(PUBLIC).await;
    assert_eq!((event.seq, &event.json()["id"]), (1, &status["uri"]));
}

#[tokio::test]
async fn edits_and_deletes_are_forwarded_and_remove_the_old_text_from_the_history() {
    let server = MastodonServer::start().await.unwrap();
    let headwater = Headwater::setup().servers(&[&server]).start().await;
    let mut client = headwater.client().await;
    client.subscribe(&[PUBLIC, "mastodon/lang/en"]).await;
    server.streamed().await;
    let status = server.status(&json!({"content": "the first words"}));
    server.post(&status);
    let other = server.status(&json!({"content": "somebody else's"}));
    server.post(&other);
    // Before the edit, the poller must have read the post.
    let mut events = client.events(PUBLIC, 2).await;
    let mut edited = status.clone();
    edited["content"] = json!("the second words");
    edited["edited_at"] = json!(MastodonServer::later(&status));
    server.edit(&edited);
    events.push(client.event(PUBLIC).await);
    let kinds: Vec<Value> = events.iter().map(|event| event.json()["type"].clone()).collect();
    assert_eq!(kinds, ["post", "post", "post.edited"]);
    let edit = events[2].json();
    assert_eq!((&edit["id"], &edit["text"]), (&status["uri"], &json!("the second words")));
    assert!(edit["editedAt"].is_string());
    for topic in [PUBLIC, "mastodon/lang/en"] {
        until("the first words are gone", async || {
            let page = headwater.rest().history(topic).await;
            assert_eq!(page["events"].as_array().unwrap().len(), 3, "no number is missing");
            (!page.to_string().contains("first words")).then_some(())
        })
        .await;
    }

    server.delete(&status);
    let delete = client.event(PUBLIC).await;
    let deleted = delete.json();
    assert_eq!((&deleted["type"], &deleted["id"]), (&json!("post.deleted"), &status["uri"]));
    let mut members: Vec<&String> = deleted.as_object().unwrap().keys().collect();
    members.sort();
    assert_eq!(members, ["at", "id", "server", "type"], "no content of the post remains");
    until("the second words are gone", async || {
        let page = headwater.rest().history(PUBLIC).await.to_string();
        assert!(page.contains("somebody else's"), "{page}");
        (!page.contains("words")).then_some(())
    })
    .await;
    let mut late = headwater.client().await;
    late.subscribe_with(&[PUBLIC], json!({"last": 100})).await;
    let replayed = late.events(PUBLIC, 4).await;
    assert!(replayed.iter().all(|event| !event.text.contains("words")), "{replayed:?}");
    server.edit(&edited);
    server.post(&server.status(&json!({"content": "the end"})));
    assert_eq!(
        client.event(PUBLIC).await.json()["text"],
        "the end",
        "an edit does not restore a deleted post"
    );
}

#[tokio::test]
async fn a_post_from_two_servers_is_published_once() {
    let one = MastodonServer::start().await.unwrap();
    let two = MastodonServer::start().await.unwrap();
    let headwater = Headwater::setup().servers(&[&one, &two]).start().await;
    let mut client = headwater.client().await;
    let of = |server: &MastodonServer| format!("mastodon/server/{}", server.host());
    let of_one = of(&one);
    let of_two = of(&two);
    client.subscribe(&[PUBLIC, &of_one, &of_two]).await;
    one.streamed().await;
    two.streamed().await;
    let original = one.status(&json!({"content": "said once"}));
    one.post(&original);
    assert_eq!(client.event(PUBLIC).await.json()["server"], *one.host());
    assert_eq!(client.event(&of_one).await.json()["id"], original["uri"]);
    let copy = json!({"content": "said once", "uri": original["uri"], "url": original["url"]});
    two.post(&two.status(&copy));
    assert_eq!(client.event(&of_two).await.json()["id"], original["uri"]);
    let sequel = two.status(&json!({"content": "said next"}));
    two.post(&sequel);
    let next = client.event(PUBLIC).await;
    assert_eq!((next.seq, &next.json()["id"]), (2, &sequel["uri"]));
    // A delete from any server removes the post from all topics.
    one.delete(&original);
    for topic in [PUBLIC, &of_one, &of_two] {
        let events =
            client.events_until(topic, |event| event.json()["type"] == "post.deleted").await;
        assert_eq!(events.last().unwrap().json()["id"], original["uri"], "{topic}");
    }
}

#[tokio::test]
async fn posts_during_an_interruption_of_the_stream_are_fetched() {
    let server = MastodonServer::start().await.unwrap();
    let headwater = Headwater::setup().servers(&[&server]).start().await;
    let mut client = headwater.client().await;
    client.subscribe(&[PUBLIC]).await;
    server.streamed().await;
    let post = |text: &str| {
        let status = server.status(&json!({"content": text}));
        server.post(&status);
        status
    };
    let kept = post("kept");
    let removed = post("removed");
    client.events(PUBLIC, 2).await;
    server.drop_connections();
    server.delete(&removed);
    let missed = post("missed");
    server.streamed().await;
    let after = post("after");
    let events = client.events_until(PUBLIC, |event| event.json()["id"] == after["uri"]).await;
    let reported: Vec<(String, String)> = events.iter().map(kind_and_id).collect();
    let expected =
        |kind: &str, status: &Value| (kind.to_owned(), status["uri"].as_str().unwrap().to_owned());
    assert!(reported.contains(&expected("post", &missed)), "{reported:?}");
    assert!(reported.contains(&expected("post.deleted", &removed)), "{reported:?}");
    assert!(
        !reported.iter().any(|(_, id)| kept["uri"] == **id),
        "no post is published twice: {reported:?}"
    );
}

#[tokio::test]
async fn a_server_that_requires_a_token_is_down_with_a_reason() {
    let server = MastodonServer::start().await.unwrap();
    server.require_token();
    let setup = Headwater::setup().servers(&[&server]).option("--mastodon-tokens", "");
    let headwater = setup.start().await;
    let mut client = headwater.client().await;
    client.subscribe_with(&["system/sources"], json!({"last": 100})).await;
    client.subscribe(&[PUBLIC]).await;
    let is_down = |event: &Event| event.json()["state"] == "down";
    let states = client.events_until("system/sources", is_down).await;
    let state = states.last().unwrap().json();
    assert_eq!(state["source"], *server.host());
    assert!(state["detail"].as_str().unwrap().contains("token"), "{state}");
}

#[tokio::test]
async fn without_a_token_the_timeline_is_polled() {
    let server = MastodonServer::start().await.unwrap();
    let setup = Headwater::setup().servers(&[&server]).option("--mastodon-tokens", "");
    let headwater = setup.start().await;
    let status = server.status(&json!({"content": "found by asking"}));
    server.post(&status);
    let mut client = headwater.client().await;
    client.subscribe(&[PUBLIC]).await;
    let event = client.event(PUBLIC).await.json();
    assert_eq!((&event["id"], &event["text"]), (&status["uri"], &json!("found by asking")));
}

fn kind_and_id(event: &Event) -> (String, String) {
    let event = event.json();
    let text = |name: &str| event[name].as_str().unwrap().to_owned();
    (text("type"), text("id"))
}
