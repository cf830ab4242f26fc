//! Posts: what every social network's messages become, whichever network they come from.
//!
//! A value that is not known is left out of the JSON; a list is always there. The order of the
//! fields is fixed, so equal posts have equal bytes.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What happened to a post, as it stands in a topic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum PostEvent {
    /// It was published.
    #[serde(rename = "post")]
    Post(Box<Post>),
    /// Its author changed it: this is what it says from here on.
    #[serde(rename = "post.edited")]
    PostEdited(Box<Post>),
    /// It is gone, and what was shown of it has to go as well.
    #[serde(rename = "post.deleted")]
    PostDeleted(PostDeleted),
}

/// A public post.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Post {
    /// The `ActivityPub` URI: the same on every server that has the post.
    pub id: String,
    /// Where people read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Host of the server that told of it.
    pub server: String,
    /// When it was written, as its author's server claims.
    pub at: Timestamp,
    /// When it was last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edited_at: Option<Timestamp>,
    /// Who wrote it.
    pub author: Author,
    /// What it says, as HTML that is safe to insert into a page.
    pub html: String,
    /// What it says, without markup.
    pub text: String,
    /// Whether `html` and `text` are only the beginning of a post too large to forward.
    #[serde(default, skip_serializing_if = "is_false")]
    pub truncated: bool,
    /// Language code as its author gave it, such as `pt-BR`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Hashtags, lower-cased and in Unicode's NFKC form, without `#`.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Handles of the people it mentions, as `user@host`.
    #[serde(default)]
    pub mentions: Vec<String>,
    /// What is attached.
    #[serde(default)]
    pub media: Vec<Media>,
    /// Pictures that stand for `:shortcode:` in its texts and in its author's name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub emojis: Vec<Emoji>,
    /// The question it asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poll: Option<Poll>,
    /// A preview of the page it links to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<Card>,
    /// What to say before the post is shown; plain text. Such a post stays folded until asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_warning: Option<String>,
    /// Whether its media stay hidden until asked for.
    #[serde(default)]
    pub sensitive: bool,
    /// What it answers: the server's id of that post, which means something only there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// How often it was boosted, as that server knows; 0 for most fresh posts, as the next two.
    #[serde(default)]
    pub boosts: u64,
    /// How often it was liked.
    #[serde(default)]
    pub likes: u64,
    /// How many answers it has.
    #[serde(default)]
    pub replies: u64,
}

/// Who wrote a post.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author {
    /// `user@host`, also for those of the server that told of the post.
    pub handle: String,
    /// The name they go by; plain text.
    pub name: String,
    /// A still picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar: Option<String>,
    /// Their page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Whether it says of itself that it is a program.
    #[serde(default)]
    pub bot: bool,
}

/// What an attachment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MediaType {
    /// A still picture.
    Image,
    /// A short silent video that repeats.
    Gifv,
    /// A video.
    Video,
    /// Sound.
    Audio,
    /// Something its server did not recognise or has not fetched.
    Unknown,
}

/// An attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Media {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: MediaType,
    /// The file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// A small picture of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<String>,
    /// What it shows, for those who cannot see or hear it; plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alt: Option<String>,
    /// Width in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// Height in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// A blurred stand-in, as `BlurHash`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blurhash: Option<String>,
}

/// A picture that a server's users can write as `:shortcode:`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emoji {
    /// How it is written, without the colons.
    pub shortcode: String,
    /// The picture, a still one.
    pub url: String,
}

/// A question with answers to choose from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Poll {
    /// The answers, in order.
    pub options: Vec<PollOption>,
    /// Whether one may choose several.
    #[serde(default)]
    pub multiple: bool,
    /// Votes cast.
    #[serde(default)]
    pub votes: u64,
    /// People who voted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voters: Option<u64>,
    /// When voting ends or ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closes_at: Option<Timestamp>,
    /// Whether voting is over.
    #[serde(default)]
    pub closed: bool,
}

/// An answer to choose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollOption {
    /// The answer; plain text.
    pub title: String,
    /// Votes for it; none while they are hidden.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub votes: Option<u64>,
}

/// A preview of a page. All texts are plain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// The page.
    pub url: String,
    /// Its title.
    pub title: String,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// A picture of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The site it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
}

/// The end of a post.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostDeleted {
    /// Its `ActivityPub` URI.
    pub id: String,
    /// Host of the server that told of it.
    pub server: String,
    /// When that was heard.
    pub at: Timestamp,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn post() -> Post {
        Post {
            id: "https://social.example/users/ana/statuses/1".into(),
            url: Some("https://social.example/@ana/1".into()),
            server: "social.example".into(),
            at: at("2026-11-22T10:00:00.123Z"),
            edited_at: None,
            author: Author {
                handle: "ana@social.example".into(),
                name: "Ana".into(),
                avatar: None,
                url: Some("https://social.example/@ana".into()),
                bot: false,
            },
            html: "<p>Hello <a href=\"https://social.example/tags/rust\">#Rust</a></p>".into(),
            text: "Hello #Rust".into(),
            truncated: false,
            language: Some("en".into()),
            tags: vec!["rust".into()],
            mentions: vec![],
            media: vec![],
            emojis: vec![],
            poll: None,
            card: None,
            content_warning: None,
            sensitive: false,
            reply_to: None,
            boosts: 0,
            likes: 0,
            replies: 0,
        }
    }

    #[test]
    fn a_plain_post_has_only_what_is_known() {
        insta::assert_json_snapshot!(PostEvent::Post(Box::new(post())));
    }

    #[test]
    fn a_full_edit_has_every_field() {
        let event = PostEvent::PostEdited(Box::new(Post {
            edited_at: Some(at("2026-11-22T10:05:00Z")),
            truncated: true,
            mentions: vec!["bo@fediverse.example".into()],
            media: vec![Media {
                kind: MediaType::Image,
                url: Some("https://files.example/1.png".into()),
                preview: Some("https://files.example/1-small.png".into()),
                alt: Some("A crab".into()),
                width: Some(640),
                height: Some(480),
                blurhash: Some("UBL_:rOpGG-oBUNG".into()),
            }],
            emojis: vec![Emoji {
                shortcode: "blobcat".into(),
                url: "https://files.example/blobcat.png".into(),
            }],
            poll: Some(Poll {
                options: vec![
                    PollOption { title: "Tabs".into(), votes: Some(3) },
                    PollOption { title: "Spaces".into(), votes: None },
                ],
                multiple: false,
                votes: 3,
                voters: Some(3),
                closes_at: Some(at("2026-11-23T10:00:00Z")),
                closed: false,
            }),
            card: Some(Card {
                url: "https://news.example/story".into(),
                title: "A story".into(),
                description: Some("About something".into()),
                image: Some("https://news.example/story.png".into()),
                provider: Some("News".into()),
            }),
            content_warning: Some("crabs".into()),
            sensitive: true,
            reply_to: Some("117659978849024469".into()),
            boosts: 1,
            likes: 2,
            replies: 3,
            ..post()
        }));
        insta::assert_json_snapshot!(event);
        let text = serde_json::to_string(&event).expect("serialises");
        assert_eq!(serde_json::from_str::<PostEvent>(&text).expect("reads back"), event);
    }

    #[test]
    fn a_delete_carries_nothing_of_the_post() {
        let event = PostEvent::PostDeleted(PostDeleted {
            id: "https://social.example/users/ana/statuses/1".into(),
            server: "social.example".into(),
            at: at("2026-11-22T10:06:00Z"),
        });
        let text = serde_json::to_string(&event).expect("serialises");
        assert_eq!(
            text,
            r#"{"type":"post.deleted","id":"https://social.example/users/ana/statuses/1","server":"social.example","at":"2026-11-22T10:06:00Z"}"#
        );
        assert_eq!(serde_json::from_str::<PostEvent>(&text).expect("reads back"), event);
    }
}
