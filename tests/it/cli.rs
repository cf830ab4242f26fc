//! The program `headwater`, as people use it.

use std::net::TcpListener;

use harness::{Client, Exchange, Headwater, Ports, Program};
use serde_json::{Value, json};

const MATCHES: &str = "coinbase/matches/BTC-USD";
const SECRET: (&str, &str) = ("HEADWATER_JWT_SECRET", "a secret of at least thirty-two bytes");

#[tokio::test]
async fn tail_prints_events_as_they_come() {
    let exchange = Exchange::start().await;
    let headwater = Headwater::setup().exchange(&exchange).start().await;
    let url = headwater.url();
    let mut tail = Program::start(&["tail", "--url", &url, MATCHES], &[]);
    exchange.subscribed("matches", "BTC-USD").await;
    for count in 1..=3 {
        exchange.trade("BTC-USD");
        let line = tail.line().await;
        assert!(line.contains(&format!("{MATCHES} #{count} match sell 0.04 at 63412.5")), "{line}");
    }
    tail.terminate().await;

    let mut tail = Program::start(&["tail", "--url", &url, "--last", "2", "--json", MATCHES], &[]);
    let newest = exchange.newest_trade("BTC-USD");
    for (seq, id) in [(2, newest - 1), (3, newest)] {
        let line: Value = serde_json::from_str(&tail.line().await).unwrap();
        assert_eq!((&line["topic"], &line["seq"]), (&json!(MATCHES), &json!(seq)));
        assert_eq!(line["event"]["trade_id"], id);
        assert!(line["at"].is_string());
    }
    tail.terminate().await;
}

#[tokio::test]
async fn tail_goes_on_where_it_was_when_the_server_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = Exchange::start().await;
    // The second server must listen where the first did.
    let ports = Ports::reserve(1);
    let setup = Headwater::setup()
        .exchange(&exchange)
        .folder(folder.path())
        .option("--listen", &ports.at(0).to_string())
        .option("--coinbase-record", MATCHES);
    let headwater = setup.spawn().await;
    let mut tail = Program::start(&["tail", "--url", &headwater.url(), "--json", MATCHES], &[]);
    exchange.subscribed("matches", "BTC-USD").await;
    harness::until("the tail is connected", async || {
        let status = headwater.rest().get("/api/v1/status").await.json();
        (status["connections"] == 1).then_some(())
    })
    .await;
    exchange.trade("BTC-USD");
    let first: Value = serde_json::from_str(&tail.line().await).unwrap();
    headwater.kill().await;
    for _ in 0..5 {
        exchange.trade_unstreamed("BTC-USD");
    }
    let headwater = setup.spawn().await;
    for next in 1..=5 {
        let line: Value = serde_json::from_str(&tail.line().await).unwrap();
        let number = |line: &Value, of: &str| line.pointer(of).and_then(Value::as_u64).unwrap();
        assert_eq!(number(&line, "/seq"), number(&first, "/seq") + next);
        let id = "/event/trade_id";
        assert_eq!(number(&line, id), number(&first, id) + next);
    }
    tail.terminate().await;
    headwater.stop().await;
}

#[tokio::test]
async fn tail_refuses_what_does_not_exist() {
    let exchange = Exchange::start().await;
    let headwater = Headwater::setup().exchange(&exchange).start().await;
    let url = headwater.url();
    let ended = Program::run(&["tail", "--url", &url, "coinbase/ticker/BTC-USX"], &[]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("BTC-USD"), "it names the nearest: {ended:?}");
    assert_eq!(ended.stdout, "");
    let ended = Program::run(&["tail", "--url", &url, "twitter/public"], &[]).await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("twitter/public"), "{ended:?}");
    let ended = Program::run(&["tail", "--url", &url, "--token", "nonsense", MATCHES], &[]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("401"), "{ended:?}");
}

#[tokio::test]
async fn token_makes_what_a_server_with_the_same_secret_takes() {
    let headwater = Headwater::setup().option("--jwt-secret", SECRET.1).start().await;
    let made = Program::run(&["token", "--class", "member", "--subject", "bo"], &[SECRET]).await;
    assert_eq!((made.code, made.stderr.as_str()), (Some(0), ""), "{made:?}");
    let path = format!("/live?token={}", made.stdout.trim());
    let mut client = Client::try_connect(headwater.address, &path, &[]).await.unwrap();
    let welcome = client.hello().await;
    assert_eq!((&welcome["principal"], &welcome["class"]), (&json!("bo"), &json!("member")));
    let refused = Program::run(&["token"], &[]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("HEADWATER_JWT_SECRET"), "{refused:?}");
    assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
}

#[tokio::test]
async fn a_bad_setting_stops_the_program_and_is_named() {
    let cases = [
        ("HEADWATER_LISTEN", "nowhere"),
        ("HEADWATER_FLUSH_MS", "0"),
        ("HEADWATER_RETENTION", "1s"),
        ("HEADWATER_SHARDS", "many"),
        ("HEADWATER_JWT_SECRET", ""),
        ("HEADWATER_COINBASE_URL", "nowhere"),
        ("HEADWATER_COINBASE_RECORD", "ticker/btc"),
        ("HEADWATER_MASTODON_SERVERS", "nowhere"),
        ("HEADWATER_MASTODON_TOKENS", "a.example="),
        ("HEADWATER_TOPICS_PER_CONNECTION", "-1"),
    ];
    for (name, value) in cases {
        let option = name.trim_start_matches("HEADWATER_").to_lowercase().replace('_', "-");
        let setup = Headwater::setup().without(&format!("--{option}"));
        let ended = Program::run(&setup.arguments(), &[(name, value)]).await;
        assert_eq!(ended.code, Some(2), "case: {name}: {ended:?}");
        let first = ended.stderr.lines().next().unwrap_or_default();
        assert!(first.contains(&option), "case: {name}: {first}");
        assert_eq!(ended.stdout, "", "case: {name}");
    }
    let setup = Headwater::setup();
    let ended = Program::run(&setup.arguments(), &[("HEADWATER_LOG", "=,=")]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("HEADWATER_LOG"), "{ended:?}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_one_clear_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let setup = Headwater::setup().option("--listen", &address);
    let ended = Program::run(&setup.arguments(), &[]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert_eq!(ended.stdout, "");
    let lines: Vec<&str> = ended.stderr.lines().collect();
    let [line] = lines[..] else { panic!("not one line: {ended:?}") };
    assert!(line.contains(&address), "{line}");
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_one_clear_line() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let setup = Headwater::setup().folder(file.path());
    let ended = Program::run(&setup.arguments(), &[]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let lines: Vec<&str> = ended.stderr.lines().collect();
    let [line] = lines[..] else { panic!("not one line: {ended:?}") };
    assert!(line.contains(file.path().to_str().unwrap()), "{line}");
}
