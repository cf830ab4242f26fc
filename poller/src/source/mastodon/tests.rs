//! Which servers can be sources, which topics concern them, and what lookups find.

use aws::{
    clients::{Clients, TableOptions},
    tables::Tables,
};
use domain::{clock::Clock, entry::Entry, frame::Frame, provenance::Provenance, topic::Topic};
use dynamo::{Engine, Fault, Faults, Storage};
use serde_json::json;
use tokio::sync::watch;

use super::*;
use crate::{
    leadership::Leadership,
    numbering::{Numbering, Options},
    outgoing::Role,
    states::States,
};

fn server(base: &str) -> Result<Mastodon, MastodonError> {
    let now = Timestamp::UNIX_EPOCH;
    let timeline = Arc::new(Mutex::new(Timeline::new(now, Duration::from_hours(24))));
    let outside = Outside::real("Headwater/test", &[]).expect("a client");
    Mastodon::new(base.parse().expect("a URL"), None, timeline, outside)
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

/// A feed that leads, and its database.
async fn feed() -> (Feed, Tables, Faults) {
    let (_, wanted) = watch::channel(Arc::default());
    let (feed, tables, faults, _) = feed_of(wanted).await;
    (feed, tables, faults)
}

/// The same with these wanted topics, and with what is published.
async fn feed_of(wanted: watch::Receiver<Arc<Wanted>>) -> (Feed, Tables, Faults, Numbering) {
    let faults = Faults::default();
    let engine = Engine::inline(Storage::open(None).expect("a database"));
    let options =
        TableOptions { table_prefix: "test-".to_owned(), retention: Duration::from_hours(1) };
    let config = engine.with_faults(faults.clone()).sdk_config();
    let tables = Clients::from_config(config).tables(&options);
    tables.create_missing().await.expect("tables");
    let (log, control) = (tables.log.clone(), tables.control.clone());
    let leadership = Leadership::default();
    let term = Duration::from_hours(1);
    let lease = control.acquire("mastodon", "test", term, Timestamp::now()).await;
    leadership.add(lease.expect("a response").expect("it is free"), Instant::now() + term);
    let options = Options { flush: Duration::ZERO, memory_bytes: usize::MAX };
    let clock = Clock::new(Timestamp::now);
    let numbering =
        Numbering::new(log.clone(), control.clone(), leadership, clock.clone(), options);
    let states = States::new(Provenance::Live, control.clone(), numbering.clone(), clock);
    let feed = Feed::new("a.example", 1, wanted, numbering.clone(), states, log, control);
    (feed, tables, faults, numbering)
}

#[tokio::test]
async fn a_post_that_was_deleted_while_no_process_read_its_server_is_deleted() {
    let topic = Topic::mastodon_public();
    let (_want, wanted) = watch::channel(Arc::new(Wanted::from([topic.clone()])));
    let (feed, tables, _, numbering) = feed_of(wanted).await;
    let rest = stand_in::Rest::serve(|path, _| match path {
        "/api/v1/statuses/1" => stand_in::answer(404, &json!({"error": "Record not found"})),
        "/api/v2/instance" => stand_in::answer(200, &json!({"domain": "a.example"})),
        _ => stand_in::answer(200, &json!([])),
    })
    .await;
    let server = server(rest.base.as_str()).expect("a source");
    // An earlier process has published this.
    let (uri, now) = ("https://origin.example/1", Timestamp::now());
    let later = now + Duration::from_hours(1);
    let remembered = Remembered { uri: uri.to_owned(), topics: [topic.clone()].into() };
    let control = &tables.control;
    control.remember_status(server.name(), "1", &remembered, later).await.expect("stored");
    control.place(uri, &topic, 1, later).await.expect("stored");
    let event = json!({"type": "post", "id": uri}).to_string();
    let entry = Entry::Frame(Frame::new(topic.clone(), 1, now, &[event]));
    tables.log.append(&entry, None, now).await.expect("appended");

    let stop = CancellationToken::new();
    let reading = server.run(feed, stop.clone());
    let deleting = async {
        loop {
            let published = numbering.take_pending().await;
            if let Some((_, event)) = published.into_iter().find(|(of, _)| *of == topic) {
                return event.role;
            }
        }
    };
    let deleted = tokio::select! {
        () = reading => unreachable!("it reads until it is stopped"),
        deleted = deleting => deleted,
    };
    assert_eq!(deleted, Role::Deleted(uri.into()));
}

#[tokio::test(start_paused = true)]
async fn a_post_counts_as_published_if_the_log_has_it() {
    let (feed, tables, faults) = feed().await;
    let (appended, lost) =
        (Topic::mastodon_public(), "mastodon/tag/rust".parse().expect("a topic"));
    let uri = "https://origin.example/1";
    let now = Timestamp::now();
    let topics = BTreeSet::from([appended.clone(), lost]);
    let remembered = Remembered { uri: uri.to_owned(), topics: topics.clone() };
    let later = now + Duration::from_hours(1);
    tables.control.remember_status("a.example", "1", &remembered, later).await.expect("stored");
    for topic in &topics {
        tables.control.place(uri, topic, 1, later).await.expect("stored");
    }
    // The other append was lost.
    let event = json!({"type": "post", "id": uri}).to_string();
    let entry = Entry::Frame(Frame::new(appended.clone(), 1, now, &[event]));
    tables.log.append(&entry, None, now).await.expect("appended");

    let status = stand_in::status(now, &json!({"id": "1", "uri": uri}));
    let post = Update::Post(status::Status::new(status).expect("a status"));
    let lookup = Lookup {
        server: "a.example".into(),
        id: "1".to_owned(),
        uri: None,
        topics: BTreeSet::new(),
    };
    // The database does not respond at first.
    let mut failures = 10;
    faults.set(move |_, _| {
        failures -= i32::from(failures > 0);
        (failures > 0).then_some(Fault::LoseRequest)
    });
    let found = look_up(&feed, lookup.clone(), &post).await;
    assert_eq!(found, Found { uri: Some(uri.into()), topics: [appended.clone()].into() });
    let delete = Update::Delete("1".to_owned());
    let found = look_up(&feed, lookup.clone(), &delete).await;
    assert_eq!(found.topics, [appended.clone()].into());
    let deleted = json!({"type": "post.deleted", "id": uri}).to_string();
    tables.log.supersede(&appended, 1, uri, &deleted.into()).await.expect("replaced");
    let found = look_up(&feed, lookup, &delete).await;
    assert_eq!(found.topics, [].into(), "it is deleted already");
}
