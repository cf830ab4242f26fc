//! The content of a post: text with Mastodon's markup, and everything that can be attached.

use std::fmt::Write as _;

use jiff::Timestamp;
use rand::{RngExt, rngs::StdRng};
use serde_json::{Value, json};

use super::{
    accounts::{Account, DOMAIN, emoji},
    phrases::HOSTILE,
};

/// The length at which a long post stops growing.
const LONG: usize = 30_000;

/// The parts of a post that chance decides.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) html: String,
    pub(super) tags: Vec<String>,
    pub(super) mentions: Vec<Value>,
    pub(super) media: Vec<Value>,
    pub(super) emojis: Vec<Value>,
    pub(super) poll: Value,
    pub(super) card: Value,
    pub(super) spoiler: &'static str,
    pub(super) visibility: &'static str,
    pub(super) language: Value,
}

impl Content {
    /// Writes a post of `author`, in reply to `answered` if there is one.
    pub(super) fn write(
        author: &Account,
        answered: Option<&Account>,
        now: Timestamp,
        rng: &mut StdRng,
    ) -> Self {
        let mut content = Self { visibility: "public", ..Self::default() };
        content.language = match rng.random_range(0..25) {
            0 => Value::Null,
            _ => author.language.code.into(),
        };
        if rng.random_ratio(1, 25) {
            content.html.push_str(HOSTILE[rng.random_range(0..HOSTILE.len())]);
        } else {
            content.write_text(author, answered, rng);
        }
        if rng.random_ratio(1, 5) {
            let count = [1, 1, 1, 2, 4][rng.random_range(0..5)];
            content.media = (0..count).map(|nth| attachment(nth, rng)).collect();
        } else if rng.random_ratio(1, 20) {
            content.poll = poll(author, now, rng);
        } else if rng.random_ratio(1, 10) {
            content.link(rng);
        }
        if rng.random_ratio(1, 14) {
            content.spoiler = ["food", "long, sorry", "spoilers <ahead>", "politics & weather"]
                [rng.random_range(0..4)];
        }
        content.visibility = match rng.random_range(0..100) {
            0 => "unlisted",
            1 => "private",
            _ => "public",
        };
        content
    }

    /// Changes the text, as people do to correct a mistake.
    pub(super) fn corrected(html: &str, nth: usize) -> String {
        format!("{html}<p>(edit {nth}: a word was missing)</p>")
    }

    fn write_text(&mut self, author: &Account, answered: Option<&Account>, rng: &mut StdRng) {
        let language = author.language;
        let mut sentence = || language.sentences[rng.random_range(0..language.sentences.len())];
        let mut text = escape(sentence());
        let more = sentence();
        let long = sentence();
        match rng.random_range(0..10) {
            0..4 => text = format!("{text} {}", escape(more)),
            4 => text = format!("{text}<br>{}", escape(more)),
            5 => text = format!("{text}</p><p>{}", escape(more)),
            _ => {}
        }
        if rng.random_ratio(1, 300) {
            while text.len() < LONG {
                text = format!("{text}</p><p>{} {}", escape(long), text.len());
            }
        } else if rng.random_ratio(1, 150) {
            text = format!("{text} {}", "a".repeat(400));
        }
        if rng.random_ratio(1, 12) {
            text.push_str(" :headwater:");
            self.emojis.push(emoji("headwater"));
        }
        if let Some(other) = answered {
            let url = other.json["url"].as_str().unwrap_or_default();
            let name = &other.username;
            text = format!(
                r#"<span class="h-card" translate="no"><a href="{url}" class="u-url mention">@<span>{name}</span></a></span> {text}"#
            );
            self.mentions.push(other.mention());
        }
        for tag in language.tags.iter().filter(|_| rng.random_ratio(1, 4)) {
            let _ = write!(
                text,
                r#" <a href="https://{DOMAIN}/tags/{tag}" class="mention hashtag" rel="tag">#<span>{tag}</span></a>"#
            );
            self.tags.push((*tag).to_owned());
        }
        self.html = format!("<p>{text}</p>");
    }

    fn link(&mut self, rng: &mut StdRng) {
        let number: u32 = rng.random_range(1_000..9_999);
        let url = format!("https://news.simulated.example/stories/{number}");
        let _ = write!(
            self.html,
            r#"<p><a href="{url}" rel="nofollow noopener" translate="no" target="_blank"><span class="invisible">https://</span><span class="ellipsis">news.simulated.example/storie</span><span class="invisible">s/{number}</span></a></p>"#
        );
        self.card = json!({
            "url": url, "title": format!("Story {number} <that never happened>"),
            "description": "A made-up article.", "type": "link", "author_name": "", "author_url": "",
            "provider_name": "Simulated News", "provider_url": "https://news.simulated.example",
            "html": "", "width": 400, "height": 210,
            "image": format!("https://files.{DOMAIN}/cards/{number}.png"), "image_description": "",
            "embed_url": "", "blurhash": "UBHLk@ofM{ayt7WBj[fQ00fQ~qof9Fj[WBj[",
            "published_at": null, "authors": [], "language": "en",
        });
    }
}

fn attachment(nth: usize, rng: &mut StdRng) -> Value {
    let id: u64 = rng.random_range(100_000_000..999_999_999);
    let (kind, extension) =
        [("image", "jpg"), ("image", "png"), ("gifv", "mp4"), ("video", "mp4"), ("audio", "ogg")]
            [rng.random_range(0..5)];
    let (width, height) = [(1200, 800), (800, 1200), (1600, 900)][rng.random_range(0..3)];
    // Some authors describe their pictures, some do not, and some try to break the page.
    let description = match rng.random_range(0..6) {
        0 => Value::Null,
        1 => "A \"quoted\" <b>description</b> & more".into(),
        _ => format!("Made-up picture number {} of a river at dawn", nth + 1).into(),
    };
    let size = |width: u32, height: u32| {
        let aspect = f64::from(width) / f64::from(height);
        json!({"width": width, "height": height, "size": format!("{width}x{height}"), "aspect": aspect})
    };
    let (meta, blurhash, preview) = if kind == "audio" {
        (json!({"original": {"duration": 31.2, "bitrate": 128_000}}), Value::Null, Value::Null)
    } else {
        let preview = format!("https://files.{DOMAIN}/media/{id}/small.png");
        (
            json!({"original": size(width, height), "small": size(width / 2, height / 2)}),
            "UKJRm?00~qxu4nRj%MRj_3t7IUxuRjWBt7xu".into(),
            preview.into(),
        )
    };
    json!({
        "id": id.to_string(), "type": kind, "preview_url": preview, "remote_url": null,
        "url": format!("https://files.{DOMAIN}/media/{id}/original.{extension}"),
        "preview_remote_url": null, "text_url": null, "meta": meta, "description": description,
        "blurhash": blurhash,
    })
}

fn poll(author: &Account, now: Timestamp, rng: &mut StdRng) -> Value {
    let count = rng.random_range(2..=4);
    let options: Vec<_> = author.language.tags.iter().chain(&["<i>none</i>"]).take(count).collect();
    let votes: Vec<u32> = options.iter().map(|_| rng.random_range(0..40)).collect();
    let total: u32 = votes.iter().sum();
    let id: u32 = rng.random_range(10_000..99_999);
    json!({
        "id": id.to_string(),
        "expires_at": format!("{:.3}", now + jiff::SignedDuration::from_hours(24)),
        "expired": false, "multiple": false, "votes_count": total, "voters_count": total,
        "options": options.iter().zip(votes)
            .map(|(title, votes)| json!({"title": title, "votes_count": votes})).collect::<Vec<_>>(),
        "emojis": [],
    })
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&#39;")
}
