//! Detects markup that is slow to parse.
//!
//! As HTML requires, a parser searches all open elements at each tag, and reopens unclosed formatting
//! in each paragraph. Its time grows with the square of the number of tags, and with formatting so
//! does its memory. A post of a few hundred KB could keep it busy for a minute.

/// Most tags, opening and closing. Long articles have hundreds.
const MAX_TAGS: usize = 4_000;
/// Most formatting elements of one name that are open at once.
const MAX_OPEN: usize = 16;
/// Elements that HTML reopens in each paragraph until they are closed.
const FORMATTING: [&str; 14] = [
    "a", "b", "big", "code", "em", "font", "i", "nobr", "s", "small", "strike", "strong", "tt", "u",
];

/// Returns whether `html` is fast to parse.
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
    use super::*;
    use crate::source::mastodon::{fixtures, html};

    /// Repeats `piece`, in which `#` stands for a number.
    fn repeat(piece: &str, count: usize) -> String {
        (0..count).map(|n| piece.replace('#', &n.to_string())).collect()
    }

    #[test]
    fn slow_markup_is_not_parsed_or_stays_small() {
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
        for piece in pieces {
            // Markup of the size of the largest post never reaches the parser.
            let html = repeat(piece, 300_000 / piece.len());
            assert!(!is_bounded(&html), "{piece}");
            let clean = html::sanitize(&html);
            assert!(!clean.contains(piece), "{piece}");
            assert!(clean.len() <= 2 * html.len(), "{piece}: {} bytes", clean.len());
            // With the largest allowed number of tags, the output of the parser is bounded. Like its
            // time, its output grows with the number of elements that it opens.
            let clean = html::sanitize(&repeat(piece, MAX_TAGS / piece.matches('<').count()));
            let opened = clean.matches('<').count();
            assert!(opened <= 2 * MAX_TAGS * MAX_OPEN, "{piece}: {opened} tags");
        }
    }

    #[test]
    fn ordinary_posts_are_bounded() {
        let article = repeat(r#"<p><b>#</b> <a href="https://a.example/#">x</a><br></p>"#, 500);
        assert!(is_bounded(&article));
        assert!(is_bounded("a < b, b << c"));
        for line in fixtures::lines("statuses.jsonl", "statuses-real.jsonl") {
            assert!(is_bounded(line["status"]["content"].as_str().unwrap_or_default()));
        }
    }

    #[test]
    fn markup_that_is_not_bounded_keeps_its_text() {
        let html = format!("<p>Hello &amp; <script>{}</p>", "<i>x".repeat(MAX_TAGS));
        let clean = html::sanitize(&html);
        assert!(clean.starts_with("<p>Hello &amp; xx"), "{clean:.40}");
    }
}
