//! Converts a server's status into the platform-neutral post.
//!
//! Every text is bounded, every address is an http or https URL, and all markup is sanitized.

use std::sync::Arc;

use domain::post::{Author, Card, Emoji, Media, MediaType, Poll, PollOption, Post};
use jiff::Timestamp;
use unicode_normalization::UnicodeNormalization;
use url::Url;

use super::{
    html,
    optout::opted_out,
    status::{Loose, Status},
};

/// Longest URL that is forwarded, in bytes; a shortened URL would not work.
const MAX_URL_BYTES: usize = 2048;
/// Longest name, title or tag, in bytes.
const MAX_LINE_BYTES: usize = 512;
/// Longest description or content warning, in bytes.
const MAX_PARAGRAPH_BYTES: usize = 12 * 1024;
/// Most tags, mentions, attachments or poll options of a post.
const MAX_ITEMS: usize = 64;

/// The server that sent a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerName {
    /// Its host, with the port if that is not the default.
    pub host: Arc<str>,
    /// The domain in its users' handles. It can differ from the host.
    pub domain: String,
}

/// Why a status is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exclusion {
    /// It is not public.
    NotPublic,
    /// It only repeats another post.
    Boost,
    /// Its author asks not to be collected.
    OptedOut,
}

/// Returns an error if a status must not be forwarded.
pub(super) fn admit(status: &Status) -> Result<(), Exclusion> {
    let status = status.fields();
    if status.text("visibility") != Some("public") || status.flag("local_only") {
        return Err(Exclusion::NotPublic);
    }
    if status.get("reblog").is_object() {
        return Err(Exclusion::Boost);
    }
    if opted_out(status.get("account")) { Err(Exclusion::OptedOut) } else { Ok(()) }
}

/// Converts a status into a post. If it has no time, it gets `now`.
pub(super) fn post(status: &Status, server: &ServerName, now: Timestamp) -> Post {
    let fields = status.fields();
    let html = html::sanitize(fields.text("content").unwrap_or_default());
    let content_warning =
        fields.text("spoiler_text").map(paragraph).filter(|text| !text.is_empty());
    Post {
        id: status.uri().to_owned(),
        url: link(fields, "url"),
        server: server.host.to_string(),
        at: status.created_at().unwrap_or(now),
        edited_at: status.edited_at(),
        author: author(fields.get("account"), server),
        text: html::text(&html),
        html,
        truncated: false,
        language: language(status).map(str::to_owned),
        tags: tags(status),
        mentions: fields
            .list("mentions")
            .filter_map(|mention| handle(mention, server))
            .take(MAX_ITEMS)
            .collect(),
        media: fields.list("media_attachments").map(media).take(MAX_ITEMS).collect(),
        emojis: emojis(fields),
        poll: poll(fields.get("poll")),
        card: card(fields.get("card")),
        // A content warning implies that the post is folded. Not all software sets both fields.
        sensitive: fields.flag("sensitive") || content_warning.is_some(),
        content_warning,
        reply_to: fields.id("in_reply_to_id").map(std::borrow::Cow::into_owned),
        boosts: fields.count("reblogs_count").unwrap_or(0),
        likes: fields.count("favourites_count").unwrap_or(0),
        replies: fields.count("replies_count").unwrap_or(0),
    }
}

/// Returns the hashtags of a status, lower-cased and in NFKC form, each once.
pub(super) fn tags(status: &Status) -> Vec<String> {
    let mut tags = Vec::new();
    for tag in status.fields().list("tags").filter_map(|tag| tag.text("name")).take(MAX_ITEMS) {
        let name = line(tag.trim_start_matches('#'));
        let tag: String = name.nfkc().flat_map(char::to_lowercase).nfkc().collect();
        if !tag.is_empty() && !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    tags
}

/// Returns the language code of a status, if it is valid.
pub(super) fn language(status: &Status) -> Option<&str> {
    let is_code = |code: &&str| {
        code.len() <= 35
            && code.split('-').all(|subtag| {
                !subtag.is_empty() && subtag.bytes().all(|byte| byte.is_ascii_alphanumeric())
            })
    };
    status.fields().text("language").filter(is_code)
}

fn author(account: Loose<'_>, server: &ServerName) -> Author {
    let handle = handle(account, server).unwrap_or_else(|| format!("unknown@{}", server.domain));
    let name = account.text("display_name").map(line).filter(|name| !name.is_empty());
    let user = handle.split('@').next().unwrap_or_default();
    Author {
        name: name.unwrap_or_else(|| user.to_owned()),
        avatar: link(account, "avatar_static").or_else(|| link(account, "avatar")),
        url: link(account, "url"),
        bot: account.flag("bot"),
        handle,
    }
}

/// Returns `user@host` of an account or mention.
fn handle(account: Loose<'_>, server: &ServerName) -> Option<String> {
    let name = line(account.text("acct").or_else(|| account.text("username"))?);
    let handle = name.trim_start_matches('@');
    match handle.split_once('@') {
        _ if handle.is_empty() => None,
        Some(_) => Some(handle.to_owned()),
        None => Some(format!("{handle}@{}", server.domain)),
    }
}

fn media(attachment: Loose<'_>) -> Media {
    let meta = attachment.get("meta");
    let size = |key: &str| {
        let sizes = [meta.get("original"), meta.get("small"), meta];
        sizes.iter().find_map(|size| u32::try_from(size.count(key)?).ok()).filter(|size| *size > 0)
    };
    Media {
        kind: match attachment.text("type") {
            Some("image") => MediaType::Image,
            Some("gifv") => MediaType::Gifv,
            Some("video") => MediaType::Video,
            Some("audio") => MediaType::Audio,
            _ => MediaType::Unknown,
        },
        url: link(attachment, "url").or_else(|| link(attachment, "remote_url")),
        preview: link(attachment, "preview_url").or_else(|| link(attachment, "preview_remote_url")),
        alt: attachment.text("description").map(paragraph).filter(|text| !text.is_empty()),
        width: size("width"),
        height: size("height"),
        blurhash: attachment
            .text("blurhash")
            .filter(|hash| hash.len() <= 128 && hash.bytes().all(|byte| byte.is_ascii_graphic()))
            .map(str::to_owned),
    }
}

/// Returns the custom emoji of a status and of its author's name, each once.
fn emojis(status: Loose<'_>) -> Vec<Emoji> {
    let mut emojis: Vec<Emoji> = Vec::new();
    for emoji in status.list("emojis").chain(status.get("account").list("emojis")) {
        let shortcode = emoji.text("shortcode").unwrap_or_default();
        let is_shortcode = (1..=64).contains(&shortcode.len())
            && shortcode.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        let is_known = emojis.iter().any(|known| known.shortcode == shortcode);
        if !is_shortcode || is_known || emojis.len() == MAX_ITEMS {
            continue;
        }
        if let Some(url) = link(emoji, "static_url").or_else(|| link(emoji, "url")) {
            emojis.push(Emoji { shortcode: shortcode.to_owned(), url });
        }
    }
    emojis
}

fn poll(poll: Loose<'_>) -> Option<Poll> {
    let option = |option: Loose<'_>| PollOption {
        title: option.text("title").map(line).unwrap_or_default(),
        votes: option.count("votes_count"),
    };
    let options: Vec<PollOption> = poll.list("options").map(option).take(MAX_ITEMS).collect();
    (!options.is_empty()).then(|| Poll {
        options,
        multiple: poll.flag("multiple"),
        votes: poll.count("votes_count").unwrap_or(0),
        voters: poll.count("voters_count"),
        closes_at: poll.time("expires_at"),
        closed: poll.flag("expired"),
    })
}

/// Converts a card, without its `html`, which can embed other sites.
fn card(card: Loose<'_>) -> Option<Card> {
    Some(Card {
        url: link(card, "url")?,
        title: card.text("title").map(line).unwrap_or_default(),
        description: card.text("description").map(paragraph).filter(|text| !text.is_empty()),
        image: link(card, "image"),
        provider: card.text("provider_name").map(line).filter(|text| !text.is_empty()),
    })
}

/// Returns the URL `key`, if a page may link to it or load it.
fn link(of: Loose<'_>, key: &str) -> Option<String> {
    let url = Url::parse(of.text(key)?).ok()?;
    let url = matches!(url.scheme(), "http" | "https").then(|| String::from(url))?;
    (url.len() <= MAX_URL_BYTES).then_some(url)
}

/// Returns a plain text on one line.
fn line(text: &str) -> String {
    let text = html::cut(text, 4 * MAX_LINE_BYTES);
    plain(&text.split_whitespace().collect::<Vec<_>>().join(" "), MAX_LINE_BYTES)
}

/// Returns a plain text, which can have several lines.
fn paragraph(text: &str) -> String {
    plain(text, MAX_PARAGRAPH_BYTES)
}

/// Removes control characters, and characters that change the reading direction.
fn plain(text: &str, bytes: usize) -> String {
    let turns = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    // Characters are removed, so the input can be longer than the output, but not much longer.
    let text: String = html::cut(text, 4 * bytes)
        .chars()
        .filter(|&c| !turns(c) && (!c.is_control() || c == '\n'))
        .collect();
    html::cut(text.trim(), bytes).trim_end().to_owned()
}

#[cfg(test)]
mod tests;
