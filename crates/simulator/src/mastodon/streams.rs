//! The streams of a Mastodon server, and the posts that they contain.

use serde_json::json;

use crate::timeline::Toot;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Scope {
    Anywhere,
    Local,
    Remote,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Kind {
    Public {
        origin: Scope,
        media: bool,
    },
    Hashtag {
        tag: String,
        local: bool,
    },
    /// A stream of the account itself, which is always empty here.
    Quiet,
}

/// A stream that a client has subscribed to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Stream {
    kind: Kind,
    /// The name of the stream in the statistics.
    pub(super) name: String,
    /// The field `stream` of its envelopes, as JSON text.
    pub(super) label: String,
}

/// Why a stream does not exist: the text and the status of the error.
pub(super) type Unknown = (&'static str, u16);

impl Stream {
    /// Returns the stream with this name and tag.
    pub(super) fn named(name: &str, tag: Option<&str>) -> Result<Self, Unknown> {
        let public = |origin, media| Kind::Public { origin, media };
        let kind = match name {
            "public" => public(Scope::Anywhere, false),
            "public:media" => public(Scope::Anywhere, true),
            "public:local" => public(Scope::Local, false),
            "public:local:media" => public(Scope::Local, true),
            "public:remote" => public(Scope::Remote, false),
            "public:remote:media" => public(Scope::Remote, true),
            "hashtag" | "hashtag:local" => {
                let Some(tag) = tag.filter(|tag| !tag.is_empty()) else {
                    return Err(("Missing tag name parameter", 400));
                };
                let label = json!([name, tag]).to_string();
                let local = name == "hashtag:local";
                let kind = Kind::Hashtag { tag: tag.to_lowercase(), local };
                return Ok(Self { kind, name: format!("{name}/{tag}"), label });
            }
            "user" | "user:notification" | "direct" => Kind::Quiet,
            "list" => return Err(("Not authorized to stream this list", 401)),
            _ => return Err(("Unknown stream type", 400)),
        };
        Ok(Self { kind, name: name.to_owned(), label: json!([name]).to_string() })
    }

    /// Returns whether the stream contains a post.
    pub(super) fn contains(&self, post: &Toot) -> bool {
        match &self.kind {
            Kind::Quiet => false,
            Kind::Hashtag { tag, local } => {
                (post.local || !local) && post.tags.iter().any(|name| name == tag)
            }
            Kind::Public { origin, media } => {
                let from_there = match origin {
                    Scope::Anywhere => true,
                    Scope::Local => post.local,
                    Scope::Remote => !post.local,
                };
                post.listed && from_there && (post.media || !media)
            }
        }
    }
}
