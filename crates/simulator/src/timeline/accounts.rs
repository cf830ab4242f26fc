//! The accounts of the simulated server, some of which are bots or do not want to be indexed.

use jiff::Timestamp;
use rand::{RngExt, rngs::StdRng};
use serde_json::{Value, json};

use super::phrases::{LANGUAGES, Language};

/// The domain of the simulated server, in handles and links.
pub(crate) const DOMAIN: &str = "social.simulated.example";

/// Servers that the simulated one federates with.
const REMOTES: [&str; 5] = [
    "tidepool.example",
    "fjord.example",
    "kawa.example",
    "pamphlet.example",
    "xn--grn-ioa.example",
];

/// An account that posts.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) username: String,
    pub(super) language: &'static Language,
    pub(super) local: bool,
    pub(super) json: Value,
}

impl Account {
    /// Returns the base address of the account's posts, without their ids.
    pub(super) fn posts(&self) -> String {
        format!("{}/statuses/", self.json["uri"].as_str().unwrap_or_default())
    }

    /// Returns the mention of the account in a post.
    pub(super) fn mention(&self) -> Value {
        let account = &self.json;
        json!({"id": account["id"], "username": account["username"], "url": account["url"], "acct": account["acct"]})
    }
}

/// Returns all accounts. Each language has two local and two remote ones.
pub(super) fn everyone(rng: &mut StdRng, joined: Timestamp) -> Vec<Account> {
    LANGUAGES
        .iter()
        .flat_map(|language| (0..4).map(move |nth| (nth, language)))
        .enumerate()
        .map(|(index, (nth, language))| account(index, nth, language, rng, joined))
        .collect()
}

fn account(
    index: usize,
    nth: usize,
    language: &'static Language,
    rng: &mut StdRng,
    joined: Timestamp,
) -> Account {
    let id = (110_000_000_000_000_000 + index * 7_919).to_string();
    let local = nth < 2;
    let host = if local { DOMAIN } else { REMOTES[index % REMOTES.len()] };
    let code = language.code.to_lowercase().replace('-', "_");
    let word = ["otter", "lantern", "pebble", "comet"][nth];
    let username = format!("{word}_{code}");
    let acct = if local { username.clone() } else { format!("{username}@{host}") };
    let name = language.names[nth % 2];

    // Some accounts of each kind that clients must handle specially.
    let bot = index % 11 == 5;
    let (display_name, note, noindex, indexable) = match index % 13 {
        3 => (name.to_owned(), "<p>Please leave my posts alone. #nobot</p>", false, true),
        6 => (name.to_owned(), "<p>Not for search engines.</p>", true, false),
        8 => (format!("{name} #noindex"), "<p>Hello!</p>", false, true),
        9 => (format!("{name} :wave:"), "<p>I <b>wave</b>.</p>", false, true),
        10 => (format!("<b>{name}</b> & \"friends\""), "<p>Plain text only.</p>", false, true),
        11 => (String::new(), "", false, false),
        _ if bot => (format!("{name} (bot)"), "<p>Automatic posts.</p>", false, true),
        _ => (name.to_owned(), "<p>Made up by a simulator.</p>", false, true),
    };
    let emojis = if display_name.contains(":wave:") { vec![emoji("wave")] } else { Vec::new() };
    let avatar = format!("https://files.{DOMAIN}/avatars/{id}.png");
    let header = format!("https://files.{DOMAIN}/headers/{id}.png");
    let followers: u32 = rng.random_range(0..9_000);
    let mut json = json!({
        "id": id,
        "username": username,
        "acct": acct,
        "display_name": display_name,
        "locked": index % 17 == 2,
        "bot": bot,
        "discoverable": index % 19 != 4,
        "indexable": indexable,
        "group": false,
        "created_at": format!("{}T00:00:00.000Z", joined.strftime("%Y-%m-%d")),
        "note": note,
        "url": format!("https://{host}/@{username}"),
        "uri": format!("https://{host}/users/{username}"),
        "avatar": avatar,
        "avatar_static": avatar,
        "avatar_description": "",
        "header": header,
        "header_static": header,
        "header_description": "",
        "followers_count": followers,
        "following_count": followers / 3,
        "statuses_count": followers / 2,
        "last_status_at": joined.strftime("%Y-%m-%d").to_string(),
        "hide_collections": null,
        "emojis": emojis,
        "fields": [],
    });
    if local {
        json["noindex"] = noindex.into();
        json["roles"] = json!([]);
    }
    Account { username, language, local, json }
}

/// Returns a custom emoji.
pub(super) fn emoji(shortcode: &str) -> Value {
    let url = format!("https://files.{DOMAIN}/emoji/{shortcode}.png");
    json!({"shortcode": shortcode, "url": url, "static_url": url, "visible_in_picker": true})
}
