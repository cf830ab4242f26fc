//! Public posts of Mastodon servers, and of other software with the same interface.
//!
//! With a user's token, a server is streamed. Without one, its public timeline is polled, if the
//! server shows it to everyone. The [`Timeline`] decides which updates become events. All servers
//! share it, so that a post from several servers is published once.
//!
//! Only public posts are forwarded, and no posts of authors who ask not to be collected (`optout`).
//! If a server deletes a post, it is deleted on its topics and in the log.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use aws::{
    control::{
        Control,
        posts::{RecentStatus, Remembered},
    },
    error::StoreError,
    log::LoggedPost,
};
use domain::{
    backoff::Backoff,
    chain::Chain,
    clock::Clock,
    source::State,
    topic::{Topic, TopicKind},
};
use futures_util::{StreamExt, future::BoxFuture, stream::unfold};
use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use rand::RngExt;
use secrecy::SecretString;
use tokio::{
    sync::mpsc,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info_span, warn};
use url::Url;

mod api;
mod fill;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod fuzz;
mod html;
mod instance;
mod normalize;
mod optout;
mod poll;
mod recheck;
mod session;
mod size;
mod snowflake;
#[cfg(test)]
mod stand_in;
mod status;
mod stream;
mod timeline;

pub use timeline::Timeline;

use self::{
    api::Api,
    instance::Way,
    normalize::ServerName,
    recheck::Recheck,
    session::{Gap, Out, Position, SessionEnd, SessionEvent, Unexpected},
    status::Update,
    timeline::{Found, Ignored, Lookup, Outcome, Remember, ServerUpdate},
};
use crate::{
    feed::Feed,
    host::host_of,
    outgoing::{Outgoing, StatusRecord},
    outside::Outside,
    source::Source,
    wanted::Wanted,
};

/// First and longest wait between two attempts, before jitter.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// First and longest wait after the database failed. Everything that the server sends waits meanwhile.
const DATABASE_BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// Wait after the server rejected us. A retry fails until someone changes its settings or ours.
const REJECTED: Duration = Duration::from_mins(10);
/// Number of failed attempts in a row after which a server counts as down.
const ATTEMPTS: u32 = 3;
/// If a topic becomes wanted within this time after the start, it was probably wanted before, so
/// missed posts are fetched.
const RESUME: Duration = Duration::from_secs(15);
/// Most posts from before a gap that are checked.
const CHECKED: usize = 200;
/// Longest time between the publication of these posts and that of the last one before the gap.
const CHECKED_SINCE: Duration = Duration::from_hours(1);
/// Most events of a session that are pending. Beyond it, reading from the server pauses.
const QUEUE: usize = 1024;
/// Most writes to the database in flight.
const WRITES: usize = 16;
/// How often the ignored messages are logged.
const TALLY: Duration = Duration::from_mins(1);

/// One server.
pub struct Mastodon {
    name: String,
    topic: Option<Topic>,
    api: Api,
    has_token: bool,
    clock: Clock,
    timeline: Arc<Mutex<Timeline>>,
    server: Mutex<Arc<ServerName>>,
    /// The posts that are checked, if the server is polled.
    recheck: Mutex<Recheck>,
}

/// Why a source cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum MastodonError {
    /// The URL is not one of a server.
    #[error("{0} is not the http or https URL of a server")]
    NoHost(Url),
}

impl Mastodon {
    /// Makes the source of the server at `base`, with or without a user's token.
    ///
    /// # Errors
    ///
    /// [`MastodonError`] when the URL is invalid.
    pub fn new(
        base: Url,
        token: Option<SecretString>,
        timeline: Arc<Mutex<Timeline>>,
        outside: Outside,
    ) -> Result<Self, MastodonError> {
        if !base.has_host() || !matches!(base.scheme(), "http" | "https") {
            return Err(MastodonError::NoHost(base));
        }
        let name = host_of(&base);
        let server = ServerName { host: name.as_str().into(), domain: name.clone() };
        let has_token = token.is_some();
        Ok(Self {
            topic: Topic::mastodon_server(&name),
            name,
            clock: outside.clock.clone(),
            api: Api::new(base, token, outside),
            has_token,
            timeline,
            server: Mutex::new(Arc::new(server)),
            recheck: Mutex::default(),
        })
    }

    /// Reads the server whenever one of its topics is wanted.
    async fn read(&self, feed: &Feed, shutdown: &CancellationToken) {
        self.timeline().begin(self.clock.now(), feed.term());
        let started = Instant::now();
        let mut wanted = feed.wanted();
        loop {
            if !self.concerns(&wanted.borrow()) {
                feed.report(State::Live, "idle: nothing is wanted");
            }
            let becoming_wanted = wanted.wait_for(|wanted| self.concerns(wanted));
            let is_wanted =
                matches!(shutdown.run_until_cancelled(becoming_wanted).await, Some(Ok(_)));
            if !is_wanted {
                return;
            }
            let resumes = started.elapsed() < RESUME;
            let position = if resumes { self.last_published(feed).await } else { None };
            let stop = shutdown.child_token();
            let (events, received) = mpsc::channel(QUEUE);
            let (remember, remembered) = mpsc::channel(QUEUE);
            let stop_if_unwanted = async {
                let unwanted = wanted.wait_for(|wanted| !self.concerns(wanted));
                // The session ends in either case.
                let _ = stop.run_until_cancelled(unwanted).await;
                stop.cancel();
            };
            tokio::join!(
                self.keep_reading(Out::new(events, self.clock.clone(), position), feed, &stop),
                self.forward(received, feed, remember),
                self.remember(remembered, feed.control()),
                stop_if_unwanted,
            );
        }
    }

    /// Returns whether posts of this server can belong to one of the topics.
    fn concerns(&self, wanted: &Wanted) -> bool {
        wanted.iter().any(|topic| match topic.kind() {
            TopicKind::Public | TopicKind::Tag | TopicKind::Lang => true,
            TopicKind::Server => Some(topic) == self.topic.as_ref(),
            TopicKind::Ticker | TopicKind::Matches | TopicKind::Level2 | TopicKind::System => false,
        })
    }

    /// Returns the position up to which an earlier process published this server's posts.
    async fn last_published(&self, feed: &Feed) -> Option<Position> {
        let statuses = self.newest_statuses(feed).await;
        let (id, at) = statuses.into_iter().max_by_key(|(_, at)| *at)?;
        Some(Position { at, id: Some(id) })
    }

    /// Returns the newest statuses of this server that were published by any process, and when. Retries until
    /// the database responds: otherwise, deletes that nobody has received would be forgotten.
    async fn newest_statuses(&self, feed: &Feed) -> Vec<(String, Timestamp)> {
        let kept = self.timeline().remembered_for();
        let mut backoff = Backoff::new(DATABASE_BACKOFF.0, DATABASE_BACKOFF.1);
        loop {
            match feed.control().newest_statuses(&self.name, CHECKED).await {
                Ok(statuses) => {
                    let at = |status: RecentStatus| (status.id, status.expires_at - kept);
                    return statuses.into_iter().map(at).collect();
                }
                Err(error) => {
                    warn!(error = %Chain(&error), "could not read which posts were published; retrying");
                    let delay = backoff.next_delay();
                    time::sleep(delay).await;
                }
            }
        }
    }

    async fn keep_reading(&self, mut out: Out, feed: &Feed, stop: &CancellationToken) {
        if out.send(SessionEvent::State(State::Connecting, String::new())).await.is_err() {
            return;
        }
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        let mut useless = 0;
        while !stop.is_cancelled() {
            let before = out.forwarded;
            let ended = match self.session(&mut out, feed, stop).await {
                Ok(ended) | Err(ended) => ended,
            };
            // A connection is not enough: a server that only accepts it must not reset the backoff.
            if out.forwarded > before {
                backoff.reset();
                useless = 0;
            }
            useless += 1;
            let detail = Chain(&ended).to_string();
            let jitter = rand::rng().random_range(1.0..1.25);
            let (state, wait) = match ended {
                SessionEnd::Stopped => return,
                SessionEnd::Rejected(_) => (State::Down, REJECTED.mul_f64(jitter)),
                SessionEnd::RateLimited(wait) => (State::Connecting, wait.mul_f64(jitter)),
                SessionEnd::Api(_)
                | SessionEnd::Socket(_)
                | SessionEnd::Closed
                | SessionEnd::Silent(_) => {
                    let state = if useless < ATTEMPTS { State::Connecting } else { State::Down };
                    (state, backoff.next_delay())
                }
            };
            debug!(detail, wait_ms = wait.as_millis(), "session ended");
            if out.send(SessionEvent::State(state, detail)).await.is_err() {
                return;
            }
            stop.run_until_cancelled(time::sleep(wait)).await;
        }
    }

    /// Determines how the server can be read, and reads it.
    async fn session(
        &self,
        out: &mut Out,
        feed: &Feed,
        stop: &CancellationToken,
    ) -> Result<SessionEnd, SessionEnd> {
        let instance =
            stop.run_until_cancelled(self.api.instance()).await.ok_or(SessionEnd::Stopped)??;
        let host: Arc<str> = self.name.as_str().into();
        *self.server.lock() = Arc::new(ServerName { host, domain: instance.domain.clone() });
        // Nobody has received the edits and deletes since the last session, which can be that of another process.
        let reading = stop.run_until_cancelled(self.newest_statuses(feed));
        let statuses = reading.await.ok_or(SessionEnd::Stopped)?;
        let newest = statuses.iter().map(|(_, at)| *at).max();
        let recent = |at: &Timestamp| newest.is_some_and(|newest| *at >= newest - CHECKED_SINCE);
        let statuses = statuses.into_iter().filter(|(_, at)| recent(at)).map(|(id, _)| id);
        let mut check: Vec<String> = Vec::new();
        for id in out.recent.iter().cloned().chain(statuses) {
            if !check.contains(&id) {
                check.push(id);
            }
        }
        check.truncate(CHECKED);
        let gap = Gap { since: out.position.clone(), check };
        match instance.way(self.has_token) {
            Way::Stream { url, checked } => {
                // An administrator can allow an account to read a feed that is disabled for others.
                if !checked && self.api.page(instance::Part::Whole, None).await?.len == 0 {
                    return Err(SessionEnd::Rejected(instance::DISABLED.to_owned()));
                }
                Ok(stream::session(&self.api, &url, &gap, out, stop).await)
            }
            Way::Poll(part) => {
                let is_held = |id: &str| self.timeline().is_published(&self.name, id);
                Ok(poll::session(&self.api, part, &gap, out, stop, &self.recheck, is_held).await)
            }
            Way::None(why) => Err(SessionEnd::Rejected(why.to_owned())),
        }
    }

    /// Handles the events of a session, and publishes the results.
    async fn forward(
        &self,
        mut events: mpsc::Receiver<SessionEvent>,
        feed: &Feed,
        remember: mpsc::Sender<Arc<StatusRecord>>,
    ) {
        let mut tally = Tally::default();
        while let Some(event) = events.recv().await {
            match event {
                SessionEvent::State(state, detail) => feed.report(state, detail),
                SessionEvent::Unexpected(kind) => *tally.unexpected.entry(kind).or_default() += 1,
                SessionEvent::Update(update) => {
                    let (why, record) = self.take(update, feed).await;
                    if let Some(why) = why {
                        *tally.ignored.entry(why).or_default() += 1;
                    }
                    if let Some(record) = record {
                        // The receiver exists as long as this task.
                        let _ = remember.send(record).await;
                    }
                }
            }
            tally.log();
        }
    }

    async fn take(
        &self,
        update: Update,
        feed: &Feed,
    ) -> (Option<Ignored>, Option<Arc<StatusRecord>>) {
        let server = self.server.lock().clone();
        // Milliseconds are precise enough, and keep the events short.
        let now = self.clock.now();
        let at = Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now);
        let received = ServerUpdate { server, at, update };
        let wanted = feed.wanted().borrow().clone();
        let expires_at = now + self.timeline().remembered_for();
        let record = |remember: Remember| {
            let Remember { server, id, uri, topics } = remember;
            let remembered = Remembered { uri: uri.to_string(), topics };
            Arc::new(StatusRecord::new(server, id, remembered, expires_at))
        };
        // Publishes under the lock, so that other updates of the same post are published later.
        let publish = |effects: timeline::Effects| {
            let record = effects.remember.map(record);
            // The record of what is published is stored before that is appended.
            let is_unpublished = effects.publish.is_empty();
            for (topic, outgoing) in effects.publish {
                let outgoing = Outgoing { status: record.clone(), ..outgoing };
                feed.publish(&topic, outgoing);
            }
            (effects.ignored, record.filter(|_| is_unpublished))
        };
        let lookup = {
            let mut timeline = self.timeline();
            match timeline.take(&received, &wanted) {
                Outcome::Done(effects) => return publish(effects),
                Outcome::Ask(lookup) => lookup,
            }
        };
        let found = look_up(feed, lookup, &received.update).await;
        let mut timeline = self.timeline();
        let effects = timeline.recall(&received, found, &wanted);
        publish(effects)
    }

    /// Stores the statuses of posts that another server has published, so that a later process can delete and
    /// edit them.
    async fn remember(&self, records: mpsc::Receiver<Arc<StatusRecord>>, control: &Control) {
        let records = unfold(records, |mut records| async {
            records.recv().await.map(|record| (record, records))
        });
        let store = |record: Arc<StatusRecord>| async move {
            let mut backoff = Backoff::new(DATABASE_BACKOFF.0, DATABASE_BACKOFF.1);
            while let Err(error) = record.store(control).await {
                warn!(error = %Chain(&error), "could not store where a status was published; retrying");
                let delay = backoff.next_delay();
                time::sleep(delay).await;
            }
        };
        records.for_each_concurrent(WRITES, store).await;
    }

    fn timeline(&self) -> MutexGuard<'_, Timeline> {
        self.timeline.lock()
    }
}

impl Source for Mastodon {
    fn name(&self) -> &str {
        &self.name
    }

    fn run(&self, feed: Feed, shutdown: CancellationToken) -> BoxFuture<'_, ()> {
        let span = info_span!("upstream", upstream.name = self.name);
        Box::pin(async move { Box::pin(self.read(&feed, &shutdown)).await }.instrument(span))
    }
}

/// Counts of messages without effect since the last log line.
#[derive(Default)]
struct Tally {
    unexpected: BTreeMap<Unexpected, u64>,
    ignored: BTreeMap<Ignored, u64>,
    started_at: Option<Instant>,
}

impl Tally {
    /// Logs the counts, once a minute.
    fn log(&mut self) {
        let since = *self.started_at.get_or_insert_with(Instant::now);
        if since.elapsed() < TALLY {
            return;
        }
        if !self.unexpected.is_empty() {
            warn!(counts = ?self.unexpected, "received messages that are not about posts");
        }
        debug!(counts = ?self.ignored, "ignored updates");
        *self = Self::default();
    }
}

/// Looks up a post that an earlier process, or this one in an earlier term, may have published. Retries
/// while the database fails: otherwise a post could be published twice, and a delete forgotten.
async fn look_up(feed: &Feed, lookup: Lookup, update: &Update) -> Found {
    let mut backoff = Backoff::new(DATABASE_BACKOFF.0, DATABASE_BACKOFF.1);
    loop {
        match try_look_up(feed, &lookup, update).await {
            Ok(found) => return found,
            Err(error) => {
                warn!(error = %Chain(&error), "could not look up a post; retrying");
                let delay = backoff.next_delay();
                time::sleep(delay).await;
            }
        }
    }
}

async fn try_look_up(feed: &Feed, lookup: &Lookup, update: &Update) -> Result<Found, StoreError> {
    let Lookup { server, id, uri, topics } = lookup;
    let remembered = feed.control().status(server, id).await?;
    let mut found = Found { uri: uri.clone(), topics: BTreeSet::new() };
    let mut candidates = topics.clone();
    if let Some(remembered) = remembered {
        found.uri = Some(remembered.uri.into());
        candidates.extend(remembered.topics);
    }
    let Some(uri) = &found.uri else { return Ok(found) };
    match update {
        // The server is asked again for posts that are gone, and there is nothing more to delete.
        Update::Delete(_) => {
            for topic in candidates {
                if feed.post(&topic, uri).await? == Some(LoggedPost::Present) {
                    found.topics.insert(topic);
                }
            }
        }
        // Where a post was published is stored before it is appended, so only the log is certain.
        Update::Post(_) | Update::Edit(_) => {
            for topic in candidates {
                if feed.post(&topic, uri).await?.is_some() {
                    found.topics.insert(topic);
                }
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
