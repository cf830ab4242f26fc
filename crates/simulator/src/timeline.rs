//! The timeline of a Mastodon server: a seeded generator of posts, edits and deletes.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use self::{accounts::Account, content::Content};

mod accounts;
mod content;
mod phrases;

pub(super) use self::accounts::DOMAIN;

/// The number of posts that are kept for REST.
const HISTORY: usize = 10_000;
/// The number of recent posts, which can be edited, deleted and replied to.
const RECENT: usize = 60;
/// The number of posts before the simulation starts.
const BACK_HISTORY: u16 = 150;

/// A post in its current version.
#[derive(Debug, PartialEq)]
pub(super) struct Toot {
    pub(super) id: u64,
    pub(super) local: bool,
    pub(super) media: bool,
    /// Whether public timelines contain the post. Replies to other accounts are on hashtag timelines only.
    pub(super) listed: bool,
    pub(super) tags: Vec<String>,
    /// The status, as JSON text.
    pub(super) text: String,
    author: usize,
    edits: usize,
    json: Value,
}

/// A change of a post.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    Posted(Arc<Toot>),
    Edited(Arc<Toot>),
    Deleted(Arc<Toot>),
}

/// All posts, driven by one random number generator.
#[derive(Debug)]
pub(super) struct Timeline {
    /// The posts that can be read, by id.
    pub(super) posts: BTreeMap<u64, Arc<Toot>>,
    accounts: Vec<Account>,
    recent: VecDeque<Arc<Toot>>,
    rng: StdRng,
    made: u64,
    mean_wait: f64,
}

impl Timeline {
    /// Creates a timeline with a history that ends at `now`. `rate` is the mean number of changes per
    /// second.
    pub(super) fn new(seed: u64, rate: f64, now: Timestamp) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let accounts = accounts::everyone(&mut rng, now - Duration::from_hours(90 * 24));
        let mut timeline = Self {
            posts: BTreeMap::new(),
            accounts,
            recent: VecDeque::new(),
            rng,
            made: 0,
            mean_wait: rate.recip(),
        };
        for ago in (1..=BACK_HISTORY).rev() {
            timeline.tick(now - Duration::from_secs(u64::from(ago) * 4));
        }
        timeline
    }

    /// Creates a timeline without accounts and posts.
    pub(super) fn empty() -> Self {
        Self {
            posts: BTreeMap::new(),
            accounts: Vec::new(),
            recent: VecDeque::new(),
            rng: StdRng::seed_from_u64(1),
            made: 0,
            mean_wait: f64::INFINITY,
        }
    }

    /// Returns the id of the next post of a test.
    pub(super) fn next_id(&mut self, now: Timestamp) -> u64 {
        self.made += 1;
        snowflake(now, self.made)
    }

    /// Adds the post of a test, or replaces its earlier version.
    pub(super) fn put(&mut self, json: Value) -> Arc<Toot> {
        let id = id_of(&json);
        let media = json["media_attachments"].as_array().is_some_and(|media| !media.is_empty());
        let tags = json["tags"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|tag| tag["name"].as_str())
            .map(str::to_lowercase)
            .collect();
        let text = json.to_string();
        let post =
            Toot { id, local: true, media, listed: true, tags, text, author: 0, edits: 0, json };
        let post = Arc::new(post);
        self.posts.insert(id, Arc::clone(&post));
        post
    }

    /// Removes the post of a test.
    pub(super) fn remove(&mut self, json: &Value) -> Option<Arc<Toot>> {
        self.posts.remove(&id_of(json))
    }

    /// Makes one change at `now`. Returns the change, and the time until the next one.
    pub(super) fn tick(&mut self, now: Timestamp) -> (Change, Duration) {
        let change = match self.rng.random_range(0..100) {
            0..5 if !self.recent.is_empty() => self.edit(now),
            5..9 if !self.recent.is_empty() => self.delete(),
            _ => self.post(now),
        };
        let uniform: f64 = self.rng.random_range(f64::EPSILON..1.0);
        (change, Duration::from_secs_f64(-uniform.ln() * self.mean_wait))
    }

    fn post(&mut self, now: Timestamp) -> Change {
        let author = self.rng.random_range(0..self.accounts.len());
        let account = &self.accounts[author];
        let parent = match self.rng.random_range(0..8) {
            0 if !self.recent.is_empty() => {
                Some(Arc::clone(&self.recent[self.rng.random_range(0..self.recent.len())]))
            }
            _ => None,
        };
        // Some remote posts arrive long after they were written.
        let is_late = !account.local && self.rng.random_ratio(1, 20);
        let delay_secs = if is_late { self.rng.random_range(5..3_000) } else { 0 };
        let created = now - Duration::from_secs(delay_secs);
        self.made += 1;
        let id = snowflake(created, self.made);

        let replied_to = parent.as_ref().map(|parent| &self.accounts[parent.author]);
        let content = Content::write(account, replied_to, created, &mut self.rng);
        let tags: Vec<_> = content
            .tags
            .iter()
            .map(|tag| json!({"name": tag, "url": format!("https://{DOMAIN}/tags/{tag}")}))
            .collect();
        let page = account.json["url"].as_str().unwrap_or_default();
        let mut json = json!({
            "id": id.to_string(),
            "created_at": format!("{created:.3}"),
            "in_reply_to_id": parent.as_ref().map(|parent| parent.id.to_string()),
            "in_reply_to_account_id": replied_to.map(|account| &account.json["id"]),
            "sensitive": !content.spoiler.is_empty(),
            "spoiler_text": content.spoiler,
            "visibility": content.visibility,
            "language": content.language,
            "uri": format!("{}{id}", account.posts()),
            "url": format!("{page}/{id}"),
            "replies_count": 0,
            "reblogs_count": 0,
            "favourites_count": 0,
            "quotes_count": 0,
            "edited_at": null,
            "content": content.html,
            "filtered": [],
            "reblog": null,
            "account": account.json,
            "media_attachments": content.media,
            "mentions": content.mentions,
            "tags": tags,
            "emojis": content.emojis,
            "tagged_collections": [],
            "quote": null,
            "card": content.card,
            "poll": content.poll,
            "quote_approval": {"automatic": ["public"], "manual": [], "current_user": "automatic"},
        });
        if account.local {
            json["application"] = json!({"name": "Simulator", "website": null});
        }
        let post = Arc::new(Toot {
            id,
            local: account.local,
            media: !content.media.is_empty(),
            listed: parent.is_none_or(|parent| parent.author == author),
            tags: content.tags,
            text: json.to_string(),
            author,
            edits: 0,
            json,
        });
        self.posts.insert(id, Arc::clone(&post));
        while self.posts.len() > HISTORY {
            self.posts.pop_first();
        }
        self.recent.push_back(Arc::clone(&post));
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        Change::Posted(post)
    }

    fn edit(&mut self, now: Timestamp) -> Change {
        let nth = self.rng.random_range(0..self.recent.len());
        let old = &self.recent[nth];
        let mut json = old.json.clone();
        if json["poll"].is_object() && self.rng.random_bool(0.5) {
            // New votes update the post, but do not count as an edit.
            let option = &mut json["poll"]["options"][0]["votes_count"];
            *option = (option.as_u64().unwrap_or(0) + 1).into();
            let votes = json["poll"]["votes_count"].as_u64().unwrap_or(0) + 1;
            json["poll"]["votes_count"] = votes.into();
            json["poll"]["voters_count"] = votes.into();
        } else {
            let html = json["content"].as_str().unwrap_or_default();
            json["content"] = Content::corrected(html, old.edits + 1).into();
            json["edited_at"] = format!("{now:.3}").into();
        }
        let text = json.to_string();
        let tags = old.tags.clone();
        let post = Arc::new(Toot { text, tags, json, edits: old.edits + 1, ..**old });
        self.recent[nth] = Arc::clone(&post);
        if let Some(kept) = self.posts.get_mut(&post.id) {
            *kept = Arc::clone(&post);
        }
        Change::Edited(post)
    }

    fn delete(&mut self) -> Change {
        let nth = self.rng.random_range(0..self.recent.len());
        let gone = Arc::clone(&self.recent[nth]);
        self.recent.remove(nth);
        self.posts.remove(&gone.id);
        Change::Deleted(gone)
    }
}

fn id_of(json: &Value) -> u64 {
    json["id"]
        .as_str()
        .and_then(|id| id.parse().ok())
        .expect("the id of a status is text with a number")
}

/// Returns an id that sorts by the time of creation: milliseconds, and then a count.
fn snowflake(created: Timestamp, nth: u64) -> u64 {
    let millis = u64::try_from(created.as_millisecond()).unwrap_or(0);
    (millis << 16) | (nth & 0xffff)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const NOON: Timestamp = Timestamp::constant(1_793_620_800, 0);

    fn run(seed: u64, ticks: usize) -> (Timeline, Vec<Change>) {
        let mut timeline = Timeline::new(seed, 2.0, NOON);
        let changes = (0..ticks).map(|_| timeline.tick(NOON).0).collect();
        (timeline, changes)
    }

    #[test]
    fn the_same_seed_gives_the_same_posts() {
        assert_eq!(run(4, 400).1, run(4, 400).1);
        assert_ne!(run(4, 10).1, run(5, 10).1);
    }

    #[test]
    fn content_does_not_depend_on_the_clock() {
        let content = |now| {
            let mut timeline = Timeline::new(4, 2.0, now);
            let contents: Vec<_> = (0..300)
                .map(|_| match timeline.tick(now) {
                    (Change::Posted(post), wait) => (post.json["content"].to_string(), wait),
                    (Change::Edited(post), wait) => (format!("edit of {}", post.author), wait),
                    (Change::Deleted(post), wait) => (format!("delete of {}", post.author), wait),
                })
                .collect();
            contents
        };
        assert_eq!(content(NOON), content(NOON + Duration::from_hours(24)));
    }

    #[test]
    fn every_kind_of_post_occurs() {
        let (_, changes) = run(1, 6_000);
        let mut languages = BTreeSet::new();
        let mut seen = BTreeSet::new();
        for change in &changes {
            let (kind, post) = match change {
                Change::Posted(post) => ("post", post),
                Change::Edited(post) => ("edit", post),
                Change::Deleted(post) => ("delete", post),
            };
            let json = &post.json;
            let html = post.json["content"].as_str().unwrap_or_default();
            let account = &json["account"];
            let cases = [
                (kind, true),
                ("not public", json["visibility"] != "public"),
                ("hostile", html.contains("<script") || html.contains("onerror")),
                ("long", html.len() > 30_000),
                ("media", post.media),
                ("poll", json["poll"].is_object()),
                ("card", json["card"].is_object()),
                ("warning", json["sensitive"] == true),
                ("emoji", !json["emojis"][0].is_null()),
                ("mention", !json["mentions"][0].is_null()),
                ("unlisted reply", !post.listed),
                ("bot", account["bot"] == true),
                ("#nobot", account["note"].as_str().is_some_and(|note| note.contains("#nobot"))),
                ("noindex", account["noindex"] == true),
                ("remote", !post.local),
                ("tags", !post.tags.is_empty()),
            ];
            seen.extend(cases.into_iter().filter(|(_, seen)| *seen).map(|(name, _)| name));
            languages.extend(json["language"].as_str().map(str::to_owned));
        }
        assert_eq!(seen.len(), 18, "{seen:?}");
        assert!(languages.len() >= 15, "{languages:?}");
    }

    #[test]
    fn only_existing_posts_are_edited_and_deleted() {
        let (timeline, changes) = run(2, 3_000);
        let mut gone = BTreeSet::new();
        for change in changes {
            match change {
                Change::Posted(_) => {}
                Change::Edited(post) => {
                    assert!(!gone.contains(&post.id));
                    assert!(post.json["edited_at"].is_string() || post.json["poll"].is_object());
                }
                Change::Deleted(post) => assert!(gone.insert(post.id)),
            }
        }
        assert!(gone.iter().all(|id| !timeline.posts.contains_key(id)));
    }
}
