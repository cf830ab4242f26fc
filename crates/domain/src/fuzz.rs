//! Fuzz targets: the parsers of what clients and operators send.

use bolero::check;
use bytes::Bytes;

use crate::{
    frame::Frame,
    protocol::Request,
    rules::{RuleSet, SetText},
    topic::Topic,
};

#[test]
fn messages_of_clients() {
    check!().for_each(|input| {
        if let Ok(text) = str::from_utf8(input) {
            let _ = Request::parse(text);
        }
    });
}

#[test]
fn topics() {
    check!().for_each(|input| {
        if let Ok(text) = str::from_utf8(input)
            && let Ok(topic) = Topic::parse(text)
        {
            let again = Topic::parse(topic.as_str()).expect("the canonical spelling is valid");
            assert_eq!(again, topic);
        }
    });
}

#[test]
fn policies() {
    check!().for_each(|input| {
        if let Ok(text) = str::from_utf8(input) {
            let _ = RuleSet::read(SetText { policies: text.to_owned(), ..SetText::preset() });
        }
    });
}

#[test]
fn limits() {
    check!().for_each(|input| {
        if let Ok(text) = str::from_utf8(input) {
            let _ = RuleSet::read(SetText { limits: text.to_owned(), ..SetText::preset() });
        }
    });
}

#[test]
fn frames() {
    check!().for_each(|input| {
        if let Ok(frame) = Frame::from_json(Bytes::copy_from_slice(input)) {
            assert_eq!(frame.events().len() as u64, frame.last() - frame.seq() + 1);
            let again = Frame::from_json(frame.json().clone()).expect("a frame");
            assert_eq!(again, frame);
        }
    });
}
