//! Authors who ask not to be collected.
//!
//! Every event goes through the log, so delivering a post means recording it. Posts of authors who
//! ask not to be indexed, archived, searched, bridged or read by bots are therefore not forwarded.
//! `discoverable` and `indexable` concern suggestions and search inside the network. They are off by
//! default, so they do not exclude an author.

use super::status::Loose;

/// Hashtags in a display name, a biography or a profile field that ask for this.
const REQUESTS: &[&str] = &["nobot", "nobots", "noindex", "noarchive", "nosearch", "nobridge"];

/// Returns whether an account asks not to be collected.
pub(super) fn opted_out(account: Loose<'_>) -> bool {
    let requests = |key: &str, of: Loose<'_>| of.text(key).is_some_and(has_request);
    account.flag("noindex")
        || requests("display_name", account)
        || requests("note", account)
        || account.list("fields").any(|f| requests("name", f) || requests("value", f))
}

/// Returns whether a text has one of the hashtags, which can contain markup: `#<span>nobot</span>`.
fn has_request(html: &str) -> bool {
    if !html.contains(['#', '＃']) {
        return false;
    }
    let mut text = String::with_capacity(html.len());
    let mut in_tag = false;
    for c in html.chars() {
        match c {
            '<' => in_tag = true,
            '>' => in_tag = false,
            c if !in_tag => text.extend(c.to_lowercase()),
            _ => {}
        }
    }
    text.split(['#', '＃']).skip(1).any(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        REQUESTS.contains(&&rest[..end])
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::source::mastodon::status::Status;

    #[test]
    fn only_authors_who_ask_are_excluded() {
        let cases = [
            ("nothing", json!({}), false),
            ("a setting", json!({"noindex": true}), true),
            ("a setting, off", json!({"noindex": false}), false),
            ("not discoverable", json!({"discoverable": false, "indexable": false}), false),
            ("a name", json!({"display_name": "Ana #NoBot"}), true),
            (
                "a biography",
                json!({"note": r#"<p>Hi <a href="https://a.example/tags/nobots" class="mention hashtag">#<span>nobots</span></a></p>"#}),
                true,
            ),
            (
                "a field",
                json!({"fields": [{"name": "x", "value": "y"}, {"name": "#noarchive", "value": ""}]}),
                true,
            ),
            (
                "a field's value",
                json!({"fields": [{"name": "search", "value": "#nosearch!"}]}),
                true,
            ),
            ("a longer hashtag", json!({"note": "#nobotany is a fine subject"}), false),
            ("no hashtag", json!({"note": "nobot"}), false),
            ("a link", json!({"note": r#"<a href="https://a.example/#nobot">x</a>"#}), false),
            ("wrong types", json!({"noindex": 1, "note": 3, "fields": {}}), false),
        ];
        for (name, account, expected) in cases {
            let json = json!({"id": "1", "uri": "https://a.example/1", "account": account});
            let status = Status::new(json).expect("a status");
            assert_eq!(opted_out(status.fields().get("account")), expected, "case: {name}");
        }
        assert!(!opted_out(
            Status::new(json!({"id": "1", "uri": "u", "account": Value::Null}))
                .expect("a status")
                .fields()
                .get("account")
        ));
    }
}
