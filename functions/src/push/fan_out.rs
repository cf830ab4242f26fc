//! The fan-out: connections with the same topics form a group and are sent the same messages.

use std::{collections::HashMap, sync::Arc};

use domain::{connection::Recipient, outlet::OutletError};
use futures_util::{StreamExt as _, stream};

use super::{
    budget::Budget,
    message::{Message, messages},
    pusher::Pusher,
    segment::Segment,
    view::Share,
};

/// Number of groups that are posted to concurrently.
const CONCURRENCY: usize = 64;

/// Most recipients of one call of the outlet. If it does not end before the deadline, the results of
/// the whole call are unknown.
const CHUNK: usize = 4_096;

/// A connection of a group that was not sent all messages.
pub(super) struct Unserved {
    pub(super) recipient: Recipient,
    /// The messages from the first one that it may not have.
    pub(super) messages: Arc<Vec<Message>>,
    pub(super) from: usize,
    /// Why it did not accept that message; `None` if the job ended before its turn.
    pub(super) error: Option<OutletError>,
}

impl Pusher {
    /// Sends each group the segments of its topics. Returns the connections that were not sent all of
    /// them.
    pub(super) async fn fan_out(
        &self,
        shares: Vec<Share>,
        segments: &[Segment],
        budget: &Budget,
    ) -> Vec<Unserved> {
        let mut made: HashMap<Vec<usize>, Arc<Vec<Message>>> = HashMap::new();
        let mut posts = Vec::with_capacity(shares.len());
        for share in shares {
            let messages = made.entry(share.segments).or_insert_with_key(|chosen| {
                let pieces = chosen.iter().flat_map(|index| &segments[*index].pieces);
                Arc::new(messages(pieces))
            });
            posts.push(self.post_to_group(share.members, messages.clone(), budget));
        }
        let unserved: Vec<Vec<Unserved>> =
            stream::iter(posts).buffer_unordered(CONCURRENCY).collect().await;
        unserved.into_iter().flatten().collect()
    }

    async fn post_to_group(
        &self,
        members: Arc<Vec<Recipient>>,
        messages: Arc<Vec<Message>>,
        budget: &Budget,
    ) -> Vec<Unserved> {
        let mut unserved = Vec::new();
        let mut remaining: Option<Vec<Recipient>> = None;
        for (from, message) in messages.iter().enumerate() {
            let recipients = remaining.as_deref().unwrap_or(&members);
            let mut rejected: HashMap<usize, Option<OutletError>> = HashMap::new();
            for (index, chunk) in recipients.chunks(CHUNK).enumerate() {
                let start = index * CHUNK;
                let count = budget.take(chunk.len());
                let posted = self.outlet.post(&chunk[..count], message.bytes.clone());
                match budget.run(posted).await {
                    Some(errors) => {
                        rejected
                            .extend(errors.into_iter().map(|(n, error)| (start + n, Some(error))));
                    }
                    None => rejected.extend((0..count).map(|n| (start + n, None))),
                }
                rejected.extend((count..chunk.len()).map(|n| (start + n, None)));
            }
            if rejected.is_empty() {
                continue;
            }
            let mut kept = Vec::with_capacity(recipients.len() - rejected.len());
            for (index, recipient) in recipients.iter().enumerate() {
                let recipient = recipient.clone();
                match rejected.remove(&index) {
                    None => kept.push(recipient),
                    Some(error) => {
                        let messages = messages.clone();
                        unserved.push(Unserved { recipient, messages, from, error });
                    }
                }
            }
            remaining = Some(kept);
        }
        unserved
    }
}
