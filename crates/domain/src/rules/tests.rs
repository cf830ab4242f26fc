//! Tests of what the built-in sets permit, and of the defects reported for invalid sets.

use proptest::prelude::*;

use super::*;

fn set(policies: &str) -> Result<RuleSet, InvalidSet> {
    RuleSet::read(SetText { policies: policies.to_owned(), ..SetText::preset() })
}

fn principal(class: &str) -> Principal {
    match class {
        ANONYMOUS => Principal::anonymous(),
        class => Principal::named("ann", class.split(',')).expect("a principal"),
    }
}

fn topic(text: &str) -> Topic {
    Topic::parse(text).expect("a topic")
}

#[test]
fn the_default_set_gives_each_class_its_rights() {
    const TICKER: &str = "coinbase/ticker/BTC-USD";
    const MATCHES: &str = "coinbase/matches/BTC-USD";
    const LEVEL2: &str = "coinbase/level2/BTC-USD";
    const POSTS: &str = "mastodon/tag/rust";
    let set = RuleSet::read(SetText::preset()).expect("a valid set");
    // Class, may connect, may read public topics, matches, level2, may administer.
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
        let who = principal(class);
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
            // Twice: the second decision comes from the cache.
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
fn the_open_set_permits_everything_except_administration() {
    let set = RuleSet::read(SetText::open()).expect("a valid set");
    let anybody = Principal::anonymous();
    let level2 = topic("coinbase/level2/BTC-USD");
    assert!(set.allows(&anybody, Right::Connect));
    assert!(set.allows(&anybody, Right::Subscribe(&level2)));
    assert!(set.allows(&anybody, Right::History(&level2)));
    assert!(!set.allows(&anybody, Right::Admin));
    assert_eq!(set.limits_of(&anybody).history, None);
}

#[test]
fn a_policy_can_name_a_principal_a_topic_and_a_pattern() {
    let set = set(r#"
        permit (principal, action, resource);
        forbid (principal == User::"mallory", action, resource);
        forbid (principal, action == Action::"history", resource == Topic::"mastodon/public");
        forbid (principal in Class::"euro", action, resource is Topic)
            unless { resource has key && resource.key like "*-EUR" };
    "#)
    .expect("a valid set");
    let ann = principal("member");
    let mallory = Principal::named("mallory", ["member"]).expect("a principal");
    // Same class, asked twice: a cached decision about one does not apply to the other.
    for _ in 0..2 {
        assert!(!set.allows(&mallory, Right::Connect));
        assert!(set.allows(&ann, Right::Connect));
    }
    let public = topic("mastodon/public");
    assert!(set.allows(&ann, Right::Subscribe(&public)));
    assert!(!set.allows(&ann, Right::History(&public)));
    let euro = principal("euro");
    assert!(set.allows(&euro, Right::Subscribe(&topic("coinbase/matches/BTC-EUR"))));
    assert!(!set.allows(&euro, Right::Subscribe(&topic("coinbase/matches/BTC-USD"))));
    assert!(!set.allows(&euro, Right::Subscribe(&public)));
}

#[test]
fn a_class_without_limits_has_those_of_anonymous() {
    let set = RuleSet::read(SetText::preset()).expect("a valid set");
    let anonymous = set.limits_of(&Principal::anonymous());
    assert_eq!((anonymous.topics, anonymous.messages_per_second), (50, 10));
    assert_eq!(set.limits_of(&principal("stranger")), anonymous);
    assert_eq!(set.limits_of(&principal("trader")).history, None);
    let both = set.limits_of(&principal("anonymous,trader"));
    assert_eq!((both.connections, both.topics, both.history), (Some(100), 100, None));
}

#[test]
fn defects_of_policies_have_their_place() {
    let cases = [
        ("permit (principal, action, resource)", 1, 37, "unexpected end"),
        ("// x\n  permit (principal, action == Action::\"read\", resource);", 2, 32, "read"),
        ("permit (principal in Group::\"x\", action, resource);", 1, 22, "Group"),
        ("permit (principal, action, resource) when { resource.color == \"x\" };", 1, 45, "color"),
        ("permit (principal == ?principal, action, resource);", 1, 22, "templates"),
        ("permit (principal, action, resource in Topic::\"coinbase/tickers\");", 1, 47, "no topic"),
        (
            "permit (principal, action, resource == Topic::\"mastodon/tag/Rust\");",
            1,
            47,
            "no topic",
        ),
    ];
    for (policies, line, column, message) in cases {
        let Err(InvalidSet(defects)) = set(policies) else { panic!("case: {policies} is valid") };
        let is_it = |defect: &Defect| {
            (defect.line, defect.column) == (line, column) && defect.message.contains(message)
        };
        assert!(defects.iter().any(is_it), "case: {policies}: {defects:?}");
    }
}

#[test]
fn defects_of_limits_have_their_place() {
    let cases = [
        ("{", 1, 1, "EOF"),
        (r#"{"member":{"topics":1,"messagesPerSecond":1}}"#, 1, 1, "anonymous"),
        ("{\n\"anonymous\":{\"topics\":-1,\"messagesPerSecond\":1}}", 2, 24, "-1"),
        (r#"{"anonymous":{"topics":1,"messagesPerSecond":1,"speed":1}}"#, 1, 54, "speed"),
        (r#"{"anonymous":{"topics":1,"messagesPerSecond":1,"connections":5001}}"#, 1, 2, "5000"),
    ];
    for (limits, line, column, message) in cases {
        let text = SetText { limits: limits.to_owned(), ..SetText::preset() };
        let Err(InvalidSet(defects)) = RuleSet::read(text) else {
            panic!("case: {limits} is valid")
        };
        let defect = &defects[0];
        assert_eq!((defect.line, defect.column), (line, column), "case: {limits}: {defects:?}");
        assert!(defect.message.contains(message), "case: {limits}: {defects:?}");
        assert_eq!(defect.part, Part::Limits);
    }
}

#[test]
fn a_set_is_as_large_as_permitted_and_no_larger() {
    let SetText { policies, limits } = SetText::preset();
    let padding = " ".repeat(MAX_SET_BYTES - policies.len() - limits.len());
    let largest = SetText { policies: policies + &padding, limits };
    assert!(RuleSet::read(largest.clone()).is_ok());
    let larger = SetText { policies: largest.policies + " ", ..largest };
    assert!(RuleSet::read(larger).is_err());
}

#[test]
fn the_cache_of_decisions_is_bounded() {
    let set = RuleSet::read(SetText::preset()).expect("a valid set");
    let mut cache = Decisions::default();
    for n in 0..100_000 {
        cache.insert(n.to_string(), true);
    }
    assert!(cache.newer.len() + cache.older.len() <= 2 * GENERATION);
    let recent = 100_000 - GENERATION..100_000;
    assert!(
        recent.clone().all(|n| cache.get(&n.to_string()).is_some()),
        "the recent ones are known"
    );
    assert_eq!(cache.get("99999"), Some(true));
    // An empty set permits nothing.
    drop(set);
    let nothing = self::set("").expect("a valid set");
    assert!(!nothing.allows(&principal("admin"), Right::Connect));
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "(permit|forbid)? ?\\(?[a-z ,=:\"?(){}é]{0,60}\\)?;?|\\PC{0,60}") {
        let _ = read_policies(&text);
        let _ = read_limits(&text);
    }

    #[test]
    fn every_spelling_of_a_topic_gets_the_same_decision(text in "(coinbase|mastodon)/[a-z0-9%]{1,8}(/[A-Za-z0-9%-]{1,10})?") {
        static PRESET: LazyLock<RuleSet> =
            LazyLock::new(|| RuleSet::read(SetText::preset()).expect("a valid set"));
        if let Ok(topic) = Topic::parse(&text) {
            let expected = topic.source() != "coinbase" || topic.channel() == "ticker";
            let allowed = PRESET.allows(&Principal::anonymous(), Right::Subscribe(&topic));
            prop_assert_eq!(allowed, expected);
        }
    }
}

#[test]
fn a_text_that_would_overflow_the_stack_is_rejected() {
    let condition = |text: &str| format!("permit (principal, action, resource) when {{ {text} }};");
    let nested = |open: &str, close: &str| {
        condition(&format!("{}true{}", open.repeat(50_000), close.repeat(50_000)))
    };
    let cases = [
        ("parentheses", nested("(", ")"), "nested"),
        ("lists", nested("[", "]"), "nested"),
        ("records", nested("{a:", "}"), "nested"),
        ("without an end", condition(&"(".repeat(100_000)), "nested"),
        ("not", condition(&format!("{}true", "!".repeat(100_000))), "words and signs"),
        ("minus", condition(&format!("{}1 == 1", "-".repeat(100_000))), "words and signs"),
        ("and", condition(&format!("true{}", " && true".repeat(30_000))), "words and signs"),
        (
            "if",
            condition(&format!("{}true", "if true then true else ".repeat(10_000))),
            "words and signs",
        ),
        ("attributes", condition(&format!("resource{}", ".a".repeat(60_000))), "words and signs"),
        (
            "names",
            format!("permit (principal == {}A::\"a\", action, resource);", "A::".repeat(50_000)),
            "words and signs",
        ),
        (
            "conditions",
            format!("permit (principal, action, resource) {};", "when {true} ".repeat(15_000)),
            "words and signs",
        ),
        (
            "annotations",
            format!("{} permit (principal, action, resource);", "@a(\"b\") ".repeat(20_000)),
            "words and signs",
        ),
    ];
    for (name, policies, expected) in cases {
        let defects = set(&policies).expect_err(name);
        assert!(defects.to_string().contains(expected), "case: {name}: {defects}");
    }
}

#[test]
fn as_much_as_is_allowed_does_not_overflow_the_stack() {
    let topic = topic("coinbase/ticker/BTC-USD");
    for condition in [
        format!("{}true{}", "(".repeat(48), ")".repeat(48)),
        format!("true{}", " && true".repeat(600)),
        format!("{}true", "if true then true else ".repeat(300)),
        format!("true{}", " && (true || false)".repeat(200)),
        "\"((((\" == \"((((\" // (((((((((((((((((((((((((((((((((((((((((((((((((((((((((("
            .to_owned(),
    ] {
        let policies = format!("permit (principal, action, resource) when {{ {condition}\n }};");
        let set = set(&policies).unwrap_or_else(|defects| panic!("{defects}"));
        let is_allowed = set.allows(&Principal::anonymous(), Right::Subscribe(&topic));
        assert!(is_allowed, "{condition}");
    }
}
