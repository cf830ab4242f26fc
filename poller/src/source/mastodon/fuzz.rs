//! Fuzz targets: what Mastodon servers send.

use bolero::check;
use domain::post::PostEvent;
use jiff::Timestamp;
use serde_json::Value;
use url::Url;

use super::{
    html::{self, tests::assert_safe},
    instance::Instance,
    normalize::{self, ServerName},
    size,
    status::{Envelope, Status, Update},
};

#[test]
fn messages_of_the_stream() {
    check!().for_each(|input| {
        if let Ok(text) = str::from_utf8(input)
            && let Envelope::Update(Update::Post(status) | Update::Edit(status)) =
                Envelope::parse(text)
        {
            convert(&status);
        }
    });
}

#[test]
fn statuses() {
    check!().for_each(|input| {
        if let Ok(json) = serde_json::from_slice(input)
            && let Some(status) = Status::new(json)
        {
            convert(&status);
        }
    });
}

/// Makes an event of a status.
fn convert(status: &Status) {
    let server = ServerName { host: "social.example".into(), domain: "example.org".to_owned() };
    let _ = normalize::admit(status);
    let post = normalize::post(status, &server, Timestamp::UNIX_EPOCH);
    let bytes = size::fit(PostEvent::Post(Box::new(post)));
    serde_json::from_slice::<PostEvent>(&bytes).expect("an event");
}

#[test]
fn descriptions_of_servers() {
    let base = Url::parse("https://social.example").expect("a URL");
    check!().for_each(|input| {
        if let Ok(json) = serde_json::from_slice::<Value>(input) {
            let instance = Instance::read(&json, &base, &[]);
            let _ = (instance.way(true), instance.way(false));
        }
    });
}

#[test]
fn markup() {
    check!().for_each(|input| {
        if let Ok(markup) = str::from_utf8(input) {
            let clean = html::sanitize(markup);
            assert_safe(&clean);
            assert_eq!(html::sanitize(&clean), clean);
            let again = html::from_text(&html::text(&clean));
            assert_safe(&again);
        }
    });
}
