//! Public posts of Mastodon servers and of others that speak its interface.
//!
//! With a user's token a server is streamed, without one its public timeline is polled where it
//! shows that to everybody. The [`Timeline`] decides what of it is an event, and is shared by all
//! servers, so that a post that several of them tell of is published once.
//!
//! Only public posts are forwarded, and none of authors who ask not to be collected (`optout`).
//! What a server deletes is deleted here: from the topics, and by them from the log.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws::{
    control::{Control, Remembered, State},
    error::Chain,
};
use domain::topic::{Topic, TopicKind};
use futures_util::{StreamExt, future::BoxFuture, stream::unfold};
use jiff::Timestamp;
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
mod html;
mod instance;
mod normalise;
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
    normalise::Origin,
    session::{Cursor, Ended, Gap, Out, Said, Stray},
    status::Told,
    timeline::{Answer, Heard, Ignored, Outcome, Question, Remember},
};
use crate::{backoff::Backoff, feed::Feed, host::host_of, source::Source, wanted::Wanted};

/// Shortest and longest bound of the wait between two attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// Wait after a refusal that lasts until somebody changes something.
const REFUSED: Duration = Duration::from_mins(10);
/// Attempts in a row without use, after which a server counts as down.
const ATTEMPTS: u32 = 3;
/// Wishes that come so soon after the start stood before it, so what was missed since is fetched.
const RESUME: Duration = Duration::from_secs(15);
/// Most posts from before a gap that are asked for again.
const CHECKED: usize = 200;
/// How long before a gap those were published.
const CHECKED_SINCE: Duration = Duration::from_hours(1);
/// What waits to be taken in; beyond it the server is read no further.
const QUEUE: usize = 1024;
/// Writes to the database at once.
const WRITES: usize = 16;
/// How often is told what was ignored.
const TALLY: Duration = Duration::from_mins(1);

/// A server.
pub struct Mastodon {
    name: String,
    topic: Option<Topic>,
    api: Api,
    has_token: bool,
    user_agent: String,
    timeline: Arc<Mutex<Timeline>>,
    origin: Mutex<Arc<Origin>>,
}

/// Why there can be no such source.
#[derive(Debug, thiserror::Error)]
pub enum MastodonError {
    /// The URL names no server.
    #[error("{0} is not the http or https URL of a server")]
    NoHost(Url),
    /// The HTTP client cannot be made.
    #[error("no HTTP client can be made")]
    Client(#[source] reqwest::Error),
}

impl Mastodon {
    /// The server at `base`, read with a user's token or without, as `user_agent`.
    ///
    /// # Errors
    ///
    /// [`MastodonError`] when there can be no such source.
    pub fn new(
        base: Url,
        token: Option<SecretString>,
        user_agent: &str,
        timeline: Arc<Mutex<Timeline>>,
    ) -> Result<Self, MastodonError> {
        if !base.has_host() || !matches!(base.scheme(), "http" | "https") {
            return Err(MastodonError::NoHost(base));
        }
        let name = host_of(&base);
        let origin = Origin { host: name.as_str().into(), domain: name.clone() };
        let has_token = token.is_some();
        Ok(Self {
            topic: Topic::mastodon_server(&name),
            name,
            api: Api::new(base, token, user_agent).map_err(MastodonError::Client)?,
            has_token,
            user_agent: user_agent.to_owned(),
            timeline,
            origin: Mutex::new(Arc::new(origin)),
        })
    }

    /// Reads the server whenever somebody wants something of it.
    async fn read(&self, feed: &Feed, shutdown: &CancellationToken) {
        self.timeline().begin(Timestamp::now());
        let started = Instant::now();
        let mut wanted = feed.wanted();
        loop {
            if !self.concerns(&wanted.borrow()) {
                feed.report(State::Live, "idle: nothing is wanted");
            }
            let wish = wanted.wait_for(|wanted| self.concerns(wanted));
            let is_wanted = matches!(shutdown.run_until_cancelled(wish).await, Some(Ok(_)));
            if !is_wanted {
                return;
            }
            let resumes = started.elapsed() < RESUME;
            let cursor = if resumes { self.last_heard(feed).await } else { None };
            let stop = shutdown.child_token();
            let (said, heard) = mpsc::channel(QUEUE);
            let (remember, remembered) = mpsc::channel(QUEUE);
            let let_go = async {
                let unwanted = wanted.wait_for(|wanted| !self.concerns(wanted));
                // Either way it is over.
                let _ = stop.run_until_cancelled(unwanted).await;
                stop.cancel();
            };
            tokio::join!(
                self.keep_reading(Out::new(said, cursor), &stop),
                self.forward(heard, feed, remember),
                self.remember(remembered, feed.control()),
                let_go,
            );
        }
    }

    /// Whether some of the topics can have posts of this server.
    fn concerns(&self, wanted: &Wanted) -> bool {
        wanted.iter().any(|topic| match topic.kind() {
            TopicKind::Public | TopicKind::Tag | TopicKind::Lang => true,
            TopicKind::Server => Some(topic) == self.topic.as_ref(),
            TopicKind::Ticker | TopicKind::Matches | TopicKind::Level2 | TopicKind::System => false,
        })
    }

    /// Up to where an earlier process has told of this server.
    async fn last_heard(&self, feed: &Feed) -> Option<Cursor> {
        for topic in self.topic.iter().chain([&Topic::mastodon_public()]) {
            match feed.newest(topic).await {
                Ok(Some(frame)) => return Some(Cursor { at: frame.at(), id: None }),
                Ok(None) => {}
                Err(error) => warn!(error = %Chain(&error), "the log cannot be read"),
            }
        }
        None
    }

    async fn keep_reading(&self, mut out: Out, stop: &CancellationToken) {
        if out.say(Said::State(State::Connecting, String::new())).await.is_err() {
            return;
        }
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        let mut useless = 0;
        while !stop.is_cancelled() {
            let before = out.told;
            let ended = match self.session(&mut out, stop).await {
                Ok(ended) | Err(ended) => ended,
            };
            // A connection is not health: a server that accepts and hangs up must not reset us.
            if out.told > before {
                backoff.reset();
                useless = 0;
            }
            useless += 1;
            let detail = Chain(&ended).to_string();
            let jitter = rand::rng().random_range(1.0..1.25);
            let (state, wait) = match ended {
                Ended::Stopped => return,
                Ended::Refused(_) => (State::Down, REFUSED.mul_f64(jitter)),
                Ended::Limited(wait) => (State::Connecting, wait.min(REFUSED).mul_f64(jitter)),
                Ended::Api(_) | Ended::Socket(_) | Ended::Closed | Ended::Silent(_) => {
                    let state = if useless < ATTEMPTS { State::Connecting } else { State::Down };
                    (state, backoff.next_delay(&mut rand::rng()))
                }
            };
            debug!(detail, wait_ms = wait.as_millis(), "session ended");
            if out.say(Said::State(state, detail)).await.is_err() {
                return;
            }
            stop.run_until_cancelled(time::sleep(wait)).await;
        }
    }

    /// Asks the server how it can be read, and reads it.
    async fn session(&self, out: &mut Out, stop: &CancellationToken) -> Result<Ended, Ended> {
        let instance =
            stop.run_until_cancelled(self.api.instance()).await.ok_or(Ended::Stopped)??;
        let host: Arc<str> = self.name.as_str().into();
        *self.origin.lock().unwrap_or_else(PoisonError::into_inner) =
            Arc::new(Origin { host, domain: instance.domain.clone() });
        let check = out
            .cursor
            .as_ref()
            .map(|cursor| self.timeline().recent(&self.name, cursor.at - CHECKED_SINCE, CHECKED));
        let gap = Gap { since: out.cursor.clone(), check: check.unwrap_or_default() };
        match instance.way(self.has_token) {
            Way::Stream { url, checked } => {
                // An administrator can let an account read what is off for others.
                if !checked && self.api.page(instance::Part::Whole, None).await?.len == 0 {
                    return Err(Ended::Refused(instance::DISABLED.to_owned()));
                }
                Ok(stream::session(&self.api, &url, &self.user_agent, &gap, out, stop).await)
            }
            Way::Poll(part) => {
                let is_held = |id: &str| self.timeline().is_published(&self.name, id);
                Ok(poll::session(&self.api, part, &gap, out, stop, is_held).await)
            }
            Way::None(why) => Err(Ended::Refused(why.to_owned())),
        }
    }

    /// Takes in what sessions say, and publishes what follows.
    async fn forward(
        &self,
        mut said: mpsc::Receiver<Said>,
        feed: &Feed,
        remember: mpsc::Sender<Remember>,
    ) {
        let mut tally = Tally::default();
        while let Some(said) = said.recv().await {
            match said {
                Said::State(state, detail) => feed.report(state, detail),
                Said::Stray(stray) => *tally.strays.entry(stray).or_default() += 1,
                Said::Told(told) => {
                    let (why, record) = self.take(told, feed).await;
                    if let Some(why) = why {
                        *tally.ignored.entry(why).or_default() += 1;
                    }
                    if let Some(record) = record {
                        // The other side lives as long as this one.
                        let _ = remember.send(record).await;
                    }
                }
            }
            tally.tell();
        }
    }

    async fn take(&self, told: Told, feed: &Feed) -> (Option<Ignored>, Option<Remember>) {
        let origin = self.origin.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Its digits beyond milliseconds would tell nobody anything.
        let now = Timestamp::now();
        let at = Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now);
        let heard = Heard { origin, at, told };
        let wanted = feed.wanted().borrow().clone();
        // Published under the lock: what another server tells of the same post must come after.
        let publish = |effects: timeline::Effects| {
            for (topic, outgoing) in effects.publish {
                feed.publish(&topic, outgoing);
            }
            (effects.ignored, effects.remember)
        };
        let question = {
            let mut timeline = self.timeline();
            match timeline.take(&heard, &wanted) {
                Outcome::Done(effects) => return publish(effects),
                Outcome::Ask(question) => question,
            }
        };
        let answer = answer(feed.control(), question).await;
        let mut timeline = self.timeline();
        let effects = timeline.recall(&heard, answer, &wanted);
        publish(effects)
    }

    /// Stores where statuses went, so that a later process can delete and edit them.
    async fn remember(&self, records: mpsc::Receiver<Remember>, control: &Control) {
        let kept = self.timeline().remembered_for();
        let records = unfold(records, |mut records| async {
            records.recv().await.map(|record| (record, records))
        });
        let store = |record: Remember| async move {
            let Remember { server, id, uri, topics } = record;
            let remembered = Remembered { uri: uri.to_string(), topics };
            let expires_at = Timestamp::now() + kept;
            let stored = control.remember_status(&server, &id, &remembered, expires_at).await;
            if let Err(error) = stored {
                warn!(error = %Chain(&error), "status not remembered");
            }
        };
        records.for_each_concurrent(WRITES, store).await;
    }

    fn timeline(&self) -> MutexGuard<'_, Timeline> {
        self.timeline.lock().unwrap_or_else(PoisonError::into_inner)
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

/// What was heard and led to nothing, since it was last told.
#[derive(Default)]
struct Tally {
    strays: BTreeMap<Stray, u64>,
    ignored: BTreeMap<Ignored, u64>,
    told: Option<Instant>,
}

impl Tally {
    /// Tells it, once a minute.
    fn tell(&mut self) {
        let since = *self.told.get_or_insert_with(Instant::now);
        if since.elapsed() < TALLY {
            return;
        }
        if !self.strays.is_empty() {
            warn!(counts = ?self.strays, "messages that say nothing of posts");
        }
        debug!(counts = ?self.ignored, "ignored");
        *self = Self::default();
    }
}

/// Looks up what an earlier process published. Without a database nothing is known to be.
async fn answer(control: &Control, question: Question) -> Answer {
    let mut answer = Answer { uri: question.uri, topics: question.topics.clone() };
    answer.topics.clear();
    match control.status(&question.server, &question.id).await {
        Ok(Some(remembered)) => {
            answer.uri = Some(remembered.uri.into());
            answer.topics = remembered.topics;
        }
        Ok(None) => {}
        Err(error) => warn!(error = %Chain(&error), "status not looked up"),
    }
    let Some(uri) = answer.uri.clone() else { return answer };
    for topic in question.topics {
        if answer.topics.contains(&topic) {
            continue;
        }
        match control.is_placed(&uri, &topic).await {
            Ok(true) => {
                answer.topics.insert(topic);
            }
            Ok(false) => {}
            Err(error) => warn!(error = %Chain(&error), "post not looked up"),
        }
    }
    answer
}

#[cfg(test)]
mod tests;
