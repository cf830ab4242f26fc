//! Markup that takes a parser long.
//!
//! A parser does as HTML says: it looks through all open elements at a tag, and opens formatting
//! that was left open again in each paragraph. So its time, and with formatting its memory, grows
//! with the square of the tags, and a post of a few hundred KB can keep it busy for a minute.

/// Most tags, opening and closing. Long articles have hundreds.
const MAX_TAGS: usize = 4_000;
/// Most formatting elements of one name that are open at once.
const MAX_OPEN: usize = 16;
/// Elements that HTML opens again in each paragraph until they are closed.
const FORMATTING: [&str; 14] = [
    "a", "b", "big", "code", "em", "font", "i", "nobr", "s", "small", "strike", "strong", "tt", "u",
];

/// Whether a parser is done with `html` soon.
pub(super) fn is_bounded(html: &str) -> bool {
    let mut open = [0_usize; FORMATTING.len()];
    for (count, tag) in html.split('<').skip(1).enumerate() {
        if count >= MAX_TAGS {
            return false;
        }
        let closing = tag.strip_prefix('/');
        let name = closing.unwrap_or(tag);
        let end = name.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(name.len());
        let of = FORMATTING.iter().position(|known| name[..end].eq_ignore_ascii_case(known));
        let Some(open) = of.map(|index| &mut open[index]) else { continue };
        *open = if closing.is_some() { open.saturating_sub(1) } else { *open + 1 };
        if *open > MAX_OPEN {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::source::mastodon::{fixtures, html};

    /// Text made of `piece`, in which `#` is a number, with as many tags as are read.
    fn repeat(piece: &str, count: usize) -> String {
        (0..count).map(|n| piece.replace('#', &n.to_string())).collect()
    }

    #[test]
    fn markup_made_to_be_slow_is_not() {
        let pieces = [
            "<ul><li>",
            "<p><b><i><u>",
            "<ruby><rt>",
            "<a href=https://a.example>",
            "<p><b lang=#>",
            "<b lang=#></i><p>",
            "</b><p><b lang=#></p>",
            "<b lang=#><p></b>",
            "<div><p>",
            "</p>",
            "<table><tr><td>",
            "<svg><g>",
            "<a><b lang=#><p></a>",
        ];
        let repeats = pieces.iter().flat_map(|piece| {
            [MAX_TAGS / piece.matches('<').count(), 300_000 / piece.len()].map(|n| (piece, n))
        });
        for (piece, count) in repeats {
            let html = repeat(piece, count);
            let began = Instant::now();
            let clean = html::sanitise(&html);
            // Far more than it takes, but a small part of what it took unbounded.
            assert!(began.elapsed().as_secs() < 5, "{piece}: {:?}", began.elapsed());
            assert!(clean.len() < 20 * 1024 * 1024, "{piece}: {} bytes", clean.len());
        }
    }

    #[test]
    fn what_people_write_is_bounded() {
        let article = repeat(r#"<p><b>#</b> <a href="https://a.example/#">x</a><br></p>"#, 500);
        assert!(is_bounded(&article));
        assert!(is_bounded("a < b, b << c"));
        for line in fixtures::lines("statuses.jsonl", "statuses-real.jsonl") {
            assert!(is_bounded(line["status"]["content"].as_str().unwrap_or_default()));
        }
    }

    #[test]
    fn what_is_not_keeps_its_text() {
        let html = format!("<p>Hello &amp; <script>{}</p>", "<i>x".repeat(MAX_TAGS));
        let clean = html::sanitise(&html);
        assert!(clean.starts_with("<p>Hello &amp; xx"), "{clean:.40}");
    }
}
