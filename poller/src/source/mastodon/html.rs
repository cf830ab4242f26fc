//! Untrusted markup: sanitizes it, and converts it to text.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

use ammonia::{Builder, UrlRelative};

mod complexity;

/// Elements that are kept. Of all others, only the text is kept.
const ELEMENTS: &[&str] = &[
    "a",
    "b",
    "blockquote",
    "br",
    "code",
    "del",
    "div",
    "em",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "i",
    "li",
    "ol",
    "p",
    "pre",
    "rp",
    "rt",
    "ruby",
    "s",
    "span",
    "strong",
    "sub",
    "sup",
    "u",
    "ul",
];

/// Elements whose text is dropped as well, because people do not read it.
const DROPPED: &[&str] = &[
    "iframe", "math", "noembed", "noframes", "noscript", "object", "script", "select", "style",
    "svg", "template", "textarea", "title", "xmp",
];

/// Classes that clients use to style and fold text. All others are dropped, so that no post can
/// imitate a page.
const CLASSES: &[&str] =
    &["ellipsis", "h-card", "hashtag", "invisible", "mention", "quote-inline", "u-url"];

static SANITIZER: LazyLock<Builder<'static>> = LazyLock::new(|| {
    let set = |items: &[&'static str]| items.iter().copied().collect::<HashSet<_>>();
    let mut builder = Builder::empty();
    builder
        .tags(set(ELEMENTS))
        .clean_content_tags(set(DROPPED))
        .generic_attributes(set(&["lang"]))
        .tag_attributes(HashMap::from([
            ("a", set(&["href"])),
            ("ol", set(&["start", "reversed"])),
            ("li", set(&["value"])),
        ]))
        .tag_attribute_values(HashMap::from([
            ("a", HashMap::from([("translate", set(&["no"]))])),
            ("span", HashMap::from([("translate", set(&["no"]))])),
        ]))
        .allowed_classes(HashMap::from([
            ("a", set(CLASSES)),
            ("span", set(CLASSES)),
            ("p", set(CLASSES)),
        ]))
        .url_schemes(set(&["http", "https", "mailto"]))
        .url_relative(UrlRelative::Deny)
        .attribute_filter(|_, attribute, value| {
            Some(if attribute == "href" { tidy_link(value) } else { value.into() })
        })
        .link_rel(Some("nofollow noopener noreferrer"))
        .strip_comments(true);
    builder
});

/// Largest HTML that is parsed, in bytes: twice the largest event.
const MAX_HTML_BYTES: usize = 256 * 1024;

/// Most passes until markup is stable. Nearly all markup is stable after two.
const MAX_PASSES: usize = 4;

/// Removes from a link what browsers ignore in it, because other clients may not (WHATWG URL Standard, section 4.4:
/// the basic URL parser).
fn tidy_link(link: &str) -> Cow<'_, str> {
    let link = link.trim_matches(|c| c <= ' ');
    let ignored = ['\t', '\n', '\r'];
    if link.contains(ignored) { link.replace(ignored, "").into() } else { link.into() }
}

/// Returns the part of `html` that is safe to insert into a page.
///
/// The result is stable: sanitizing it again changes nothing. If an element is dropped, its children
/// can end up where HTML does not allow them, so several passes may be necessary. Markup that is slow
/// to parse is dropped, and only its text is kept.
pub(super) fn sanitize(html: &str) -> String {
    let html = cut(html, MAX_HTML_BYTES);
    if !complexity::is_bounded(html) {
        return from_text(&text(html));
    }
    let mut clean = SANITIZER.clean(html).to_string();
    for _ in 0..MAX_PASSES {
        let again = SANITIZER.clean(&clean).to_string();
        if again == clean {
            return clean;
        }
        clean = again;
    }
    from_text(&text(&clean))
}

/// Returns the text of sanitized HTML: `br` is a line break, the end of a block a blank line.
///
/// Parts that clients fold, such as the start of a link, are included.
pub(super) fn text(sanitized: &str) -> String {
    let mut out = Plain::default();
    let mut rest = sanitized;
    while let Some((before, tag)) = rest.split_once('<') {
        out.push(&decode(before));
        // A sanitized attribute has neither `<` nor `>`.
        let Some((tag, after)) = tag.split_once('>') else { break };
        out.tag(tag.split([' ', '\t', '\n']).next().unwrap_or_default());
        rest = after;
    }
    out.push(&decode(rest));
    out.text.truncate(out.text.trim_end().len());
    out.text
}

/// Returns the beginning of `text`, at most `bytes` long.
pub(super) fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// Returns HTML that shows `text`.
pub(super) fn from_text(text: &str) -> String {
    let mut html = String::with_capacity(text.len() + 16);
    for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
        html.push_str("<p>");
        for (index, line) in paragraph.split('\n').enumerate() {
            if index > 0 {
                html.push_str("<br>");
            }
            for c in line.chars() {
                match c {
                    '&' => html.push_str("&amp;"),
                    '<' => html.push_str("&lt;"),
                    '>' => html.push_str("&gt;"),
                    '\u{a0}' => html.push_str("&nbsp;"),
                    c => html.push(c),
                }
            }
        }
        html.push_str("</p>");
    }
    html
}

/// Decodes the character references that sanitized HTML can have, once.
fn decode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        let known =
            [("amp;", '&'), ("lt;", '<'), ("gt;", '>'), ("nbsp;", '\u{a0}'), ("quot;", '"')];
        let found = known.iter().find_map(|(name, c)| Some((*c, after.strip_prefix(name)?)));
        let (c, after) = found.unwrap_or(('&', after));
        out.push(c);
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Text that is being built. Line breaks are added when text follows them.
#[derive(Default)]
struct Plain {
    text: String,
    breaks: usize,
    preformatted: usize,
}

impl Plain {
    fn tag(&mut self, tag: &str) {
        match tag {
            "br" => self.breaks = (self.breaks + 1).min(2),
            "pre" => {
                self.breaks = 2;
                self.preformatted += 1;
            }
            "/pre" => {
                self.breaks = 2;
                self.preformatted = self.preformatted.saturating_sub(1);
            }
            "p" | "/p" | "blockquote" | "/blockquote" | "/ul" | "/ol" | "h1" | "/h1" | "h2"
            | "/h2" | "h3" | "/h3" | "h4" | "/h4" | "h5" | "/h5" | "h6" | "/h6" => self.breaks = 2,
            "li" | "/li" | "ul" | "ol" | "div" | "/div" => self.breaks = self.breaks.max(1),
            _ => {}
        }
    }

    fn push(&mut self, text: &str) {
        for c in text.chars() {
            let c = match c {
                '\n' | '\t' if self.preformatted > 0 => c,
                ' ' | '\n' | '\t' | '\r' | '\u{c}' => ' ',
                c if c.is_control() => continue,
                c => c,
            };
            if self.breaks > 0 {
                // Space next to a break is layout of the HTML and not part of the text.
                if c == ' ' && self.preformatted == 0 {
                    continue;
                }
                if !self.text.is_empty() {
                    self.text.truncate(self.text.trim_end_matches([' ', '\n']).len());
                    self.text.push_str(if self.breaks > 1 { "\n\n" } else { "\n" });
                }
                self.breaks = 0;
            }
            self.text.push(c);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::source::mastodon::fixtures;

    #[test]
    fn only_harmless_markup_is_kept() {
        let cases = [
            ("script", "<p>a<script>alert(1)</script>b</p>", "<p>ab</p>"),
            ("handler", "<p onclick=x()>a<img src=x onerror=alert(1)></p>", "<p>a</p>"),
            (
                "scheme",
                r#"<a href="javascript:alert(1)">a</a>"#,
                r#"<a rel="nofollow noopener noreferrer">a</a>"#,
            ),
            (
                "hidden scheme",
                "<a href=\" \u{1}java\nscript:alert(1)\">a</a>",
                r#"<a rel="nofollow noopener noreferrer">a</a>"#,
            ),
            (
                "relative",
                r#"<a href="/admin">a</a>"#,
                r#"<a rel="nofollow noopener noreferrer">a</a>"#,
            ),
            (
                "mail",
                r#"<a href="mailto:a@b.example">a</a>"#,
                r#"<a href="mailto:a@b.example" rel="nofollow noopener noreferrer">a</a>"#,
            ),
            (
                "control characters in a link",
                "<a href=\" \u{1}HT\nTP:a.example\u{1f}\">a</a>",
                r#"<a href="HTTP:a.example" rel="nofollow noopener noreferrer">a</a>"#,
            ),
            (
                "own rel",
                r#"<a href="https://a.example/" rel="me" target="_self">a</a>"#,
                r#"<a href="https://a.example/" rel="nofollow noopener noreferrer">a</a>"#,
            ),
            ("style", r#"<p style="position:fixed">a<style>p{}</style></p>"#, "<p>a</p>"),
            (
                "classes",
                r#"<span class="invisible toolbar mention">a</span>"#,
                r#"<span class="invisible mention">a</span>"#,
            ),
            ("form", r#"<form action="https://evil.example"><input name="password">a</form>"#, "a"),
            ("svg", "a<svg><a href='https://a.example'>b</a></svg>c", "ac"),
            ("comment", "a<!-- b -->c", "ac"),
            ("unclosed", "<p><b>a", "<p><b>a</b></p>"),
            (
                "ruby",
                "<ruby>漢<rp>(</rp><rt>かん</rt><rp>)</rp></ruby>",
                "<ruby>漢<rp>(</rp><rt>かん</rt><rp>)</rp></ruby>",
            ),
            (
                "links in a link",
                "<a><table><a>",
                r#"<a rel="nofollow noopener noreferrer"></a><a rel="nofollow noopener noreferrer"></a>"#,
            ),
            ("text", "1 < 2 & 3", "1 &lt; 2 &amp; 3"),
            ("emoji", "<p>:blobcat:</p>", "<p>:blobcat:</p>"),
        ];
        for (name, html, expected) in cases {
            assert_eq!(sanitize(html), expected, "case: {name}");
        }
    }

    #[test]
    fn text_is_what_people_read() {
        let cases = [
            ("paragraphs", "<p>a</p><p>b<br>c</p>", "a\n\nb\nc"),
            ("layout", "<p>a</p>\n  <p>b <br>\n c\nd</p>\n", "a\n\nb\nc d"),
            (
                "entities, once",
                "<p>&amp;lt;b&amp;gt; &lt;i&gt; &#39;&quot; a&nbsp;b</p>",
                "&lt;b&gt; <i> '\" a\u{a0}b",
            ),
            (
                "folded link",
                r#"<a href="https://a.example/long/path"><span class="invisible">https://</span><span class="ellipsis">a.example/lo</span><span class="invisible">ng/path</span></a>"#,
                "https://a.example/long/path",
            ),
            (
                "mention",
                r#"<span class="h-card"><a href="https://a.example/@b">@<span>b</span></a></span> hi"#,
                "@b hi",
            ),
            ("list", "<p>x</p><ul><li>a</li><li>b</li></ul><p>c</p>", "x\n\na\nb\n\nc"),
            (
                "code",
                "<pre><code>fn main() {\n    x\n}</code></pre><p>y</p>",
                "fn main() {\n    x\n}\n\ny",
            ),
            ("many breaks", "<p>a<br><br><br><br>b</p><p></p><p></p><p>c</p>", "a\n\nb\n\nc"),
            ("control characters", "a\u{7}b\u{1b}[31mc", "ab[31mc"),
            ("nothing", "", ""),
        ];
        for (name, html, expected) in cases {
            assert_eq!(text(&sanitize(html)), expected, "case: {name}");
        }
    }

    #[test]
    fn a_cut_keeps_whole_characters() {
        assert_eq!(cut("aé日", 3), "aé");
        assert_eq!(cut("aé日", 2), "a");
        assert_eq!(cut("aé日", 100), "aé日");
    }

    #[test]
    fn real_posts_keep_their_words() {
        for line in fixtures::lines("statuses.jsonl", "statuses-real.jsonl") {
            let content = line["status"]["content"].as_str().unwrap_or_default();
            let clean = sanitize(content);
            assert_safe(&clean);
            assert_eq!(sanitize(&clean), clean, "stable: {content:.300}");
            let words = |html: &str| text(html).split_whitespace().collect::<String>();
            assert_eq!(words(&from_text(&text(&clean))), words(&clean));
        }
    }

    /// Asserts that markup has only allowed elements and attributes.
    pub(in crate::source::mastodon) fn assert_safe(clean: &str) {
        let mut rest = clean;
        while let Some((before, tag)) = rest.split_once('<') {
            assert!(!before.contains('>'), "stray bracket in {clean:?}");
            let (tag, after) = tag.split_once('>').expect("a closed tag");
            let name = tag.trim_start_matches('/').split(' ').next().expect("a name");
            assert!(ELEMENTS.contains(&name), "element {name:?} in {clean:?}");
            let mut attributes = tag.split_once(' ').map_or("", |(_, attributes)| attributes);
            while !attributes.is_empty() {
                let (name, value) = attributes.split_once("=\"").expect("an attribute");
                let (value, more) = value.split_once('"').expect("a closed attribute");
                match name.trim() {
                    "href" => assert!(
                        ["http:", "https:", "mailto:"]
                            .iter()
                            .any(|s| value.to_lowercase().starts_with(s)),
                        "link to {value:?}"
                    ),
                    "rel" => assert_eq!(value, "nofollow noopener noreferrer"),
                    "class" => assert!(
                        value.split(' ').all(|class| class.is_empty() || CLASSES.contains(&class))
                    ),
                    "lang" | "start" | "reversed" | "value" => {}
                    "translate" => assert_eq!(value, "no"),
                    name => panic!("attribute {name:?} in {clean:?}"),
                }
                attributes = more;
            }
            rest = after;
        }
    }

    fn markup() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            "[ -~]{0,12}",
            "\\PC{0,4}",
            "</?(p|a|b|span|div|svg|math|script|style|table|td|select|option|li|ol|ul|pre|ruby|rt|br|h1|img|template|noscript|title|textarea|form|code|blockquote|i)( (href|onclick|class|style|src|id|lang)=\"?(javascript:x|https://a.example/?a=1&b=\"|mention|x)\"?){0,2}/?>",
            "(<!--|-->|<!\\[CDATA\\[|\\]\\]>|&lt;|&#60;|&amp;lt;|&#x3c;script&gt;|\\x00|<|>|\")",
        ];
        prop::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn whatever_comes_in_only_harmless_markup_comes_out(html in markup()) {
            let clean = sanitize(&html);
            assert_safe(&clean);
            prop_assert_eq!(sanitize(&clean), clean);
        }

        #[test]
        fn text_has_no_markup(html in markup()) {
            let clean = sanitize(&html);
            let text = text(&clean);
            // A bracket in the text stands for one that was written as text.
            let texts = clean.split('<').map(|part| part.split_once('>').map_or(part, |(_, text)| text));
            let written: usize = texts.map(|part| part.matches("&lt;").count()).sum();
            prop_assert_eq!(text.matches('<').count(), written);
            let again = from_text(&text);
            assert_safe(&again);
            prop_assert_eq!(sanitize(&again), again);
        }
    }
}
