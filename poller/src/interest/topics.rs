//! The topics that have a subscriber, or had one until recently.

use std::{collections::BTreeMap, time::Duration};

use domain::topic::Topic;
use tokio::time::Instant;

/// How long a topic is still fetched after its last subscriber has left.
const LINGER: Duration = Duration::from_mins(1);

/// Topics, and when each last had a subscriber.
#[derive(Debug, Default)]
pub(super) struct RecentTopics(BTreeMap<Topic, Instant>);

impl RecentTopics {
    /// Notes the topics that have a subscriber, and removes those that had none for a while.
    pub(super) fn see<'a>(&mut self, topics: impl Iterator<Item = &'a Topic>, now: Instant) {
        for topic in topics {
            match self.0.get_mut(topic) {
                Some(seen) => *seen = now,
                None => {
                    self.0.insert(topic.clone(), now);
                }
            }
        }
        self.0.retain(|_, seen| now.duration_since(*seen) < LINGER);
    }

    /// Returns the topics.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Topic> {
        self.0.keys()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_topic_is_fetched_for_a_minute_after_its_last_subscriber() {
        let topic = |name: &str| Topic::mastodon_tag(name).expect("a topic");
        let left = topic("left");
        let stays = topic("stays");
        let mut recent = RecentTopics::default();
        recent.see([&left, &stays].into_iter(), Instant::now());
        time::advance(LINGER.saturating_sub(Duration::from_millis(1))).await;
        recent.see([&stays].into_iter(), Instant::now());
        assert_eq!(recent.iter().collect::<Vec<_>>(), [&left, &stays]);
        time::advance(Duration::from_millis(1)).await;
        recent.see([&stays].into_iter(), Instant::now());
        assert_eq!(recent.iter().collect::<Vec<_>>(), [&stays]);
        time::advance(LINGER).await;
        recent.see([&left].into_iter(), Instant::now());
        assert_eq!(recent.iter().collect::<Vec<_>>(), [&left], "a subscriber came back");
    }
}
