//! Rules that change while the system runs, and tokens that expire.

use std::io::Write as _;

use harness::{Client, ExchangeServer, Headwater, Program, Setup, token, until};
use serde_json::{Value, json};
use simulator::MastodonServer;
use tempfile::NamedTempFile;
use tokio::time::{Duration, Instant};

const MATCHES: &str = "coinbase/matches/BTC-USD";
const TICKER: &str = "coinbase/ticker/BTC-USD";
const TAG: &str = "mastodon/tag/rust";

/// The longest time until a change is in force.
const LONGEST_DELAY: Duration = Duration::from_secs(5);

const ADMIN: &str = r#"permit (principal in Class::"admin", action, resource);"#;
const EVERYTHING: &str = "permit (principal, action, resource);";

fn setup(exchange: &ExchangeServer) -> Setup {
    let setup = Headwater::setup().exchange(exchange).with_tokens();
    setup.option("--coinbase-record", "matches/BTC-USD")
}

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[tokio::test]
async fn a_withdrawn_right_ends_only_its_subscriptions() {
    let exchange = ExchangeServer::start().await.unwrap();
    let headwater = setup(&exchange).in_one_process().start().await;
    let admin = token(&["--class", "admin", "--subject", "root"]).await;
    let member = token(&["--class", "member", "--subject", "ann"]).await;
    let trader = token(&["--class", "trader", "--subject", "bo"]).await;
    let mut ann = headwater.client_with(&member).await.unwrap();
    let mut bo = headwater.client_with(&trader).await.unwrap();
    ann.subscribe(&[MATCHES, TAG]).await;
    bo.subscribe(&[MATCHES]).await;
    exchange.subscribed("matches", "BTC-USD").await;
    exchange.trade("BTC-USD");
    ann.event(MATCHES).await;
    bo.event(MATCHES).await;

    let policies = format!(
        r#"{EVERYTHING}
        forbid (principal in Class::"member", action, resource in Topic::"coinbase/matches");"#
    );
    let put = headwater.put_policies(&admin, &policies, None).await;
    assert_eq!((put.status, &put.json()["version"]), (200, &json!(1)), "{put:?}");
    let since = Instant::now();
    // The subscription ends although there are no events.
    let error = ann.expect("error").await;
    assert_eq!((&error["code"], &error["topic"]), (&json!("forbidden"), &json!(MATCHES)));
    assert!(since.elapsed() < LONGEST_DELAY, "after {:?}", since.elapsed());
    assert_eq!(ann.ask(json!({"action": "list"})).await["topics"], json!([TAG]));
    exchange.trade("BTC-USD");
    bo.event(MATCHES).await;
    assert_eq!(ann.ask(json!({"action": "ping"})).await["type"], "pong");
    assert_eq!(ann.drain(MATCHES), []);
    // The topic cannot be read in any other way.
    for request in [
        json!({"action": "subscribe", "topics": [MATCHES]}),
        json!({"action": "subscribe", "topics": [MATCHES], "since": {MATCHES: 0}}),
        json!({"action": "replay", "topic": MATCHES, "from": 1, "to": 2}),
    ] {
        assert_eq!(ann.ask(request).await["code"], "forbidden");
    }
    let rest = headwater.rest().with("authorization", &format!("Bearer {member}"));
    assert_eq!(rest.get(&format!("/api/v1/history/{MATCHES}")).await.status, 403);

    // A topic that is allowed again can be subscribed to.
    let put = headwater.put_policies(&admin, EVERYTHING, None).await;
    assert_eq!(put.json()["version"], 2, "{put:?}");
    until("ann can subscribe to matches again", async || {
        let answer = ann.ask(json!({"action": "subscribe", "topics": [MATCHES]})).await;
        (answer["type"] == "subscribed").then_some(())
    })
    .await;
    exchange.trade("BTC-USD");
    ann.event(MATCHES).await;
}

#[tokio::test]
async fn a_principal_without_the_right_to_connect_is_disconnected() {
    let exchange = ExchangeServer::start().await.unwrap();
    let headwater = setup(&exchange).in_one_process().start().await;
    let admin = token(&["--class", "admin", "--subject", "root"]).await;
    let member = token(&["--class", "member", "--subject", "mallory"]).await;
    let other = token(&["--class", "member", "--subject", "ann"]).await;
    let guest = token(&["--class", "guest", "--subject", "guest"]).await;
    let mut mallory = headwater.client_with(&member).await.unwrap();
    let mut ann = headwater.client_with(&other).await.unwrap();
    let mut guest = headwater.client_with(&guest).await.unwrap();
    // One of them has a topic without events, and the other has no topic.
    mallory.subscribe(&[TAG]).await;
    guest.hello().await;
    let policies = format!(
        r#"{EVERYTHING}
        forbid (principal == User::"mallory", action, resource);
        forbid (principal in Class::"guest", action, resource);"#
    );
    let since = Instant::now();
    assert_eq!(headwater.put_policies(&admin, &policies, None).await.status, 200);
    for client in [&mut mallory, &mut guest] {
        let error = client.expect("error").await;
        assert_eq!(error["code"], "forbidden", "{error}");
        assert_eq!(client.closed().await.0, 1000);
        assert!(since.elapsed() < LONGEST_DELAY, "after {:?}", since.elapsed());
    }
    assert_eq!(ann.ask(json!({"action": "ping"})).await["type"], "pong");
    assert_eq!(headwater.client_with(&member).await.err(), Some(403));
    assert!(headwater.client_with(&other).await.is_ok());
    let rest = headwater.rest().with("authorization", &format!("Bearer {member}"));
    assert_eq!(rest.get("/api/v1/status").await.status, 403);
}

#[tokio::test]
async fn a_connection_closes_when_its_token_expires_unless_it_authenticates_again() {
    let headwater = Headwater::setup().with_tokens().start().await;
    let rejected = [
        ("nonsense".to_owned(), "unauthorized"),
        (token(&["--subject", "ann", "--term", "0s"]).await, "unauthorized"),
        (token(&["--subject", "bo"]).await, "forbidden"),
        (token(&["--subject", "ann", "--class", "blocked"]).await, "forbidden"),
    ];
    let longer = token(&["--class", "guest", "--subject", "ann"]).await;
    // The slow steps come first, because the short-lived tokens expire in real time.
    let short_lived = ["--class", "member", "--subject", "ann", "--term", "8s"];
    let short_lived = token(&short_lived).await;
    let mut left = headwater.client_with(&short_lived).await.unwrap();
    let mut renewed = headwater.client_with(&short_lived).await.unwrap();
    let welcome = left.hello().await;
    assert!(welcome["tokenExpiresAt"].is_string(), "{welcome}");
    renewed.subscribe(&["coinbase/matches/ETH-USD", TAG]).await;

    for (token, code) in rejected {
        let answer = renewed.ask(json!({"action": "authenticate", "token": token})).await;
        assert_eq!(answer["code"], code, "{answer}");
    }
    // The same principal in a lower class: topics that the class does not allow are unsubscribed.
    let answer = renewed.ask(json!({"action": "authenticate", "token": longer})).await;
    assert_eq!((&answer["type"], &answer["class"]), (&json!("authenticated"), &json!("guest")));
    let error = renewed.expect("error").await;
    let reported = (&error["code"], &error["topic"]);
    assert_eq!(reported, (&json!("forbidden"), &json!("coinbase/matches/ETH-USD")));
    assert_eq!(renewed.ask(json!({"action": "list"})).await["topics"], json!([TAG]));

    let error = left.expect("error").await;
    assert_eq!(error["code"], "expired", "{error}");
    assert_eq!(left.closed().await.0, 1000);
    assert_eq!(renewed.hello().await["class"], "guest");
    // An anonymous connection cannot authenticate later.
    let mut nobody = headwater.client().await;
    let answer = nobody.ask(json!({"action": "authenticate", "token": longer})).await;
    assert_eq!(answer["code"], "forbidden");
}

#[tokio::test]
async fn rules_are_put_shown_and_checked_from_the_command_line() {
    let headwater = Headwater::setup().with_tokens().start().await;
    let url = format!("http://{}", headwater.address);
    let admin = token(&["--class", "admin", "--subject", "root"]).await;
    let policy = async |arguments: &[&str], token: &str| {
        let arguments = [&["policy"], arguments].concat();
        Program::run(&arguments, &[("HEADWATER_TOKEN", token)]).await
    };
    let shown = policy(&["show", "--url", &url], &admin).await;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert!(shown.stdout.contains("blocked-get-nothing"), "{shown:?}");

    let good_file = file(&format!(
        "{ADMIN}\n@id(\"mine\")\npermit (principal, action == Action::\"connect\", resource);\n"
    ));
    let good = good_file.path().to_str().unwrap();
    let checked = Program::run(&["policy", "check", good], &[]).await;
    assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), ""), "{checked:?}");
    let put = policy(&["put", good, "--url", &url], &admin).await;
    assert_eq!(put.code, Some(0), "{put:?}");
    assert!(put.stdout.contains("version 1"), "{put:?}");
    let shown = policy(&["show", "--url", &url], &admin).await;
    assert!(
        shown.stdout.contains("version 1, put") && shown.stdout.contains("by root"),
        "{shown:?}"
    );
    assert!(shown.stdout.contains("@id(\"mine\")"), "{shown:?}");
    let limits = policy(&["show", "--limits", "--url", &url], &admin).await;
    let limits: Value = serde_json::from_str(&limits.stdout).unwrap();
    assert!(limits["anonymous"]["topics"].is_number(), "{limits}");

    let bad = file("permit (principal, action, resource)\n  when { resource.colour == 1 };\n");
    let path = bad.path().to_str().unwrap();
    for arguments in [&["check", path][..], &["put", path, "--url", &url]] {
        let rejected = policy(arguments, &admin).await;
        assert_eq!(rejected.code, Some(1), "{rejected:?}");
        assert!(rejected.stderr.contains(&format!("{path}:2:")), "{rejected:?}");
        assert!(rejected.stderr.contains("colour"), "{rejected:?}");
    }
    // The server rejects invalid rules as well, and keeps the previous ones.
    let answer = headwater.put_policies(&admin, "permit (principal, action, resource)", None).await;
    let problem = answer.problem(422);
    assert_eq!(problem["faults"][0]["line"], 1, "{problem}");
    let locked = headwater.put_policies(&admin, "forbid (principal, action, resource);", None);
    locked.await.problem(409);
    let member = token(&["--class", "member"]).await;
    headwater.put_policies(&member, EVERYTHING, None).await.problem(403);
    let rejected = policy(&["put", good, "--url", &url], &member).await;
    assert_eq!(rejected.code, Some(1), "{rejected:?}");
    assert!(rejected.stderr.contains("403"), "{rejected:?}");
    let shown = policy(&["show", "--url", &url], &admin).await;
    assert!(shown.stdout.contains("version 1, put"), "{shown:?}");
}

#[tokio::test]
async fn rules_survive_a_restart_and_can_start_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let own =
        file(&format!("{ADMIN}\npermit (principal, action == Action::\"connect\", resource);\n"));
    let setup = Headwater::setup()
        .folder(folder.path())
        .with_tokens()
        .option("--policy", own.path().to_str().unwrap());
    let admin = token(&["--class", "admin"]).await;
    let headwater = setup.start().await;
    let mut client: Client = headwater.client().await;
    let subscribe = json!({"action": "subscribe", "topics": [TICKER]});
    assert_eq!(client.ask(subscribe.clone()).await["code"], "forbidden");
    assert_eq!(headwater.put_policies(&admin, EVERYTHING, None).await.status, 200);
    client.close().await;
    headwater.stop().await;
    let headwater = setup.start().await;
    let mut client = headwater.client().await;
    assert_eq!(client.ask(subscribe).await["type"], "subscribed");
    client.close().await;
    headwater.stop().await;
    // An invalid file stops the program with an error that has its position.
    let bad = file("permit (");
    let setup = Headwater::setup().option("--policy", bad.path().to_str().unwrap());
    let ended = Program::run(&setup.arguments(), &[]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("policies:1:"), "{ended:?}");
}

#[tokio::test]
async fn tokens_and_secrets_are_not_logged() {
    let server = MastodonServer::start().await.unwrap();
    let setup = Headwater::setup()
        .with_tokens()
        .option("--connection-secret", "s3cret-of-connections")
        .option("--mastodon-servers", &server.url())
        .option("--mastodon-tokens", &server.token())
        .option("--mastodon-record", "public");
    let good = token(&["--class", "admin"]).await;
    let mut arguments = setup.arguments();
    arguments.extend(["--log", "trace"]);
    let mut program = Program::start_with_log(&arguments, &[]);
    let address = program.address().await;
    let bearer = format!("bearer.{good}");
    for (token, rejected) in [(good.as_str(), None), ("a-bad-token", Some(401))] {
        let path = format!("/live?token={token}");
        assert_eq!(Client::try_connect(address, &path, &[]).await.err(), rejected);
    }
    let offered = ["headwater.v1", bearer.as_str()];
    let mut client = Client::try_connect(address, "/live", &offered).await.unwrap();
    let welcome = client.hello().await;
    client.ask(json!({"action": "authenticate", "token": good})).await;
    client.ask(json!({"action": "authenticate", "token": "another-bad-token"})).await;
    let rest = harness::Rest::new(address).with("authorization", &format!("Bearer {good}"));
    assert_eq!(rest.of(&welcome).get("/api/v1/subscribe").await.status, 200);
    server.streamed().await;
    let log = program.terminate_and_read_log().await;
    assert!(log.contains("connection opened"), "the log is not empty: {log}");
    let connection_token = welcome["connectionToken"].as_str().unwrap();
    let signature = good.rsplit('.').next().unwrap();
    let upstream_token = server.token();
    let (_, upstream_token) = upstream_token.split_once('=').unwrap();
    for secret in [
        upstream_token,
        good.as_str(),
        signature,
        connection_token,
        harness::SECRET,
        "s3cret-of-connections",
        "a-bad-token",
        "another-bad-token",
    ] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "a line with {secret}");
    }
}
