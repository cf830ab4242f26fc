//! Keeps every event within the largest size of a message.

use bytes::Bytes;
use domain::{
    frame::MAX_EVENT_BYTES,
    post::{Post, PostEvent},
};

use super::html;

/// How many bytes of text a post keeps if it is too large. With the last number, it always fits.
const TEXT_BYTES: [usize; 2] = [16 * 1024, 4 * 1024];

/// Returns the JSON of an event. A post that is too large loses the end of its text.
pub(super) fn fit(mut event: PostEvent) -> Bytes {
    let mut json = to_json(&event);
    for (attempt, bytes) in TEXT_BYTES.into_iter().enumerate() {
        if json.len() <= MAX_EVENT_BYTES {
            break;
        }
        if let PostEvent::Post(post) | PostEvent::PostEdited(post) = &mut event {
            let end = html::cut(&post.text, bytes).trim_end().len();
            post.text.truncate(end);
            post.html = html::from_text(&post.text);
            post.truncated = true;
            if attempt > 0 {
                drop_the_rest(post);
            }
        }
        json = to_json(&event);
    }
    json
}

fn to_json(event: &PostEvent) -> Bytes {
    serde_json::to_vec(event).expect("every map in a post has texts as keys").into()
}

/// Drops the parts that take much space only in a post that is large on purpose.
fn drop_the_rest(post: &mut Post) {
    post.media.clear();
    post.emojis.clear();
    post.mentions.clear();
    post.tags.truncate(16);
    post.poll = None;
    post.card = None;
    if let Some(warning) = &mut post.content_warning {
        let end = html::cut(warning, 2048).len();
        warning.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use domain::post::{Author, Media, MediaType};
    use proptest::prelude::*;

    use super::*;

    fn post(text: String, media: usize, tags: usize, warning: String) -> Post {
        let html = html::from_text(&text);
        let at = "2026-11-22T10:00:00Z".parse().expect("a time");
        Post {
            id: "https://a.example/1".into(),
            url: None,
            server: "a.example".into(),
            at,
            edited_at: None,
            author: Author {
                handle: "a@a.example".into(),
                name: "\"".repeat(512),
                avatar: None,
                url: None,
                bot: false,
            },
            html,
            text,
            truncated: false,
            language: None,
            tags: vec!["\"".repeat(512); tags],
            mentions: vec!["\"".repeat(512); tags],
            emojis: Vec::new(),
            media: vec![
                Media {
                    kind: MediaType::Image,
                    url: Some("https://a.example/?\\".repeat(100)),
                    preview: None,
                    alt: Some("\"".repeat(12 * 1024)),
                    width: None,
                    height: None,
                    blurhash: None,
                };
                media
            ],
            poll: None,
            card: None,
            content_warning: Some(warning),
            sensitive: false,
            reply_to: None,
            boosts: 0,
            likes: 0,
            replies: 0,
        }
    }

    fn read(json: &Bytes) -> Post {
        match serde_json::from_slice(json).expect("an event") {
            PostEvent::Post(post) | PostEvent::PostEdited(post) => *post,
            PostEvent::PostDeleted(_) => panic!("a post"),
        }
    }

    #[test]
    fn a_post_that_fits_is_whole() {
        let whole = post("a\n\nb".into(), 1, 1, String::new());
        assert_eq!(read(&fit(PostEvent::Post(Box::new(whole.clone())))), whole);
    }

    #[test]
    fn a_post_that_is_too_large_keeps_the_start_of_its_text() {
        let mut large = post("aé<&日 ".repeat(20_000), 1, 1, "careful".into());
        large.html = "<p><b>x</b></p>".repeat(10_000);
        let cut = read(&fit(PostEvent::PostEdited(Box::new(large.clone()))));
        assert!(cut.truncated);
        assert!((16 * 1024 - 8..=16 * 1024).contains(&cut.text.len()), "{}", cut.text.len());
        assert!(large.text.starts_with(&cut.text));
        assert_eq!(html::sanitize(&cut.html), cut.html);
        assert_eq!(html::text(&cut.html), cut.text);
        assert_eq!(cut.media, large.media);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn every_event_fits(
            unit in "[a-z\"\\\\&<>\n]|日|👍", count in 0..60_000_usize, media in 0..64_usize, tags in 0..64_usize, warning in 0..12_288_usize,
        ) {
            let post = post(unit.repeat(count), media, tags, unit.repeat(warning));
            let json = fit(PostEvent::PostEdited(Box::new(post)));
            prop_assert!(json.len() <= MAX_EVENT_BYTES, "{} bytes", json.len());
        }
    }
}
