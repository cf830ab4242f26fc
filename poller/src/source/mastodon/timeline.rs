//! What of all that the servers tell is an event, and of which topics: a state machine without I/O
//! or a clock, shared by all servers.
//!
//! A post is known by its `ActivityPub` URI, so the same post from two servers is one. A server
//! names it by an id of its own; a delete says nothing but that id and may overtake its post.
//!
//! A delete from any server removes the post, also where it was another's: a server that has taken
//! a post down, for whatever reason, must not find it here. So does an edit that makes a post
//! something that may not be forwarded.
//!
//! What was published before this process began, or so much earlier that it is forgotten, is asked
//! for: then [`Timeline::take`] returns a [`Question`], whose answer goes to [`Timeline::recall`].

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};

use domain::{
    post::{PostDeleted, PostEvent},
    topic::Topic,
};
use jiff::Timestamp;
use lru::LruCache;

use super::{
    normalise::{self, Origin, Refusal},
    size, snowflake,
    status::{Status, Told},
};
use crate::{
    outgoing::{Outgoing, Role},
    wanted::Wanted,
};

/// How many posts are held, and how many ids and tombstones: a day of two posts a second.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(200_000).expect("not zero");
/// How far the clocks of two servers are trusted to agree.
const SKEW: Duration = Duration::from_mins(10);
/// How late a server still passes on what another published.
const LATE: Duration = Duration::from_hours(6);

/// Something that a server told.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Which server.
    pub origin: Arc<Origin>,
    /// When it was heard.
    pub at: Timestamp,
    /// What it told.
    pub told: Told,
}

/// What follows from something heard.
#[derive(Debug)]
pub enum Outcome {
    /// This does.
    Done(Effects),
    /// That depends on what happened before this process began.
    Ask(Question),
}

/// What to do about something heard.
#[derive(Debug, Default)]
pub struct Effects {
    /// Events for their topics, in order.
    pub publish: Vec<(Topic, Outgoing)>,
    /// What has to be known later even if this process ends.
    pub remember: Option<Remember>,
    /// Why there is nothing to publish.
    pub ignored: Option<Ignored>,
}

/// Where a status went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remember {
    /// Host of the server.
    pub server: Arc<str>,
    /// The status's id there.
    pub id: String,
    /// The post's URI.
    pub uri: Arc<str>,
    /// All topics it was published on.
    pub topics: BTreeSet<Topic>,
}

/// What an earlier process may have published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Host of the server.
    pub server: Arc<str>,
    /// The status's id there.
    pub id: String,
    /// The post's URI, where it is known.
    pub uri: Option<Arc<str>>,
    /// Topics that the post may be on by way of another server.
    pub topics: BTreeSet<Topic>,
}

/// The answer to a [`Question`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The post's URI, if it was published.
    pub uri: Option<Arc<str>>,
    /// Where it is.
    pub topics: BTreeSet<Topic>,
}

/// Why nothing follows from something heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ignored {
    /// It is known.
    Known,
    /// Nobody wants its topics.
    Unwanted,
    /// The post is deleted.
    Deleted,
    /// An edit or delete of something that was not published.
    Unpublished,
    /// It may not be forwarded.
    Refused(Refusal),
}

/// What is held of a post.
struct Held {
    topics: BTreeSet<Topic>,
    /// Which edit of it is published; unknown where an earlier process published it.
    revision: Option<Revision>,
    deleted: bool,
    seen: Timestamp,
}

/// One state of a post's content.
#[derive(Clone, PartialEq, Eq)]
struct Revision {
    edited_at: Option<Timestamp>,
    server: Arc<str>,
    content: u64,
}

/// A server and its id of a status.
type Key = (Arc<str>, Box<str>);

/// What was published of the servers' timelines.
pub struct Timeline {
    posts: LruCache<Arc<str>, Held>,
    ids: LruCache<Key, Arc<str>>,
    /// Deletes of what is not there, which may be about to come.
    tombstones: LruCache<Key, ()>,
    /// What was published later than this is held.
    horizon: Timestamp,
    remembered_for: Duration,
}

impl Timeline {
    /// A timeline that begins `now`; what is published has to be remembered for a while.
    pub fn new(now: Timestamp, remembered_for: Duration) -> Self {
        Self {
            posts: LruCache::new(CAPACITY),
            ids: LruCache::new(CAPACITY),
            tombstones: LruCache::new(CAPACITY),
            horizon: now,
            remembered_for,
        }
    }

    /// Says that until `now` another process may have published what a server told.
    pub fn begin(&mut self, now: Timestamp) {
        self.horizon = self.horizon.max(now);
    }

    /// How long what was published has to be remembered.
    pub fn remembered_for(&self) -> Duration {
        self.remembered_for
    }

    /// Takes in what a server told.
    pub fn take(&mut self, heard: &Heard, wanted: &Wanted) -> Outcome {
        self.hear(heard, wanted, true).map_or_else(Outcome::Ask, Outcome::Done)
    }

    /// Takes in what a server told, given what an earlier process knew of it.
    pub fn recall(&mut self, heard: &Heard, answer: Answer, wanted: &Wanted) -> Effects {
        if let Some(uri) = answer.uri.filter(|_| !answer.topics.is_empty()) {
            let id = match &heard.told {
                Told::Post(status) | Told::Edit(status) => status.id().into(),
                Told::Delete(id) => id.as_str().into(),
            };
            self.know((heard.origin.host.clone(), id), &uri);
            if !self.posts.contains(&uri) {
                self.hold(uri, answer.topics, None, heard.at);
            }
        }
        self.hear(heard, wanted, false).unwrap_or_default()
    }

    /// Whether a server's status was published and is not deleted.
    pub fn is_published(&self, server: &str, id: &str) -> bool {
        let uri = self.ids.peek(&(server.into(), id.into()));
        uri.and_then(|uri| self.posts.peek(uri)).is_some_and(|held| !held.deleted)
    }

    /// Ids of the newest posts of a server that were published since a time, newest first.
    pub fn recent(&self, server: &str, since: Timestamp, limit: usize) -> Vec<String> {
        let seen = |uri| self.posts.peek(uri).filter(|held: &&Held| held.seen >= since);
        self.ids
            .iter()
            .filter(|((host, _), _)| **host == *server)
            .map_while(|((_, id), uri)| Some((id, seen(uri)?)))
            .filter(|(_, held)| !held.deleted)
            .map(|(id, _)| id.to_string())
            .take(limit)
            .collect()
    }

    fn hear(&mut self, heard: &Heard, wanted: &Wanted, may_ask: bool) -> Result<Effects, Question> {
        match &heard.told {
            Told::Post(status) => self.post(heard, status, wanted, may_ask),
            Told::Edit(status) => self.edit(heard, status, wanted, may_ask),
            Told::Delete(id) => self.delete(heard, id, may_ask),
        }
    }

    fn post(
        &mut self,
        heard: &Heard,
        status: &Status,
        wanted: &Wanted,
        may_ask: bool,
    ) -> Result<Effects, Question> {
        if let Err(effects) = self.check(heard, status) {
            return Ok(effects);
        }
        let uri: Arc<str> = status.uri().into();
        let topics = topics(status, &heard.origin, wanted);
        let held = self.posts.peek(&uri);
        if held.is_none() && topics.is_empty() {
            return Ok(Effects::ignored(Ignored::Unwanted));
        }
        if held.is_none() && may_ask && self.may_be_remembered(status.created_at(), heard.at) {
            return Err(question(heard, status, topics));
        }
        // Another server may pass on what became wanted only after the first did.
        let fresh = held.map_or_else(|| topics.clone(), |held| &topics - &held.topics);
        let edited_at = |held: &Held| held.revision.as_ref().and_then(|known| known.edited_at);
        let mut effects = match held {
            Some(held) if status.edited_at() > edited_at(held) => self.publish_edit(heard, status),
            _ => Effects::default(),
        };
        if !fresh.is_empty() {
            let post = normalise::post(status, &heard.origin, heard.at);
            let json = size::fit(PostEvent::Post(Box::new(post)));
            let role = Role::Posted(uri.clone());
            effects.publish.extend(
                fresh.iter().map(|topic| {
                    (topic.clone(), Outgoing { json: json.clone(), role: role.clone() })
                }),
            );
            if let Some(held) = self.posts.peek_mut(&uri) {
                held.topics.extend(fresh.iter().cloned());
            } else {
                let revision = Some(Revision::of(status, &heard.origin));
                self.hold(uri.clone(), fresh.clone(), revision, heard.at);
            }
        }
        let key: Key = (heard.origin.host.clone(), status.id().into());
        if !self.ids.contains(&key) || !fresh.is_empty() {
            self.know(key, &uri);
            effects.remember = self.remember(heard, status, &uri);
        }
        if effects.publish.is_empty() {
            effects.ignored = Some(Ignored::Known);
        }
        Ok(effects)
    }

    fn edit(
        &mut self,
        heard: &Heard,
        status: &Status,
        wanted: &Wanted,
        may_ask: bool,
    ) -> Result<Effects, Question> {
        if let Err(effects) = self.check(heard, status) {
            return Ok(effects);
        }
        let Some(held) = self.posts.peek(status.uri()) else {
            if may_ask && self.may_be_remembered(status.created_at(), heard.at) {
                let topics = topics(status, &heard.origin, wanted);
                return Err(question(heard, status, topics));
            }
            return Ok(Effects::ignored(Ignored::Unpublished));
        };
        let revision = Revision::of(status, &heard.origin);
        if !revision.outdoes(held.revision.as_ref()) {
            return Ok(Effects::ignored(Ignored::Known));
        }
        let mut effects = self.publish_edit(heard, status);
        let key: Key = (heard.origin.host.clone(), status.id().into());
        if !self.ids.contains(&key) {
            let uri: Arc<str> = status.uri().into();
            self.know(key, &uri);
            effects.remember = self.remember(heard, status, &uri);
        }
        Ok(effects)
    }

    fn delete(&mut self, heard: &Heard, id: &str, may_ask: bool) -> Result<Effects, Question> {
        let server = heard.origin.host.clone();
        let key: Key = (server.clone(), id.into());
        if let Some(uri) = self.ids.peek(&key).cloned() {
            return Ok(self.retract(heard, &uri));
        }
        if may_ask && self.may_be_remembered(snowflake::time(id, heard.at), heard.at) {
            let (id, topics) = (id.to_owned(), BTreeSet::new());
            return Err(Question { server, id, uri: None, topics });
        }
        self.tombstones.put(key, ());
        Ok(Effects::ignored(Ignored::Unpublished))
    }

    /// Returns what follows where a status is not to be published, however new it is.
    fn check(&mut self, heard: &Heard, status: &Status) -> Result<(), Effects> {
        let uri = status.uri();
        let key: Key = (heard.origin.host.clone(), status.id().into());
        if self.tombstones.contains(&key) {
            return Err(self.retract(heard, uri));
        }
        let deleted = self.posts.peek(uri).map(|held| held.deleted);
        if deleted == Some(true) {
            self.know(key, &uri.into());
            return Err(Effects::ignored(Ignored::Deleted));
        }
        normalise::admit(status).map_err(|refusal| match refusal {
            Refusal::NotPublic | Refusal::OptedOut if deleted.is_some() => self.retract(heard, uri),
            refusal => Effects::ignored(Ignored::Refused(refusal)),
        })
    }

    /// Publishes an edit wherever the post is.
    fn publish_edit(&mut self, heard: &Heard, status: &Status) -> Effects {
        let Some(held) = self.posts.peek_mut(status.uri()) else { return Effects::default() };
        held.revision = Some(Revision::of(status, &heard.origin));
        let post = normalise::post(status, &heard.origin, heard.at);
        let json = size::fit(PostEvent::PostEdited(Box::new(post)));
        let role = Role::Edited(status.uri().into());
        let event =
            |topic: &Topic| (topic.clone(), Outgoing { json: json.clone(), role: role.clone() });
        Effects { publish: held.topics.iter().map(event).collect(), ..Effects::default() }
    }

    /// Publishes the end of a post wherever it is, and sees to it that it never returns.
    fn retract(&mut self, heard: &Heard, uri: &str) -> Effects {
        let uri: Arc<str> = uri.into();
        let Some(held) = self.posts.peek_mut(&uri) else {
            self.hold(uri.clone(), BTreeSet::new(), None, heard.at);
            if let Some(held) = self.posts.peek_mut(&uri) {
                held.deleted = true;
            }
            return Effects::ignored(Ignored::Deleted);
        };
        if held.deleted {
            return Effects::ignored(Ignored::Deleted);
        }
        held.deleted = true;
        let topics = std::mem::take(&mut held.topics);
        let json = size::fit(PostEvent::PostDeleted(PostDeleted {
            id: uri.to_string(),
            server: heard.origin.host.to_string(),
            at: heard.at,
        }));
        let event =
            |topic| (topic, Outgoing { json: json.clone(), role: Role::Deleted(uri.clone()) });
        Effects { publish: topics.into_iter().map(event).collect(), ..Effects::default() }
    }

    fn hold(
        &mut self,
        uri: Arc<str>,
        topics: BTreeSet<Topic>,
        revision: Option<Revision>,
        seen: Timestamp,
    ) {
        let held = Held { topics, revision, deleted: false, seen };
        if let Some((_, evicted)) = self.posts.push(uri, held) {
            self.horizon = self.horizon.max(evicted.seen);
        }
    }

    fn know(&mut self, key: Key, uri: &Arc<str>) {
        if self.ids.contains(&key) {
            return;
        }
        if let Some((_, uri)) = self.ids.push(key, uri.clone())
            && let Some(held) = self.posts.peek(&uri)
        {
            self.horizon = self.horizon.max(held.seen);
        }
    }

    fn remember(&self, heard: &Heard, status: &Status, uri: &Arc<str>) -> Option<Remember> {
        Some(Remember {
            server: heard.origin.host.clone(),
            id: status.id().into_owned(),
            uri: uri.clone(),
            topics: self.posts.peek(uri)?.topics.clone(),
        })
    }

    /// Whether something written then can have been published and is no longer, or never was, held.
    fn may_be_remembered(&self, written: Option<Timestamp>, now: Timestamp) -> bool {
        written.is_none_or(|written| {
            written <= self.horizon + SKEW && written >= now - self.remembered_for - LATE
        })
    }
}

impl Effects {
    fn ignored(why: Ignored) -> Self {
        Self { ignored: Some(why), ..Self::default() }
    }
}

impl Revision {
    fn of(status: &Status, origin: &Origin) -> Self {
        Self {
            edited_at: status.edited_at(),
            server: origin.host.clone(),
            content: content(status),
        }
    }

    /// Whether this is a later content. Servers send edits for much else, such as a poll's votes.
    fn outdoes(&self, known: Option<&Self>) -> bool {
        let Some(known) = known else { return self.edited_at.is_some() };
        self.edited_at > known.edited_at
            || (self.edited_at == known.edited_at
                // Two servers write the same content differently.
                && self.server == known.server
                && self.content != known.content)
    }
}

/// A digest of what an author can edit.
fn content(status: &Status) -> u64 {
    let fields = status.fields();
    let mut hasher = DefaultHasher::new();
    fields.text("content").hash(&mut hasher);
    fields.text("spoiler_text").hash(&mut hasher);
    fields.flag("sensitive").hash(&mut hasher);
    for media in fields.list("media_attachments") {
        (media.id("id"), media.text("description")).hash(&mut hasher);
    }
    for option in fields.get("poll").list("options") {
        option.text("title").hash(&mut hasher);
    }
    hasher.finish()
}

/// The wanted topics that a status belongs to.
fn topics(status: &Status, origin: &Origin, wanted: &Wanted) -> BTreeSet<Topic> {
    let language = normalise::language(status);
    let main = language.and_then(|code| code.split('-').next());
    let tags = normalise::tags(status);
    [Some(Topic::mastodon_public()), Topic::mastodon_server(&origin.host)]
        .into_iter()
        .chain([main, language].map(|code| Topic::mastodon_lang(code?)))
        .chain(tags.iter().map(|tag| Topic::mastodon_tag(tag)))
        .flatten()
        .filter(|topic| wanted.contains(topic))
        .collect()
}

fn question(heard: &Heard, status: &Status, topics: BTreeSet<Topic>) -> Question {
    Question {
        server: heard.origin.host.clone(),
        id: status.id().into_owned(),
        uri: Some(status.uri().into()),
        topics,
    }
}

#[cfg(test)]
mod tests;
