//! Groups: connections with the same topics, which are sent the same messages.

use std::{collections::HashMap, sync::Arc};

use domain::{
    connection::Recipient,
    frame::Frame,
    outlet::OutletError,
    push::{Job, Report},
    topic::Topic,
};
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;

use super::{message::Messages, pusher::Pusher, view::View};

/// Number of groups that are posted to concurrently.
const CONCURRENCY: usize = 64;

/// A message that a connection of a group did not accept.
pub(super) struct FailedPost {
    recipient: Recipient,
    error: OutletError,
    /// The index of the message's first frame among the frames for the group.
    from: usize,
}

impl Pusher {
    /// Posts the frames of a job to the groups, and returns what was not accepted.
    pub(super) async fn post_to_groups(
        &self,
        view: &View,
        job: &Job,
        report: &mut Report,
    ) -> Vec<FailedPost> {
        let topics =
            job.frames.iter().map(Frame::topic).chain(job.lost.iter().map(|lost| &lost.topic));
        let groups = view.groups_for(topics);
        let mut messages: HashMap<Vec<usize>, Arc<Messages>> = HashMap::new();
        let mut posts = Vec::with_capacity(groups.len());
        for group in groups {
            let chosen = parts_for(job, &group.topics);
            let messages = match messages.get(&chosen) {
                Some(messages) => messages.clone(),
                None => {
                    let made = Arc::new(Messages::new(job, &chosen));
                    messages.insert(chosen, made.clone());
                    made
                }
            };
            posts.push(self.post_to_group(&group.members, messages));
        }
        let done: Vec<(u64, Vec<FailedPost>)> =
            stream::iter(posts).buffer_unordered(CONCURRENCY).collect().await;
        report.delivered += done.iter().map(|(delivered, _)| delivered).sum::<u64>();
        done.into_iter().flat_map(|(_, failed)| failed).collect()
    }

    /// Posts messages to a group. Returns how many were accepted, and which were not.
    async fn post_to_group(
        &self,
        members: &[Recipient],
        messages: Arc<Messages>,
    ) -> (u64, Vec<FailedPost>) {
        let mut delivered = 0;
        let mut failed = Vec::new();
        let mut remaining: Option<Vec<Recipient>> = None;
        let gaps = messages.gaps.iter().map(|gap| (0, gap));
        let events = messages.events.iter().map(|(from, message)| (*from, message));
        for (from, message) in gaps.chain(events) {
            let recipients = remaining.as_deref().unwrap_or(members);
            let errors = self.outlet.post(recipients, message.clone()).await;
            delivered += (recipients.len() - errors.len()) as u64;
            if errors.is_empty() {
                continue;
            }
            let mut kept: Vec<Option<Recipient>> = recipients.iter().cloned().map(Some).collect();
            for (index, error) in errors {
                if let Some(recipient) = kept[index].take() {
                    failed.push(FailedPost { recipient, error, from });
                }
            }
            remaining = Some(kept.into_iter().flatten().collect());
        }
        (delivered, failed)
    }

    /// Takes the connections that did not accept a message out of their groups, and keeps the frames and
    /// gaps that they have not received.
    pub(super) async fn add_stragglers(
        &self,
        view: &mut View,
        job: &Job,
        failed: Vec<FailedPost>,
        report: &mut Report,
        now: Timestamp,
    ) {
        let mut frames_by_topics: HashMap<Arc<[Topic]>, Vec<Frame>> = HashMap::new();
        for FailedPost { recipient, error, from } in failed {
            if self.is_final(view, job.shard, &recipient, &error, report, now).await {
                continue;
            }
            let Some(topics) = view.topics_of(&recipient.id) else { continue };
            let is_subscribed = |topic: &Topic| topics.binary_search(topic).is_ok();
            let frames = frames_by_topics.entry(topics.clone()).or_insert_with(|| {
                job.frames.iter().filter(|it| is_subscribed(it.topic())).cloned().collect()
            });
            let backlog = &mut view.make_straggler(&recipient.id).backlog;
            if from == 0 {
                // Gaps are sent first, so the failed message may be one. A client can receive a gap twice.
                for lost in job.lost.iter().filter(|it| is_subscribed(&it.topic)) {
                    backlog.push_lost(lost.topic.clone(), lost.from..=lost.to);
                }
            }
            for frame in &frames[from..] {
                backlog.push(frame.clone());
            }
        }
    }
}

/// Returns the indexes of the parts of a job that belong to these topics: those of lost ranges, then those
/// of frames, which follow the lost ranges.
fn parts_for(job: &Job, topics: &[Topic]) -> Vec<usize> {
    let topics_of_parts =
        job.lost.iter().map(|lost| &lost.topic).chain(job.frames.iter().map(Frame::topic));
    topics_of_parts
        .enumerate()
        .filter(|(_, topic)| topics.binary_search(topic).is_ok())
        .map(|(index, _)| index)
        .collect()
}
