//! Settling: records the positions of posts in the log, and replaces posts that were edited or deleted.

use std::time::Duration;

use aws::{control::Control, error::StoreError, log::Log};
use domain::{backoff::Backoff, chain::Chain, topic::Topic};
use jiff::Timestamp;
use tokio::time;
use tracing::error;

use super::queue::Appended;
use crate::outgoing::{Outgoing, Role};

/// Most attempts to settle a post.
const ATTEMPTS: u32 = 8;

/// Keeps the recorded positions of posts up to date.
pub(super) struct Settler {
    log: Log,
    control: Control,
}

impl Settler {
    /// Makes a settler of this log.
    pub(super) fn new(log: Log, control: Control) -> Self {
        Self { log, control }
    }

    /// Settles all posts that were appended.
    pub(super) async fn settle(&self, appended: &Appended) {
        let topic = &appended.topic;
        for (seq, event) in &appended.posts {
            let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
            for attempt in 1..=ATTEMPTS {
                match self.settle_post(topic, *seq, event).await {
                    Ok(()) => break,
                    Err(error) if attempt == ATTEMPTS => {
                        error!(%topic, seq, error = %Chain(&error), "could not update the position of a post in the log; a later edit or delete will not replace it");
                    }
                    Err(_) => {
                        let delay = backoff.next_delay(&mut rand::rng());
                        time::sleep(delay).await;
                    }
                }
            }
        }
    }

    async fn settle_post(
        &self,
        topic: &Topic,
        seq: u64,
        event: &Outgoing,
    ) -> Result<(), StoreError> {
        let (uri, replaces, stays) = match &event.role {
            Role::Posted(uri) => (uri, false, true),
            Role::Edited(uri) => (uri, true, true),
            Role::Deleted(uri) => (uri, true, false),
            Role::Plain | Role::Snapshot => return Ok(()),
        };
        let now = Timestamp::now();
        let mut places = self.control.places(uri, topic).await?;
        if replaces {
            for place in places.iter().filter(|place| **place != seq) {
                self.log.supersede(topic, *place, &event.json, now).await?;
            }
        }
        if stays && !places.contains(&seq) {
            places.push(seq);
            let expires_at = now + self.log.retention();
            self.control.place(uri, topic, &places, expires_at).await?;
        }
        Ok(())
    }
}
