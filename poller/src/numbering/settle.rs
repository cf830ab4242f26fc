//! Settling: replaces posts in the log that were edited or deleted.
//!
//! The places of a post are recorded before it is appended, and an edit or a delete is recorded as
//! pending. So whatever is killed, the next leader knows what the log still needs.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use aws::{
    control::{Control, posts::Pending},
    error::StoreError,
    log::Log,
};
use domain::{backoff::Backoff, chain::Chain, clock::Clock, topic::Topic};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::{
    task::{JoinError, JoinSet},
    time::{self, Instant},
};
use tracing::warn;

use crate::outgoing::{Outgoing, Role};

/// Most writes to `control` in flight for one entry.
const WRITES_AT_ONCE: usize = 16;

/// First and longest delay before a change is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// A post on a topic.
type Key = (Topic, String);

/// Carries out edits and deletes.
pub(super) struct Settler {
    log: Log,
    control: Control,
    clock: Clock,
    /// The changes that are being carried out; the newest for each post.
    running: Mutex<HashMap<Key, Pending>>,
    tasks: Mutex<JoinSet<()>>,
}

impl Settler {
    /// Makes a settler of this log.
    pub(super) fn new(log: Log, control: Control, clock: Clock) -> Self {
        Self { log, control, clock, running: Mutex::default(), tasks: Mutex::default() }
    }

    /// Records what is needed to change the posts among these events later, before they are appended.
    pub(super) async fn prepare<'a>(
        &self,
        topic: &'a Topic,
        events: impl Iterator<Item = (u64, &'a Outgoing)>,
    ) -> Result<(), StoreError> {
        let expires_at = self.expiry();
        let writes = events.filter(|(_, event)| event.role.uri().is_some());
        let writes = writes.map(|(seq, event)| async move {
            if let Some(status) = &event.status {
                status.store(&self.control).await?;
            }
            match &event.role {
                Role::Plain | Role::Snapshot | Role::Deleted(_) | Role::Lost(_) => {}
                Role::Posted(uri) | Role::Edited(uri) => {
                    self.control.place(uri, topic, seq, expires_at).await?;
                }
            }
            match pending(topic, event) {
                Some(pending) => self.control.put_pending(&pending, expires_at).await,
                None => Ok(()),
            }
        });
        stream::iter(writes.collect::<Vec<_>>())
            .buffer_unordered(WRITES_AT_ONCE)
            .try_collect()
            .await
    }

    /// Records a delete whose event was dropped. Retries until that is done. The leader carries it out
    /// later: its post may be in an append that has not been resolved.
    pub(super) fn spill(self: &Arc<Self>, topic: &Topic, event: &Outgoing) {
        let Some(pending) = pending(topic, event) else { return };
        let settler = self.clone();
        self.spawn(async move {
            let expires_at = settler.expiry();
            let record = || settler.control.put_pending(&pending, expires_at);
            settler.retry(&pending, record).await;
        });
    }

    /// Carries out an edit or a delete that was appended. Retries until that is done.
    pub(super) fn settle(self: &Arc<Self>, topic: &Topic, event: &Outgoing) {
        if let Some(pending) = pending(topic, event) {
            self.start(pending);
        }
    }

    /// Returns the changes on a family's topics that the log still needs.
    pub(super) async fn pending(&self, family: &str) -> Result<Vec<Pending>, StoreError> {
        self.control.pending(family).await
    }

    /// Carries out a change, unless a later one of the same post is being carried out.
    pub(super) fn start(self: &Arc<Self>, pending: Pending) {
        let key = (pending.topic.clone(), pending.uri.clone());
        let is_running = match self.running.lock().entry(key.clone()) {
            Entry::Occupied(mut running) => {
                if pending.deletes || !running.get().deletes {
                    running.insert(pending);
                }
                true
            }
            Entry::Vacant(vacant) => {
                vacant.insert(pending);
                false
            }
        };
        if !is_running {
            let settler = self.clone();
            self.spawn(async move { settler.run(key).await });
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.check();
        self.tasks.lock().spawn(task);
    }

    /// Panics if a task has. Otherwise nothing would carry out its change.
    pub(super) fn check(&self) {
        let mut tasks = self.tasks.lock();
        while let Some(ended) = tasks.try_join_next() {
            resume_panic(ended);
        }
    }

    /// Carries out the newest change of a post until there is none.
    async fn run(&self, key: Key) {
        loop {
            let Some(pending) = self.running.lock().get(&key).cloned() else { return };
            self.retry(&pending, || self.carry_out(&pending)).await;
            let mut running = self.running.lock();
            if running.get(&key) == Some(&pending) {
                running.remove(&key);
                return;
            }
        }
    }

    /// Replaces a post at all its places.
    async fn carry_out(&self, pending: &Pending) -> Result<(), StoreError> {
        let Pending { topic, uri, event, .. } = pending;
        let event = event.clone().into();
        for place in self.control.places(uri, topic).await? {
            self.log.supersede(topic, place, uri, &event).await?;
        }
        self.control.remove_pending(pending).await
    }

    /// Repeats an operation until it succeeds, or until the log no longer has the post.
    async fn retry<F: Future<Output = Result<(), StoreError>>>(
        &self,
        pending: &Pending,
        operation: impl Fn() -> F,
    ) {
        let started = Instant::now();
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        while let Err(error) = operation().await {
            warn!(topic = %pending.topic, error = %Chain(&error), "could not replace a post in the log; retrying");
            if started.elapsed() > self.log.retention() {
                return;
            }
            let delay = backoff.next_delay();
            time::sleep(delay).await;
        }
    }

    /// Returns when the log no longer has what it has at this time.
    fn expiry(&self) -> Timestamp {
        self.clock.now() + self.log.retention()
    }
}

/// Panics if a task has.
pub(super) fn resume_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

/// Returns the change that an event makes to the log.
fn pending(topic: &Topic, event: &Outgoing) -> Option<Pending> {
    let uri = event.role.uri().filter(|_| event.role.changes_the_log())?;
    Some(Pending {
        topic: topic.clone(),
        uri: uri.to_string(),
        deletes: matches!(event.role, Role::Deleted(_)),
        event: String::from_utf8_lossy(&event.json).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use aws::clients::{Clients, TableOptions};
    use domain::{entry::Entry as LogEntry, frame::Frame};
    use dynamo::{Engine, Storage};

    use super::*;

    const POST: &str = "https://a.example/1";
    const RETENTION: Duration = Duration::from_hours(1);

    fn now() -> Timestamp {
        "2026-11-22T10:00:00Z".parse().expect("a time")
    }

    /// A settler of a log that has one post, with the text `posted`.
    async fn settler() -> Arc<Settler> {
        let engine = Engine::inline(Storage::open(None).expect("a database"));
        let options = TableOptions { table_prefix: "test-".to_owned(), retention: RETENTION };
        let clock = Clock::new(now);
        let tables =
            Clients::from_config(engine.sdk_config()).tables_with_clock(&options, clock.clone());
        tables.create_missing().await.expect("tables");
        let topic = Topic::mastodon_public();
        let frame = Frame::new(topic.clone(), 1, now(), &[change("posted", false).event]);
        tables.log.append(&LogEntry::Frame(frame), None, now()).await.expect("appended");
        tables.control.place(POST, &topic, 1, now() + RETENTION).await.expect("placed");
        Arc::new(Settler::new(tables.log, tables.control, clock))
    }

    fn change(text: &str, deletes: bool) -> Pending {
        Pending {
            topic: Topic::mastodon_public(),
            uri: POST.to_owned(),
            deletes,
            event: format!(r#"{{"type":"post","id":"{POST}","text":"{text}"}}"#),
        }
    }

    #[tokio::test]
    async fn the_newest_change_of_a_post_counts_and_a_delete_is_final() {
        let cases = [
            ("two edits", vec![change("first", false), change("second", false)], "second"),
            ("an edit, then a delete", vec![change("edited", false), change("gone", true)], "gone"),
            ("a delete, then an edit", vec![change("gone", true), change("edited", false)], "gone"),
        ];
        for (case, changes, expected) in cases {
            let settler = settler().await;
            for change in changes {
                settler.start(change);
            }
            let tasks = std::mem::take(&mut *settler.tasks.lock());
            tasks.join_all().await;
            let topic = Topic::mastodon_public();
            let entries = settler.log.read(&topic, 1, 1, usize::MAX, now()).await;
            let entries = entries.expect("a log");
            let LogEntry::Frame(frame) = &entries[0] else { panic!("{entries:?}") };
            let text = String::from_utf8_lossy(frame.json()).into_owned();
            assert!(text.contains(expected), "case: {case}: {text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_tried_as_long_as_the_log_can_have_the_post() {
        let settler = settler().await;
        let started = Instant::now();
        let attempts = AtomicU32::new(0);
        let fails = || async {
            attempts.fetch_add(1, Ordering::Relaxed);
            Err(StoreError::Unavailable { operation: "PutItem", source: "a test".into() })
        };
        settler.retry(&change("edited", false), fails).await;
        let took = started.elapsed();
        assert!((RETENTION..RETENTION + Duration::from_secs(10)).contains(&took), "{took:?}");
        assert!(attempts.load(Ordering::Relaxed) > 100);
        assert_eq!(settler.expiry(), now() + RETENTION);
    }

    #[tokio::test]
    #[should_panic(expected = "a defect")]
    async fn a_panic_in_a_change_is_not_lost() {
        let settler = settler().await;
        settler.spawn(async { panic!("a defect") });
        tokio::task::yield_now().await;
        settler.check();
    }
}
