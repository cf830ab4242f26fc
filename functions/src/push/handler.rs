//! `push`: sends the frames of a job to the connections of a shard, one message to each.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use aws::{
    connections::{ConnectionError, Connections, Shard},
    error::{BoxError, Chain, StoreError},
    log::{Entry, Log},
    post::{Post, PostError, Recipient},
    push::{Job, Push, PushError, Report},
    tables::Tables,
};
use bytes::Bytes;
use domain::{
    frame::{self, Frame},
    protocol::{ErrorCode, GapReason, Reply},
    topic::Topic,
};
use futures_util::{StreamExt as _, future::BoxFuture, stream};
use jiff::Timestamp;
use tokio::sync::Mutex as AsyncMutex;
use tracing::{debug, info, instrument, warn};

use crate::{
    access::rules::{Rules, RulesError},
    app::Clock,
    push::view::{Aside, Over, View},
};

/// Groups that are posted to at the same time.
const GROUPS_AT_ONCE: usize = 64;

/// Most of the log that is read for a connection that joins, in compressed bytes.
const CATCH_UP_BYTES: usize = 4 * 1024 * 1024;

/// Connections whose subscriptions are ended at the same time.
const ENDS_AT_ONCE: usize = 64;

/// Why a job was not done.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The shard was never read and cannot be.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is not known what is permitted.
    #[error(transparent)]
    Rules(#[from] RulesError),
}

/// The function `push`, with the views that it keeps between invocations.
pub struct Pusher {
    connections: Connections,
    log: Log,
    post: Arc<dyn Post>,
    rules: Arc<Rules>,
    clock: Clock,
    views: Mutex<HashMap<Shard, Arc<AsyncMutex<View>>>>,
}

/// What the connections of a group did not take.
struct Failed {
    recipient: Recipient,
    error: PostError,
    /// Where in the job's frames for the group it stopped.
    from: usize,
}

/// Whether a connection was ended.
enum Ended {
    Yes,
    /// Its token is good for longer.
    NotYet,
    TryAgain,
}

/// Messages for all that want the same of a job.
struct Parcel {
    gaps: Vec<Bytes>,
    /// Each with the index of its first frame, among those chosen.
    messages: Vec<(usize, Bytes)>,
}

/// What was read from the log for one joining connection, for the next one that wants the same.
type Memo = HashMap<(Topic, u64, u64), Vec<Entry>>;

impl Pusher {
    /// A pusher that knows no connections yet.
    pub fn new(tables: &Tables, post: Arc<dyn Post>, rules: Arc<Rules>, clock: Clock) -> Self {
        Self {
            connections: tables.connections.clone(),
            log: tables.log.clone(),
            post,
            rules,
            clock,
            views: Mutex::default(),
        }
    }

    /// Does a job.
    ///
    /// # Errors
    ///
    /// [`JobError`]; doing the job again is fine.
    #[instrument(name = "push", skip_all, fields(shard = job.shard))]
    pub async fn handle(&self, job: Job) -> Result<Report, JobError> {
        let now = (self.clock)();
        let rules = self.rules.at_least(job.rules).await?;
        let view = {
            let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
            let view = views.entry(job.shard);
            view.or_insert_with(|| {
                let view = View::new(&self.connections, job.shard, rules.clone());
                Arc::new(AsyncMutex::new(view))
            })
            .clone()
        };
        let mut view = view.lock().await;
        view.refresh(&job.joined, rules, now).await?;

        let mut report = Report::default();
        let unfinished = self.end(&mut view, job.shard, &mut report, now).await;
        let failed = self.post_to_groups(&view, &job, &mut report).await;
        // Those that did not take theirs just now are not asked again within this job.
        let aside = view.aside();
        self.put_aside(&mut view, &job, failed, &mut report, now).await;
        let mut memo = Memo::new();
        for (recipient, topics) in aside {
            self.serve(&mut view, &job, &recipient, &topics, &mut memo, &mut report, now).await;
        }
        view.regroup();
        report.waiting = (view.waiting() + unfinished) as u64;
        Ok(report)
    }

    /// Ends what is over: subscriptions that the rules no longer permit, and connections that they
    /// do not permit or whose tokens have expired. Returns how many have to be tried again.
    async fn end(
        &self,
        view: &mut View,
        shard: Shard,
        report: &mut Report,
        now: Timestamp,
    ) -> usize {
        let Over { withdrawn, ended } = view.take_over(now);
        if withdrawn.is_empty() && ended.is_empty() {
            return 0;
        }
        let mut unfinished = Over::default();
        let withdrawing = withdrawn.into_iter().map(async |(recipient, topics)| {
            let done = self.withdraw(shard, &recipient, &topics, now).await;
            (!done).then_some((recipient, topics))
        });
        let undone: Vec<Option<(Recipient, BTreeSet<Topic>)>> =
            stream::iter(withdrawing).buffer_unordered(ENDS_AT_ONCE).collect().await;
        unfinished.withdrawn = undone.into_iter().flatten().collect();

        let ending = ended.into_iter().map(async |(recipient, code)| {
            let ended = self.disconnect(shard, &recipient, code, now).await;
            (recipient, code, ended)
        });
        let ended: Vec<(Recipient, ErrorCode, Ended)> =
            stream::iter(ending).buffer_unordered(ENDS_AT_ONCE).collect().await;
        for (recipient, code, ended) in ended {
            match ended {
                Ended::Yes => {
                    report.gone += 1;
                    view.remove(&recipient.id);
                }
                // Its item says when that will be.
                Ended::NotYet => {}
                Ended::TryAgain => unfinished.ended.push((recipient, code)),
            }
        }
        view.keep_over(unfinished)
    }

    /// Takes topics out of a connection's item and tells the connection; `false` when that has to
    /// be tried again.
    async fn withdraw(
        &self,
        shard: Shard,
        recipient: &Recipient,
        topics: &BTreeSet<Topic>,
        now: Timestamp,
    ) -> bool {
        let left = match self.connections.leave(shard, &recipient.id, topics, now).await {
            Ok(left) => left,
            Err(ConnectionError::NotOpen(_) | ConnectionError::TooManyTopics { .. }) => {
                return true;
            }
            Err(ConnectionError::Store(error)) => {
                warn!(error = %Chain(&error), "withdrawn topics could not be recorded");
                return false;
            }
        };
        for topic in left {
            info!(connection.id = %recipient.id, %topic, "subscription ended by the rules");
            let message = "you may no longer subscribe to this topic";
            self.tell(recipient, ErrorCode::Forbidden, message, Some(&topic)).await;
        }
        true
    }

    /// Ends a connection and tells it why, unless it has shown another token meanwhile.
    async fn disconnect(
        &self,
        shard: Shard,
        recipient: &Recipient,
        code: ErrorCode,
        now: Timestamp,
    ) -> Ended {
        let message = if code == ErrorCode::Expired {
            match self.connections.get(shard, &recipient.id).await {
                Ok(Some(connection)) if !connection.has_expired(now) => return Ended::NotYet,
                Ok(_) => {}
                Err(error) => {
                    warn!(error = %Chain(&error), "connection could not be read");
                    return Ended::TryAgain;
                }
            }
            "the token has expired; connect again with another"
        } else {
            "you may no longer connect"
        };
        self.tell(recipient, code, message, None).await;
        match self.post.close(recipient).await {
            Ok(()) | Err(PostError::Gone) => {}
            Err(error) => {
                warn!(connection.id = %recipient.id, error = %Chain(&error), "connection not closed");
                return Ended::TryAgain;
            }
        }
        info!(connection.id = %recipient.id, ?code, "connection ended");
        if let Err(error) = self.connections.close(shard, &recipient.id, now).await {
            // `$disconnect` records it, too.
            warn!(error = %Chain(&error), "closed connection could not be recorded");
        }
        Ended::Yes
    }

    async fn tell(
        &self,
        recipient: &Recipient,
        code: ErrorCode,
        message: &str,
        topic: Option<&Topic>,
    ) {
        let topic = topic.map(Topic::to_string);
        let reply = Reply::Error { id: None, code, message: message.to_owned(), topic };
        // Whoever does not take it sees that nothing comes any more.
        if let Err(error) = self.post_one(recipient, reply.to_json()).await {
            debug!(connection.id = %recipient.id, error = %Chain(&error), "connection not told");
        }
    }

    async fn post_to_groups(&self, view: &View, job: &Job, report: &mut Report) -> Vec<Failed> {
        let topics = job.frames.iter().map(Frame::topic);
        let topics = topics.chain(job.lost.iter().map(|lost| &lost.topic));
        let groups = view.groups_for(topics);
        let mut parcels: HashMap<Vec<usize>, Arc<Parcel>> = HashMap::new();
        let mut posts = Vec::with_capacity(groups.len());
        for group in groups {
            let wants = |topic: &Topic| group.topics.binary_search(topic).is_ok();
            let chosen: Vec<usize> = (0..job.lost.len())
                .filter(|index| wants(&job.lost[*index].topic))
                .chain(
                    (0..job.frames.len())
                        .filter(|index| wants(job.frames[*index].topic()))
                        .map(|index| job.lost.len() + index),
                )
                .collect();
            let parcel = match parcels.get(&chosen) {
                Some(parcel) => parcel.clone(),
                None => {
                    let parcel = Arc::new(Parcel::new(job, &chosen));
                    parcels.insert(chosen, parcel.clone());
                    parcel
                }
            };
            posts.push(self.post_parcel(&group.members, parcel));
        }
        let done: Vec<(u64, Vec<Failed>)> =
            stream::iter(posts).buffer_unordered(GROUPS_AT_ONCE).collect().await;
        report.delivered += done.iter().map(|(delivered, _)| delivered).sum::<u64>();
        done.into_iter().flat_map(|(_, failed)| failed).collect()
    }

    /// Posts a parcel to a group and returns how many messages were taken, and by whom not.
    async fn post_parcel(&self, members: &[Recipient], parcel: Arc<Parcel>) -> (u64, Vec<Failed>) {
        let mut delivered = 0;
        let mut failed = Vec::new();
        let mut remaining: Option<Vec<Recipient>> = None;
        let gaps = parcel.gaps.iter().map(|gap| (0, gap));
        for (from, message) in gaps.chain(parcel.messages.iter().map(|(from, it)| (*from, it))) {
            let to = remaining.as_deref().unwrap_or(members);
            let errors = self.post.post(to, message.clone()).await;
            delivered += (to.len() - errors.len()) as u64;
            if errors.is_empty() {
                continue;
            }
            let mut kept: Vec<Option<Recipient>> = to.iter().cloned().map(Some).collect();
            for (index, error) in errors {
                if let Some(recipient) = kept[index].take() {
                    failed.push(Failed { recipient, error, from });
                }
            }
            remaining = Some(kept.into_iter().flatten().collect());
        }
        (delivered, failed)
    }

    async fn put_aside(
        &self,
        view: &mut View,
        job: &Job,
        failed: Vec<Failed>,
        report: &mut Report,
        now: Timestamp,
    ) {
        let mut wanted: HashMap<Arc<[Topic]>, Vec<Frame>> = HashMap::new();
        for Failed { recipient, error, from } in failed {
            if self.is_lost(view, job.shard, &recipient, &error, report, now).await {
                continue;
            }
            let Some(topics) = view.topics_of(&recipient.id) else { continue };
            let frames = wanted.entry(topics.clone()).or_insert_with(|| {
                let frames = job.frames.iter();
                let wanted = frames.filter(|it| topics.binary_search(it.topic()).is_ok());
                wanted.cloned().collect()
            });
            let frames = frames[from..].to_vec();
            let backlog = &mut view.set_aside(&recipient.id).backlog;
            if from == 0 {
                // Gaps go first, so they may be what was not taken. Telling one twice is harmless.
                let lost = job.lost.iter();
                for lost in lost.filter(|it| topics.binary_search(&it.topic).is_ok()) {
                    backlog.push_lost(lost.topic.clone(), lost.from..=lost.to);
                }
            }
            for frame in frames {
                backlog.push(frame);
            }
        }
    }

    /// Serves a connection that is behind or slow.
    #[expect(clippy::too_many_arguments, reason = "the state of one job")]
    async fn serve(
        &self,
        view: &mut View,
        job: &Job,
        recipient: &Recipient,
        topics: &[Topic],
        memo: &mut Memo,
        report: &mut Report,
        now: Timestamp,
    ) {
        let Some(aside) = view.aside_mut(&recipient.id) else { return };
        let mut entries: Vec<Entry> = Vec::new();
        let mut behind = std::mem::take(&mut aside.behind);
        let announced = aside.announced;
        for lost in job.lost.iter().filter(|it| topics.binary_search(&it.topic).is_ok()) {
            if !behind.contains_key(&lost.topic) {
                aside.backlog.push_lost(lost.topic.clone(), lost.from..=lost.to);
            }
        }
        for frame in job.frames.iter().filter(|it| topics.binary_search(it.topic()).is_ok()) {
            let topic = frame.topic();
            let Some(cursor) = behind.remove(topic) else {
                entries.push(Entry::Frame(frame.clone()));
                continue;
            };
            if cursor + 1 < frame.seq() {
                match self.missed(memo, topic, cursor, frame.seq() - 1, now).await {
                    Ok(missed) => entries.extend(missed),
                    Err(error) => warn!(error = %Chain(&error), "what a connection missed is lost"),
                }
            }
            entries.extend(frame.part(cursor + 1..=u64::MAX).map(Entry::Frame));
            if frame.last() <= cursor {
                // It has this frame already, and joins with a later one.
                behind.insert(topic.clone(), cursor);
            }
        }
        if announced {
            for (topic, cursor) in std::mem::take(&mut behind) {
                match self.missed(memo, &topic, cursor, u64::MAX, now).await {
                    Ok(missed) => entries.extend(missed),
                    Err(error) => {
                        warn!(error = %Chain(&error), "what a connection missed waits");
                        behind.insert(topic, cursor);
                    }
                }
            }
        }
        let Some(aside) = view.aside_mut(&recipient.id) else { return };
        aside.behind = behind;
        let error = if aside.backlog.is_empty() {
            // It is not slow, only new: nothing is merged for it.
            self.post_entries(recipient, entries, aside, report).await
        } else {
            for entry in entries {
                aside.keep(entry);
            }
            loop {
                let Some(message) = aside.backlog.next_message() else { break None };
                match self.post_one(recipient, message).await {
                    Ok(()) => {
                        report.delivered += 1;
                        aside.backlog.sent();
                    }
                    Err(error) => break Some(error),
                }
            }
        };
        if let Some(error) = error {
            self.is_lost(view, job.shard, recipient, &error, report, now).await;
        }
    }

    /// Posts entries, and keeps what is not taken.
    async fn post_entries(
        &self,
        recipient: &Recipient,
        mut entries: Vec<Entry>,
        aside: &mut Aside,
        report: &mut Report,
    ) -> Option<PostError> {
        while let Some((count, message)) = next_message(&entries) {
            if let Err(error) = self.post_one(recipient, message).await {
                for entry in entries {
                    aside.keep(entry);
                }
                return Some(error);
            }
            report.delivered += 1;
            entries.drain(..count);
        }
        None
    }

    async fn post_one(&self, recipient: &Recipient, message: Bytes) -> Result<(), PostError> {
        let errors = self.post.post(std::slice::from_ref(recipient), message).await;
        errors.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    }

    async fn missed(
        &self,
        memo: &mut Memo,
        topic: &Topic,
        cursor: u64,
        to: u64,
        now: Timestamp,
    ) -> Result<Vec<Entry>, StoreError> {
        let key = (topic.clone(), cursor, to);
        if let Some(entries) = memo.get(&key) {
            return Ok(entries.clone());
        }
        let entries = self.log.read(topic, cursor + 1, to, CATCH_UP_BYTES, now).await?;
        let entries: Vec<Entry> = entries
            .into_iter()
            .filter_map(|entry| match entry {
                Entry::Frame(frame) => frame.part(cursor + 1..=to).map(Entry::Frame),
                Entry::Lost { .. } => Some(entry),
            })
            .collect();
        memo.insert(key, entries.clone());
        Ok(entries)
    }

    /// Whether a connection that did not take a message is not worth another try.
    async fn is_lost(
        &self,
        view: &mut View,
        shard: Shard,
        recipient: &Recipient,
        error: &PostError,
        report: &mut Report,
        now: Timestamp,
    ) -> bool {
        match error {
            PostError::Gone => {
                report.gone += 1;
                view.remove(&recipient.id);
                if let Err(error) = self.connections.close(shard, &recipient.id, now).await {
                    warn!(error = %Chain(&error), "closed connection could not be recorded");
                }
                true
            }
            PostError::TooLarge => {
                warn!(connection.id = %recipient.id, "a message was too large; the client sees a jump");
                true
            }
            PostError::Busy => false,
            PostError::Failed(error) => {
                warn!(connection.id = %recipient.id, error = %Chain(error.as_ref()), "post failed");
                false
            }
        }
    }
}

/// The first message that says the entries, and how many of them.
fn next_message(entries: &[Entry]) -> Option<(usize, Bytes)> {
    if let Entry::Lost { topic, seq, last } = entries.first()? {
        let (topic, reason) = (topic.clone(), GapReason::Lagging);
        return Some((1, Reply::Gap { topic, from: *seq, to: *last, reason }.to_json()));
    }
    let frames = entries.iter().map_while(|entry| match entry {
        Entry::Frame(frame) => Some(frame),
        Entry::Lost { .. } => None,
    });
    let frames: Vec<&Frame> = frames.collect();
    let run = frame::runs(&frames).into_iter().next()?;
    Some((run.len(), frame::message(&frames[run])))
}

impl Parcel {
    /// The parts of a job with these indexes: first those that are lost, then the frames.
    fn new(job: &Job, chosen: &[usize]) -> Self {
        let lost = chosen.iter().filter_map(|index| job.lost.get(*index));
        let gaps = lost.map(|lost| {
            let (topic, reason) = (lost.topic.clone(), GapReason::Lagging);
            Reply::Gap { topic, from: lost.from, to: lost.to, reason }.to_json()
        });
        let frames: Vec<Frame> = chosen
            .iter()
            .filter_map(|index| job.frames.get(index.checked_sub(job.lost.len())?))
            .cloned()
            .collect();
        let messages = frame::runs(&frames).into_iter();
        let messages = messages.map(|run| (run.start, frame::message(&frames[run]))).collect();
        Self { gaps: gaps.collect(), messages }
    }
}

impl Push for Pusher {
    fn push(&self, job: Job) -> BoxFuture<'_, Result<Report, PushError>> {
        Box::pin(async move {
            self.handle(job).await.map_err(|error| PushError::Failed(BoxError::from(error)))
        })
    }
}
