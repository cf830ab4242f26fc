//! Posts: the common form of the messages of all social networks.
//!
//! Unknown values are left out of the JSON; lists are always present. The order of the fields is fixed, so
//! that equal posts have equal bytes.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// An event of a post in a topic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum PostEvent {
    /// The post was published.
    #[serde(rename = "post")]
    Post(Box<Post>),
    /// The author edited the post; this is the new version.
    #[serde(rename = "post.edited")]
    PostEdited(Box<Post>),
    /// The post was deleted; clients must remove what they show of it.
    #[serde(rename = "post.deleted")]
    PostDeleted(PostDeleted),
}

/// A public post.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Post {
    /// The `ActivityPub` URI: the same on every server that has the post.
    pub id: String,
    /// The page of the post.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Host of the server that sent it.
    pub server: String,
    /// When it was written, according to the author's server.
    pub at: Timestamp,
    /// When it was last edited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edited_at: Option<Timestamp>,
    /// Its author.
    pub author: Author,
    /// Its content, as HTML that is safe to insert into a page.
    pub html: String,
    /// Its content without markup.
    pub text: String,
    /// Whether `html` and `text` have only the beginning of a post that is too large to forward.
    #[serde(default, skip_serializing_if = "is_false")]
    pub truncated: bool,
    /// Language code as set by the author, such as `pt-BR`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Hashtags, lower-cased and in Unicode's NFKC form, without `#`.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Handles of the people it mentions, as `user@host`.
    #[serde(default)]
    pub mentions: Vec<String>,
    /// Its attachments.
    #[serde(default)]
    pub media: Vec<Media>,
    /// Custom emoji that replace `:shortcode:` in its texts and in the author's name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub emojis: Vec<Emoji>,
    /// Its poll.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poll: Option<Poll>,
    /// A preview of the page it links to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<Card>,
    /// A warning to show in place of the post until the reader opens it; plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_warning: Option<String>,
    /// Whether its media are hidden until the reader reveals them.
    #[serde(default)]
    pub sensitive: bool,
    /// The id of the post that it replies to, which is valid only on the same server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// The number of boosts known to the server; 0 for most new posts, like the next two.
    #[serde(default)]
    pub boosts: u64,
    /// The number of likes.
    #[serde(default)]
    pub likes: u64,
    /// The number of replies.
    #[serde(default)]
    pub replies: u64,
}

/// The author of a post.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author {
    /// `user@host`, also for users of the server that sent the post.
    pub handle: String,
    /// Display name; plain text.
    pub name: String,
    /// URL of the avatar, without animation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar: Option<String>,
    /// Profile page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Whether the account is marked as automated.
    #[serde(default)]
    pub bot: bool,
}

/// The type of an attachment.
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
    /// A file that the server did not recognize or has not fetched.
    Unknown,
}

/// An attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Media {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: MediaType,
    /// The file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// A small picture of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<String>,
    /// Alternative text; plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alt: Option<String>,
    /// Width in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// Height in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// A blurred placeholder, as `BlurHash`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blurhash: Option<String>,
}

/// A custom emoji of a server, written as `:shortcode:`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emoji {
    /// The shortcode without the colons.
    pub shortcode: String,
    /// URL of the picture, without animation.
    pub url: String,
}

/// A poll.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Poll {
    /// The options, in order.
    pub options: Vec<PollOption>,
    /// Whether a voter may choose several options.
    #[serde(default)]
    pub multiple: bool,
    /// The number of votes.
    #[serde(default)]
    pub votes: u64,
    /// The number of voters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voters: Option<u64>,
    /// When voting ends or ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closes_at: Option<Timestamp>,
    /// Whether voting is over.
    #[serde(default)]
    pub closed: bool,
}

/// An option of a poll.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollOption {
    /// Its text; plain text.
    pub title: String,
    /// The number of votes for it; absent while the results are hidden.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub votes: Option<u64>,
}

/// A preview of a linked page. All texts are plain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// The page.
    pub url: String,
    /// Its title.
    pub title: String,
    /// Its description.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// URL of a preview picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The name of the site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
}

/// A deleted post.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostDeleted {
    /// Its `ActivityPub` URI.
    pub id: String,
    /// Host of the server that sent it.
    pub server: String,
    /// When the deletion was received.
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
        let text = serde_json::to_string(&event).expect("JSON");
        assert_eq!(serde_json::from_str::<PostEvent>(&text).expect("a post event"), event);
    }

    #[test]
    fn a_delete_has_no_content_of_the_post() {
        let event = PostEvent::PostDeleted(PostDeleted {
            id: "https://social.example/users/ana/statuses/1".into(),
            server: "social.example".into(),
            at: at("2026-11-22T10:06:00Z"),
        });
        let text = serde_json::to_string(&event).expect("JSON");
        assert_eq!(
            text,
            r#"{"type":"post.deleted","id":"https://social.example/users/ana/statuses/1","server":"social.example","at":"2026-11-22T10:06:00Z"}"#
        );
        assert_eq!(serde_json::from_str::<PostEvent>(&text).expect("a post event"), event);
    }
}
