//! Sending a connection what the log has, at the speed it can take.

use std::{ops::RangeInclusive, time::Duration};

use aws::{
    connections::{Connection, ConnectionError},
    error::StoreError,
    log::Entry,
    post::{PostError, Recipient},
};
use bytes::Bytes;
use domain::{
    access::Right,
    frame::{self, Frame},
    protocol::{GapReason, Reply},
    topic::Topic,
};
use jiff::Timestamp;
use tokio::time::{self, Instant};

use crate::{access::rules::RulesError, app::App};

/// About how many bytes of the log are read at a time.
const CHUNK_BYTES: usize = 1024 * 1024;

/// How long a connection that takes no more is waited for. API Gateway ends an invocation at 29 s.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why something was not sent to a connection.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It is closed.
    #[error("connection is gone")]
    Gone,
    /// It took no more for a long time.
    #[error("connection takes no more")]
    Busy,
    /// The gateway failed.
    #[error("post failed")]
    Post(#[source] PostError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its item was not changed.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// It is not known what is permitted.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// The right to it was withdrawn on the way.
    #[error("{0} is no longer permitted")]
    Forbidden(Topic),
}

/// What a replay sends: the log's entries, with the holes named.
pub fn messages(topic: &Topic, from: u64, to: u64, entries: &[Entry]) -> Vec<Bytes> {
    let mut messages = Vec::new();
    let mut frames: Vec<Frame> = Vec::new();
    let mut next = from;
    let flush = |frames: &mut Vec<Frame>, messages: &mut Vec<Bytes>| {
        let wires: Vec<&Bytes> = frames.iter().map(Frame::json).collect();
        messages.extend(frame::messages(&wires));
        frames.clear();
    };
    let gap = |from, to, reason| Reply::Gap { topic: topic.clone(), from, to, reason }.to_json();
    for entry in entries {
        if entry.seq() > next {
            flush(&mut frames, &mut messages);
            messages.push(gap(next, entry.seq() - 1, GapReason::Expired));
        }
        match entry {
            Entry::Frame(frame) => frames.extend(frame.part(from..=to)),
            Entry::Lost { seq, last, .. } => {
                flush(&mut frames, &mut messages);
                messages.push(gap((*seq).max(from), (*last).min(to), GapReason::Lagging));
            }
        }
        next = entry.last() + 1;
    }
    flush(&mut frames, &mut messages);
    messages
}

impl App {
    /// Posts one message, and waits while the connection takes no more.
    ///
    /// # Errors
    ///
    /// [`ReplayError`], at the latest after 20 seconds.
    pub async fn say(&self, to: &Recipient, message: Bytes) -> Result<(), ReplayError> {
        let deadline = Instant::now() + PATIENCE;
        let mut wait = Duration::from_millis(5);
        loop {
            let failed = self.post.post(std::slice::from_ref(to), message.clone()).await;
            match failed.into_iter().next() {
                None => return Ok(()),
                Some((_, PostError::Gone)) => return Err(ReplayError::Gone),
                Some((_, PostError::Busy)) if Instant::now() + wait > deadline => {
                    return Err(ReplayError::Busy);
                }
                Some((_, PostError::Busy)) => {
                    time::sleep(wait).await;
                    wait = (wait * 2).min(Duration::from_millis(250));
                }
                Some((_, error @ (PostError::TooLarge | PostError::Failed(_)))) => {
                    return Err(ReplayError::Post(error));
                }
            }
        }
    }

    /// Sends the events `from..=to` of a topic, and a `gap` for what is missing of them or is not
    /// history any more for the connection's class.
    ///
    /// The `right` to them is looked at again and again, since this can take long.
    ///
    /// # Errors
    ///
    /// [`ReplayError`]; what was sent until then is in order.
    pub async fn replay(
        &self,
        connection: &Connection,
        right: Right<'_>,
        range: RangeInclusive<u64>,
        oldest: u64,
        now: Timestamp,
    ) -> Result<(), ReplayError> {
        let (Right::Subscribe(topic) | Right::History(topic)) = right else { return Ok(()) };
        let to = *range.end();
        let mut from = *range.start();
        let gap = |from, to| {
            let (topic, reason) = (topic.clone(), GapReason::Expired);
            Reply::Gap { topic, from, to, reason }.to_json()
        };
        if from < oldest && from <= to {
            self.say(&connection.recipient, gap(from, to.min(oldest - 1))).await?;
            from = oldest;
        }
        while from <= to {
            if !self.in_force().await?.allows(&connection.principal, right) {
                return Err(ReplayError::Forbidden(topic.clone()));
            }
            let entries = self.tables.log.read(topic, from, to, CHUNK_BYTES, now).await?;
            for message in messages(topic, from, to, &entries) {
                self.say(&connection.recipient, message).await?;
            }
            let Some(last) = entries.last().map(Entry::last) else {
                return self.say(&connection.recipient, gap(from, to)).await;
            };
            from = last + 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_named_where_they_are() {
        let topic = Topic::mastodon_public();
        let frame = |seq, events: &[&str]| {
            Entry::Frame(Frame::new(topic.clone(), seq, Timestamp::UNIX_EPOCH, events))
        };
        let entries = [
            frame(5, &["5", "6"]),
            Entry::Lost { topic: topic.clone(), seq: 7, last: 9 },
            frame(10, &["10"]),
        ];
        let texts: Vec<String> = messages(&topic, 3, 10, &entries)
            .iter()
            .map(|message| String::from_utf8_lossy(message).into_owned())
            .collect();
        insta::assert_snapshot!(texts.join("\n"), @r#"
        {"type":"gap","topic":"mastodon/public","from":3,"to":4,"reason":"expired"}
        {"type":"events","frames":[{"topic":"mastodon/public","seq":5,"at":"1970-01-01T00:00:00.000000Z","events":[5,6]}]}
        {"type":"gap","topic":"mastodon/public","from":7,"to":9,"reason":"lagging"}
        {"type":"events","frames":[{"topic":"mastodon/public","seq":10,"at":"1970-01-01T00:00:00.000000Z","events":[10]}]}
        "#);
        let part = messages(&topic, 6, 8, &entries[..2]);
        assert!(part[0].ends_with(br#""events":[6]}]}"#), "{part:?}");
        assert_eq!(
            part[1],
            r#"{"type":"gap","topic":"mastodon/public","from":7,"to":8,"reason":"lagging"}"#
        );
    }
}
