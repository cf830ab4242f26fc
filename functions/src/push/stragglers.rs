//! Stragglers: connections that are behind or slow, and are served one by one.

use std::collections::HashMap;

use aws::error::StoreError;
use domain::{
    chain::Chain,
    connection::Recipient,
    entry::Entry,
    outlet::OutletError,
    push::{Job, Report},
    topic::Topic,
};
use jiff::Timestamp;
use tracing::warn;

use super::{
    message::next_message,
    pusher::Pusher,
    view::{Straggler, View},
};

/// Maximum amount of the log that is read for a connection that joins, in compressed bytes.
const CATCH_UP_BYTES: usize = 4 * 1024 * 1024;

/// The events that joining connections have missed, by topic, the last number that they have and the last
/// number that they need.
pub(super) type MissedCache = HashMap<(Topic, u64, u64), Vec<Entry>>;

impl Pusher {
    /// Serves a connection that is behind or slow.
    #[expect(clippy::too_many_arguments, reason = "the state of one job")]
    pub(super) async fn serve(
        &self,
        view: &mut View,
        job: &Job,
        recipient: &Recipient,
        topics: &[Topic],
        cache: &mut MissedCache,
        report: &mut Report,
        now: Timestamp,
    ) {
        let Some(straggler) = view.straggler_mut(&recipient.id) else { return };
        let is_subscribed = |topic: &Topic| topics.binary_search(topic).is_ok();
        let mut entries: Vec<Entry> = Vec::new();
        let mut behind = std::mem::take(&mut straggler.behind);
        for lost in job.lost.iter().filter(|it| is_subscribed(&it.topic)) {
            if !behind.contains_key(&lost.topic) {
                straggler.backlog.push_lost(lost.topic.clone(), lost.from..=lost.to);
            }
        }
        for frame in job.frames.iter().filter(|it| is_subscribed(it.topic())) {
            let topic = frame.topic();
            let Some(position) = behind.remove(topic) else {
                entries.push(Entry::Frame(frame.clone()));
                continue;
            };
            if position + 1 < frame.seq() {
                match self.missed(cache, topic, position, frame.seq() - 1, now).await {
                    Ok(missed) => entries.extend(missed),
                    Err(error) => warn!(
                        error = %Chain(&error),
                        "could not read the events that a connection missed; the client sees a gap"
                    ),
                }
            }
            entries.extend(frame.part(position + 1..=u64::MAX).map(Entry::Frame));
            if frame.last() <= position {
                // The client already has this frame, and joins at a later one.
                behind.insert(topic.clone(), position);
            }
        }
        if straggler.is_announced {
            for (topic, position) in std::mem::take(&mut behind) {
                match self.missed(cache, &topic, position, u64::MAX, now).await {
                    Ok(missed) => entries.extend(missed),
                    Err(error) => {
                        warn!(
                            error = %Chain(&error),
                            "could not read the events that a connection missed; retrying later"
                        );
                        behind.insert(topic, position);
                    }
                }
            }
        }
        straggler.behind = behind;
        let sent = if straggler.backlog.is_empty() {
            // The connection is new, not slow: no events are merged or dropped for it.
            self.post_entries(recipient, entries, straggler, report).await
        } else {
            for entry in entries {
                straggler.keep(entry);
            }
            self.post_backlog(recipient, straggler, report).await
        };
        if let Err(error) = sent {
            self.is_final(view, job.shard, recipient, &error, report, now).await;
        }
    }

    /// Posts entries, and keeps those that the connection does not accept.
    async fn post_entries(
        &self,
        recipient: &Recipient,
        mut entries: Vec<Entry>,
        straggler: &mut Straggler,
        report: &mut Report,
    ) -> Result<(), OutletError> {
        while let Some((count, message)) = next_message(&entries) {
            if let Err(error) = self.post(recipient, message).await {
                for entry in entries {
                    straggler.keep(entry);
                }
                return Err(error);
            }
            report.delivered += 1;
            entries.drain(..count);
        }
        Ok(())
    }

    /// Posts the backlog until it is empty or the connection does not accept a message.
    async fn post_backlog(
        &self,
        recipient: &Recipient,
        straggler: &mut Straggler,
        report: &mut Report,
    ) -> Result<(), OutletError> {
        while let Some(message) = straggler.backlog.next_message() {
            self.post(recipient, message).await?;
            report.delivered += 1;
            straggler.backlog.sent();
        }
        Ok(())
    }

    /// Reads the events after `position` up to `to`. Connections that miss the same events share one read.
    async fn missed(
        &self,
        cache: &mut MissedCache,
        topic: &Topic,
        position: u64,
        to: u64,
        now: Timestamp,
    ) -> Result<Vec<Entry>, StoreError> {
        let key = (topic.clone(), position, to);
        if let Some(entries) = cache.get(&key) {
            return Ok(entries.clone());
        }
        let read = self.log.read(topic, position + 1, to, CATCH_UP_BYTES, now).await?;
        let entries: Vec<Entry> = read
            .into_iter()
            .filter_map(|entry| match entry {
                Entry::Frame(frame) => frame.part(position + 1..=to).map(Entry::Frame),
                Entry::Lost { .. } => Some(entry),
            })
            .collect();
        cache.insert(key, entries.clone());
        Ok(entries)
    }
}
