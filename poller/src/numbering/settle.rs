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
