//! The timeline: decides which updates of the servers become events, and on which topics. A state
//! machine without I/O and without a clock, shared by all servers.
//!
//! A post is identified by its `ActivityPub` URI, so the same post from two servers is one post. Each
//! server also has its own id for it. A delete contains only that id, and can arrive before its post.
//!
//! A delete from any server removes the post, even if another server sent it: if a server has removed
//! a post, for any reason, the post must not remain here. If an edit makes a post one that must not be
//! forwarded, the edit removes it, too.
//!
//! Posts that an earlier process published, or that no longer fit into memory, have to be looked up.
//! So do posts from an earlier term of this process: their events may have been dropped when its lease
//! was lost. For those, [`Timeline::take`] returns a [`Lookup`], whose result goes to [`Timeline::recall`].

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
    normalize::{self, Exclusion, ServerName},
    size, snowflake,
    status::{Status, Update},
};
use crate::{
    outgoing::{Outgoing, Role},
    wanted::Wanted,
};

/// Most posts, ids and tombstones in memory: two posts a second for a day.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(200_000).expect("not zero");
/// Largest expected difference between the clocks of two servers.
const SKEW: Duration = Duration::from_mins(10);
/// Longest expected time until a server forwards a post of another server.
const LATE: Duration = Duration::from_hours(6);

/// An update from a server.
#[derive(Clone, Debug)]
pub struct ServerUpdate {
    /// The server.
    pub server: Arc<ServerName>,
    /// When it arrived.
    pub at: Timestamp,
    /// The update.
    pub update: Update,
}

/// The result of an update.
#[derive(Debug)]
pub enum Outcome {
    /// It has these effects.
    Done(Effects),
    /// It depends on the result of a lookup.
    Ask(Lookup),
}

/// The effects of an update.
#[derive(Debug, Default)]
pub struct Effects {
    /// Events and their topics, in order.
    pub publish: Vec<(Topic, Outgoing)>,
    /// What to store for later processes.
    pub remember: Option<Remember>,
    /// Why there is nothing to publish.
    pub ignored: Option<Ignored>,
}

/// Where a status was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remember {
    /// Host of the server.
    pub server: Arc<str>,
    /// The id of the status there.
    pub id: String,
    /// The post's URI.
    pub uri: Arc<str>,
    /// All topics it was published on.
    pub topics: BTreeSet<Topic>,
}

/// A post that an earlier process may have published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// Host of the server.
    pub server: Arc<str>,
    /// The id of the status there.
    pub id: String,
    /// The URI of the post, if it is known.
    pub uri: Option<Arc<str>>,
    /// Topics on which the post may have been published from another server.
    pub topics: BTreeSet<Topic>,
}

/// The result of a [`Lookup`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The URI of the post, if it was published.
    pub uri: Option<Arc<str>>,
    /// The topics it was published on.
    pub topics: BTreeSet<Topic>,
}

/// Why an update has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ignored {
    /// It contains nothing new.
    Known,
    /// None of its topics is wanted.
    Unwanted,
    /// The post is deleted.
    Deleted,
    /// An edit or delete of a post that was not published.
    Unpublished,
    /// It must not be forwarded.
    Refused(Exclusion),
}

/// The known state of a post.
struct Held {
    topics: BTreeSet<Topic>,
    /// The published revision. `None` if an earlier process published it.
    revision: Option<Revision>,
    deleted: bool,
    seen: Timestamp,
    /// The term in which it was published or looked up.
    term: u64,
}

/// One revision of a post's content.
#[derive(Clone, PartialEq, Eq)]
struct Revision {
    edited_at: Option<Timestamp>,
    server: Arc<str>,
    content: u64,
}

/// A server, and its id of a status.
type Key = (Arc<str>, Box<str>);

/// The posts that were published from the timelines of all servers.
pub struct Timeline {
    posts: LruCache<Arc<str>, Held>,
    ids: LruCache<Key, Arc<str>>,
    /// Deletes of unknown posts. These posts can still arrive.
    tombstones: LruCache<Key, ()>,
    /// All posts that were published later than this are in memory.
    horizon: Timestamp,
    /// The epoch of the lease.
    term: u64,
    remembered_for: Duration,
}

impl Timeline {
    /// Makes a timeline that starts `now`. The database remembers published posts for
    /// `remembered_for`.
    pub fn new(now: Timestamp, remembered_for: Duration) -> Self {
        Self {
            posts: LruCache::sparse(CAPACITY),
            ids: LruCache::sparse(CAPACITY),
            tombstones: LruCache::sparse(CAPACITY),
            horizon: now,
            term: 0,
            remembered_for,
        }
    }

    /// Begins the term with this epoch. Another process may have published posts until `now`, and what
    /// this one published before may not be in the log. Every server calls this.
    pub fn begin(&mut self, now: Timestamp, term: u64) {
        self.horizon = self.horizon.max(now);
        self.term = term;
    }

    /// Returns how long the database remembers published posts.
    pub fn remembered_for(&self) -> Duration {
        self.remembered_for
    }

    /// Handles an update.
    pub fn take(&mut self, received: &ServerUpdate, wanted: &Wanted) -> Outcome {
        self.handle(received, wanted, true).map_or_else(Outcome::Ask, Outcome::Done)
    }

    /// Handles an update, given the result of its lookup.
    pub fn recall(&mut self, received: &ServerUpdate, found: Found, wanted: &Wanted) -> Effects {
        if let Update::Post(status) | Update::Edit(status) = &received.update
            && let Some(held) = self.posts.peek_mut(status.uri())
            && held.term != self.term
            && !held.deleted
        {
            held.term = self.term;
            held.topics.clone_from(&found.topics);
            if found.topics.is_empty() {
                self.posts.pop(status.uri());
            }
        }
        if let Some(uri) = found.uri.filter(|_| !found.topics.is_empty()) {
            let id = match &received.update {
                Update::Post(status) | Update::Edit(status) => status.id().into(),
                Update::Delete(id) => id.as_str().into(),
            };
            self.know((received.server.host.clone(), id), &uri);
            if !self.posts.contains(&uri) {
                self.hold(uri, found.topics, None, received.at);
            }
        }
        self.handle(received, wanted, false).unwrap_or_default()
    }

    /// Returns whether a server's status was published and is not deleted.
    pub fn is_published(&self, server: &str, id: &str) -> bool {
        let uri = self.ids.peek(&(server.into(), id.into()));
        uri.and_then(|uri| self.posts.peek(uri)).is_some_and(|held| !held.deleted)
    }

    fn handle(
        &mut self,
        received: &ServerUpdate,
        wanted: &Wanted,
        may_ask: bool,
    ) -> Result<Effects, Lookup> {
        match &received.update {
            Update::Post(status) => self.post(received, status, wanted, may_ask),
            Update::Edit(status) => self.edit(received, status, wanted, may_ask),
            Update::Delete(id) => self.delete(received, id, may_ask),
        }
    }

    fn post(
        &mut self,
        received: &ServerUpdate,
        status: &Status,
        wanted: &Wanted,
        may_ask: bool,
    ) -> Result<Effects, Lookup> {
        if let Err(effects) = self.check(received, status) {
            return Ok(effects);
        }
        let uri: Arc<str> = status.uri().into();
        let topics = topics(status, &received.server, wanted);
        let held = self.posts.peek(&uri);
        if held.is_none() && topics.is_empty() {
            return Ok(Effects::ignored(Ignored::Unwanted));
        }
        if held.is_none() && may_ask && self.may_be_remembered(status.created_at(), received.at) {
            return Err(lookup(received, status, topics));
        }
        if let Some(held) = held.filter(|held| held.term != self.term && may_ask) {
            return Err(lookup(received, status, &topics | &held.topics));
        }
        // A topic may have become wanted after the post arrived from the first server.
        let fresh = held.map_or_else(|| topics.clone(), |held| &topics - &held.topics);
        let edited_at = |held: &Held| held.revision.as_ref().and_then(|known| known.edited_at);
        let mut effects = match held {
            Some(held) if status.edited_at() > edited_at(held) => {
                self.publish_edit(received, status)
            }
            _ => Effects::default(),
        };
        if !fresh.is_empty() {
            let post = normalize::post(status, &received.server, received.at);
            let json = size::fit(PostEvent::Post(Box::new(post)));
            let role = Role::Posted(uri.clone());
            effects.publish.extend(
                fresh
                    .iter()
                    .map(|topic| (topic.clone(), Outgoing::new(json.clone(), role.clone()))),
            );
            if let Some(held) = self.posts.peek_mut(&uri) {
                held.topics.extend(fresh.iter().cloned());
            } else {
                let revision = Some(Revision::of(status, &received.server));
                self.hold(uri.clone(), fresh.clone(), revision, received.at);
            }
        }
        let key: Key = (received.server.host.clone(), status.id().into());
        if !self.ids.contains(&key) || !fresh.is_empty() {
            self.know(key, &uri);
            effects.remember = self.remember(received, status, &uri);
        }
        if effects.publish.is_empty() {
            effects.ignored = Some(Ignored::Known);
        }
        Ok(effects)
    }

    fn edit(
        &mut self,
        received: &ServerUpdate,
        status: &Status,
        wanted: &Wanted,
        may_ask: bool,
    ) -> Result<Effects, Lookup> {
        if let Err(effects) = self.check(received, status) {
            return Ok(effects);
        }
        let Some(held) = self.posts.peek(status.uri()) else {
            if may_ask && self.may_be_remembered(status.created_at(), received.at) {
                let topics = topics(status, &received.server, wanted);
                return Err(lookup(received, status, topics));
            }
            return Ok(Effects::ignored(Ignored::Unpublished));
        };
        let revision = Revision::of(status, &received.server);
        if !revision.is_newer_than(held.revision.as_ref()) {
            return Ok(Effects::ignored(Ignored::Known));
        }
        if held.term != self.term && may_ask {
            return Err(lookup(received, status, held.topics.clone()));
        }
        let mut effects = self.publish_edit(received, status);
        let key: Key = (received.server.host.clone(), status.id().into());
        if !self.ids.contains(&key) {
            let uri: Arc<str> = status.uri().into();
            self.know(key, &uri);
            effects.remember = self.remember(received, status, &uri);
        }
        Ok(effects)
    }

    fn delete(
        &mut self,
        received: &ServerUpdate,
        id: &str,
        may_ask: bool,
    ) -> Result<Effects, Lookup> {
        let server = received.server.host.clone();
        let key: Key = (server.clone(), id.into());
        if let Some(uri) = self.ids.peek(&key).cloned() {
            return Ok(self.retract(received, &uri));
        }
        if may_ask && self.may_be_remembered(snowflake::time(id, received.at), received.at) {
            return Err(Lookup { server, id: id.to_owned(), uri: None, topics: BTreeSet::new() });
        }
        self.tombstones.put(key, ());
        Ok(Effects::ignored(Ignored::Unpublished))
    }

    /// Returns the effects as an error if a status must not be published.
    fn check(&mut self, received: &ServerUpdate, status: &Status) -> Result<(), Effects> {
        let uri = status.uri();
        let key: Key = (received.server.host.clone(), status.id().into());
        if self.tombstones.contains(&key) {
            return Err(self.retract(received, uri));
        }
        let deleted = self.posts.peek(uri).map(|held| held.deleted);
        if deleted == Some(true) {
            self.know(key, &uri.into());
            return Err(Effects::ignored(Ignored::Deleted));
        }
        normalize::admit(status).map_err(|exclusion| match exclusion {
            Exclusion::NotPublic | Exclusion::OptedOut if deleted.is_some() => {
                self.retract(received, uri)
            }
            exclusion => Effects::ignored(Ignored::Refused(exclusion)),
        })
    }

    /// Publishes an edit on all topics of the post.
    fn publish_edit(&mut self, received: &ServerUpdate, status: &Status) -> Effects {
        let Some(held) = self.posts.peek_mut(status.uri()) else { return Effects::default() };
        held.revision = Some(Revision::of(status, &received.server));
        let post = normalize::post(status, &received.server, received.at);
        let json = size::fit(PostEvent::PostEdited(Box::new(post)));
        let role = Role::Edited(status.uri().into());
        let event = |topic: &Topic| (topic.clone(), Outgoing::new(json.clone(), role.clone()));
        Effects { publish: held.topics.iter().map(event).collect(), ..Effects::default() }
    }

    /// Publishes the delete of a post on all its topics, and marks it as deleted.
    fn retract(&mut self, received: &ServerUpdate, uri: &str) -> Effects {
        let uri: Arc<str> = uri.into();
        let Some(held) = self.posts.peek_mut(&uri) else {
            self.hold(uri.clone(), BTreeSet::new(), None, received.at);
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
            server: received.server.host.to_string(),
            at: received.at,
        }));
        let event = |topic| (topic, Outgoing::new(json.clone(), Role::Deleted(uri.clone())));
        Effects { publish: topics.into_iter().map(event).collect(), ..Effects::default() }
    }

    fn hold(
        &mut self,
        uri: Arc<str>,
        topics: BTreeSet<Topic>,
        revision: Option<Revision>,
        seen: Timestamp,
    ) {
        let held = Held { topics, revision, deleted: false, seen, term: self.term };
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

    fn remember(
        &self,
        received: &ServerUpdate,
        status: &Status,
        uri: &Arc<str>,
    ) -> Option<Remember> {
        Some(Remember {
            server: received.server.host.clone(),
            id: status.id().into_owned(),
            uri: uri.clone(),
            topics: self.posts.peek(uri)?.topics.clone(),
        })
    }

    /// Returns whether a post that was written then may have been published and not be in memory.
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
    fn of(status: &Status, server: &ServerName) -> Self {
        Self {
            edited_at: status.edited_at(),
            server: server.host.clone(),
            content: content(status),
        }
    }

    /// Returns whether the content is newer. Servers also send edits for other changes, such as votes
    /// in a poll.
    fn is_newer_than(&self, known: Option<&Self>) -> bool {
        let Some(known) = known else { return self.edited_at.is_some() };
        self.edited_at > known.edited_at
            || (self.edited_at == known.edited_at
                // Two servers format the same content differently.
                && self.server == known.server
                && self.content != known.content)
    }
}

/// Returns a digest of everything that an author can edit.
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

/// Returns the wanted topics that a status belongs to.
fn topics(status: &Status, server: &ServerName, wanted: &Wanted) -> BTreeSet<Topic> {
    let language = normalize::language(status);
    let main = language.and_then(|code| code.split('-').next());
    let tags = normalize::tags(status);
    [Some(Topic::mastodon_public()), Topic::mastodon_server(&server.host)]
        .into_iter()
        .chain([main, language].map(|code| Topic::mastodon_lang(code?)))
        .chain(tags.iter().map(|tag| Topic::mastodon_tag(tag)))
        .flatten()
        .filter(|topic| wanted.contains(topic))
        .collect()
}

fn lookup(received: &ServerUpdate, status: &Status, topics: BTreeSet<Topic>) -> Lookup {
    Lookup {
        server: received.server.host.clone(),
        id: status.id().into_owned(),
        uri: Some(status.uri().into()),
        topics,
    }
}

#[cfg(test)]
mod tests;
