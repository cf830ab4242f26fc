//! What the sets that are built in permit, and what is said of unsound ones.

use proptest::prelude::*;

use super::*;

fn set(policies: &str) -> Result<Policies, Unsound> {
    Policies::read(SetText { policies: policies.to_owned(), ..SetText::preset() })
}

fn somebody(class: &str) -> Principal {
    match class {
        ANONYMOUS => Principal::anonymous(),
        class => Principal::named("ann", class.split(',')).expect("a principal"),
    }
}

fn topic(text: &str) -> Topic {
    Topic::parse(text).expect("a topic")
}

#[test]
fn the_default_set_gives_each_class_its_own() {
    const TICKER: &str = "coinbase/ticker/BTC-USD";
    const MATCHES: &str = "coinbase/matches/BTC-USD";
    const LEVEL2: &str = "coinbase/level2/BTC-USD";
    const POSTS: &str = "mastodon/tag/rust";
    let set = Policies::read(SetText::preset()).expect("sound");
    // Class, may connect, ticker, posts, states, matches, level2, may do everything.
    let cases = [
        ("anonymous", true, true, false, false, false),
        ("stranger", true, true, false, false, false),
        ("member", true, true, true, false, false),
        ("trader", true, true, true, true, false),
        ("admin", true, true, true, true, true),
        ("blocked", false, false, false, false, false),
        ("trader,blocked", false, false, false, false, false),
        ("member,stranger", true, true, true, false, false),
    ];
    for (class, connect, public, matches, level2, admin) in cases {
        let who = somebody(class);
        assert_eq!(set.allows(&who, Right::Connect), connect, "case: {class} connect");
        assert_eq!(set.allows(&who, Right::Admin), admin, "case: {class} admin");
        let topics = [
            (TICKER, public),
            (POSTS, public),
            ("mastodon/public", public),
            ("system/sources", public),
            (MATCHES, matches),
            (LEVEL2, level2),
        ];
        for (name, expected) in topics {
            let topic = topic(name);
            // Twice: the second answer is one that was kept.
            for _ in 0..2 {
                let subscribe = set.allows(&who, Right::Subscribe(&topic));
                assert_eq!(subscribe, expected, "case: {class} subscribe {name}");
                let history = set.allows(&who, Right::History(&topic));
                assert_eq!(history, expected, "case: {class} history {name}");
            }
        }
    }
}

#[test]
fn the_open_set_gives_everything_but_itself() {
    let set = Policies::read(SetText::open()).expect("sound");
    let anybody = Principal::anonymous();
    let level2 = topic("coinbase/level2/BTC-USD");
    assert!(set.allows(&anybody, Right::Connect));
    assert!(set.allows(&anybody, Right::Subscribe(&level2)));
    assert!(set.allows(&anybody, Right::History(&level2)));
    assert!(!set.allows(&anybody, Right::Admin));
    assert_eq!(set.limits_of(&anybody).history, None);
}

#[test]
fn a_policy_can_speak_of_one_person_one_topic_and_parts_of_names() {
    let set = set(r#"
        permit (principal, action, resource);
        forbid (principal == User::"mallory", action, resource);
        forbid (principal, action == Action::"history", resource == Topic::"mastodon/public");
        forbid (principal in Class::"euro", action, resource is Topic)
            unless { resource has key && resource.key like "*-EUR" };
    "#)
    .expect("sound");
    let (ann, mallory) = (somebody("member"), Principal::named("mallory", ["member"]));
    let mallory = mallory.expect("a principal");
    // The same class, asked in both orders: what is kept for one does not serve the other.
    for _ in 0..2 {
        assert!(!set.allows(&mallory, Right::Connect));
        assert!(set.allows(&ann, Right::Connect));
    }
    let public = topic("mastodon/public");
    assert!(set.allows(&ann, Right::Subscribe(&public)));
    assert!(!set.allows(&ann, Right::History(&public)));
    let euro = somebody("euro");
    assert!(set.allows(&euro, Right::Subscribe(&topic("coinbase/matches/BTC-EUR"))));
    assert!(!set.allows(&euro, Right::Subscribe(&topic("coinbase/matches/BTC-USD"))));
    assert!(!set.allows(&euro, Right::Subscribe(&public)));
}

#[test]
fn limits_are_those_of_the_class_or_of_anonymous() {
    let set = Policies::read(SetText::preset()).expect("sound");
    let anonymous = set.limits_of(&Principal::anonymous());
    assert_eq!((anonymous.topics, anonymous.messages_per_second), (50, 10));
    assert_eq!(set.limits_of(&somebody("stranger")), anonymous);
    assert_eq!(set.limits_of(&somebody("trader")).history, None);
    let both = set.limits_of(&somebody("anonymous,trader"));
    assert_eq!((both.connections, both.topics, both.history), (Some(100), 100, None));
}

#[test]
fn faults_have_their_place() {
    let cases = [
        ("permit (principal, action, resource)", 1, 37, "unexpected end"),
        ("// x\n  permit (principal, action == Action::\"read\", resource);", 2, 32, "read"),
        ("permit (principal in Group::\"x\", action, resource);", 1, 22, "Group"),
        ("permit (principal, action, resource) when { resource.color == \"x\" };", 1, 45, "color"),
        ("permit (principal == ?principal, action, resource);", 1, 22, "template"),
        ("permit (principal, action, resource in Topic::\"coinbase/tickers\");", 1, 47, "no topic"),
        (
            "permit (principal, action, resource == Topic::\"mastodon/tag/Rust\");",
            1,
            47,
            "no topic",
        ),
    ];
    for (policies, line, column, message) in cases {
        let Err(Unsound(faults)) = set(policies) else { panic!("case: {policies} is sound") };
        let is_it = |fault: &Fault| {
            (fault.line, fault.column) == (line, column) && fault.message.contains(message)
        };
        assert!(faults.iter().any(is_it), "case: {policies}: {faults:?}");
    }
}

#[test]
fn faults_of_limits_have_their_place() {
    let cases = [
        ("{", 1, 1, "EOF"),
        (r#"{"member":{"topics":1,"messagesPerSecond":1}}"#, 1, 1, "anonymous"),
        ("{\n\"anonymous\":{\"topics\":-1,\"messagesPerSecond\":1}}", 2, 24, "-1"),
        (r#"{"anonymous":{"topics":1,"messagesPerSecond":1,"speed":1}}"#, 1, 54, "speed"),
        (r#"{"anonymous":{"topics":1,"messagesPerSecond":1,"connections":5001}}"#, 1, 2, "5000"),
    ];
    for (limits, line, column, message) in cases {
        let text = SetText { limits: limits.to_owned(), ..SetText::preset() };
        let Err(Unsound(faults)) = Policies::read(text) else { panic!("case: {limits} is sound") };
        let fault = &faults[0];
        assert_eq!((fault.line, fault.column), (line, column), "case: {limits}: {faults:?}");
        assert!(fault.message.contains(message), "case: {limits}: {faults:?}");
        assert_eq!(fault.part, Part::Limits);
    }
}

#[test]
fn what_is_kept_has_a_bound() {
    let set = Policies::read(SetText::preset()).expect("sound");
    let mut kept = Kept::default();
    for n in 0..100_000 {
        kept.keep(n.to_string(), true);
    }
    assert!(kept.newer.len() + kept.older.len() <= 2 * KEPT);
    assert_eq!(kept.get("99999"), Some(true));
    // An empty set permits nothing.
    drop(set);
    let nothing = self::set("").expect("sound");
    assert!(!nothing.allows(&somebody("admin"), Right::Connect));
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "(permit|forbid)? ?\\(?[a-z ,=:\"?(){}é]{0,60}\\)?;?|\\PC{0,60}") {
        let _ = read_policies(&text);
        let _ = read_limits(&text);
    }

    #[test]
    fn no_spelling_gives_more_than_its_topic(text in "(coinbase|mastodon)/[a-z0-9%]{1,8}(/[A-Za-z0-9%-]{1,10})?") {
        static PRESET: LazyLock<Policies> =
            LazyLock::new(|| Policies::read(SetText::preset()).expect("sound"));
        if let Ok(topic) = Topic::parse(&text) {
            let expected = topic.source() != "coinbase" || topic.channel() == "ticker";
            let allowed = PRESET.allows(&Principal::anonymous(), Right::Subscribe(&topic));
            prop_assert_eq!(allowed, expected);
        }
    }
}
