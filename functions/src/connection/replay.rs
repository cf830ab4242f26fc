//! Sending a connection the events of a topic from the log.

use std::{ops::RangeInclusive, time::Duration};

use bytes::Bytes;
use domain::{
    access::{Principal, Right},
    entry::Entry,
    frame::{self, Frame},
    protocol::{GapReason, Reply},
    topic::Topic,
};
use tokio::time::Instant;

use super::{
    client::Client,
    error::RequestError,
    send::{BUSY_TIMEOUT, SendError},
};
use crate::{access::history::Grant, subscription::CHUNK_BYTES};

/// How long a message may wait until its right is checked again.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Sends the events of a range of sequence numbers, and a `gap` for those that are missing or older than
/// the `oldest` one that the principal can read. The first `entries` of the range need not be read again.
///
/// What is sent counts as history that the `grant` permits. The `right` to the events is checked before every
/// message, because a replay can take long. An error leaves no hole in what was already sent.
pub(super) async fn replay(
    client: &Client<'_>,
    principal: &Principal,
    right: Right<'_>,
    range: RangeInclusive<u64>,
    oldest: u64,
    mut entries: Vec<Entry>,
    grant: Option<&Grant<'_>>,
) -> Result<(), RequestError> {
    let (Right::Subscribe(topic) | Right::History(topic)) = right else { return Ok(()) };
    let to = *range.end();
    let mut from = *range.start();
    if from < oldest && from <= to {
        client.send(gap(topic, from, to.min(oldest - 1), GapReason::Expired)).await?;
        from = oldest;
    }
    while from <= to {
        if entries.is_empty() {
            entries = client.app.tables.log.read(topic, from, to, CHUNK_BYTES, client.now).await?;
        }
        for message in messages(topic, from, to, &entries) {
            if let Some(grant) = grant {
                grant.note(message.len() as u64);
            }
            send(client, principal, right, topic, message).await?;
        }
        let Some(last) = entries.last().map(Entry::last) else {
            return Ok(client.send(gap(topic, from, to, GapReason::Expired)).await?);
        };
        entries.clear();
        from = last + 1;
    }
    Ok(())
}

/// Sends a message as soon as the connection accepts it, unless the right is withdrawn meanwhile.
async fn send(
    client: &Client<'_>,
    principal: &Principal,
    right: Right<'_>,
    topic: &Topic,
    message: Bytes,
) -> Result<(), RequestError> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        if !client.app.rules.current().await?.allows(principal, right) {
            return Err(RequestError::Withdrawn(topic.clone()));
        }
        match client.send_within(CHECK_EVERY, message.clone()).await {
            Err(SendError::Busy) if Instant::now() < deadline => {}
            sent => return Ok(sent?),
        }
    }
}

/// Returns the messages of a replay: the entries of the log, with a `gap` for each range that is missing.
fn messages(topic: &Topic, from: u64, to: u64, entries: &[Entry]) -> Vec<Bytes> {
    let mut messages = Vec::new();
    let mut frames: Vec<Frame> = Vec::new();
    let mut next = from;
    let flush = |frames: &mut Vec<Frame>, messages: &mut Vec<Bytes>| {
        messages.extend(frame::messages(frames));
        frames.clear();
    };
    for entry in entries {
        if entry.seq() > next {
            flush(&mut frames, &mut messages);
            messages.push(gap(topic, next, entry.seq() - 1, GapReason::Expired));
        }
        match entry {
            Entry::Frame(frame) => frames.extend(frame.part(from..=to)),
            Entry::Lost { seq, last, .. } => {
                flush(&mut frames, &mut messages);
                messages.push(gap(topic, (*seq).max(from), (*last).min(to), GapReason::Lost));
            }
        }
        next = entry.last() + 1;
    }
    flush(&mut frames, &mut messages);
    messages
}

/// Returns a `gap`.
pub(super) fn gap(topic: &Topic, from: u64, to: u64, reason: GapReason) -> Bytes {
    Reply::Gap { topic: topic.clone(), from, to, reason }.to_json()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn gaps_are_reported_where_they_are() {
        let topic = Topic::mastodon_public();
        let frame = |seq, events: &[&str]| {
            Entry::Frame(Frame::new(topic.clone(), seq, Timestamp::UNIX_EPOCH, events))
        };
        let entries = [
            frame(5, &["5", "6"]),
            Entry::Lost { topic: topic.clone(), seq: 7, last: 9, is_logged: false },
            frame(10, &["10"]),
        ];
        let texts: Vec<String> = messages(&topic, 3, 10, &entries)
            .iter()
            .map(|message| String::from_utf8_lossy(message).into_owned())
            .collect();
        insta::assert_snapshot!(texts.join("\n"), @r#"
        {"type":"gap","topic":"mastodon/public","from":3,"to":4,"reason":"expired"}
        {"type":"events","frames":[{"topic":"mastodon/public","seq":5,"at":"1970-01-01T00:00:00.000000Z","events":[5,6]}]}
        {"type":"gap","topic":"mastodon/public","from":7,"to":9,"reason":"lost"}
        {"type":"events","frames":[{"topic":"mastodon/public","seq":10,"at":"1970-01-01T00:00:00.000000Z","events":[10]}]}
        "#);
        let part = messages(&topic, 6, 8, &entries[..2]);
        assert!(part[0].ends_with(br#""events":[6]}]}"#), "{part:?}");
        assert_eq!(
            part[1],
            r#"{"type":"gap","topic":"mastodon/public","from":7,"to":8,"reason":"lost"}"#
        );
    }
}
