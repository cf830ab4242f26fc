//! The program `headwater`, from the command line.

use std::net::TcpListener;

use harness::{Client, ExchangeServer, Headwater, Ports, Program};
use serde_json::{Value, json};

const MATCHES: &str = "coinbase/matches/BTC-USD";
const SECRET: (&str, &str) = ("HEADWATER_JWT_SECRET", "a secret of at least thirty-two bytes");

#[tokio::test]
async fn tail_prints_events() {
    let exchange = ExchangeServer::start().await.unwrap();
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
async fn tail_resumes_after_the_server_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = ExchangeServer::start().await.unwrap();
    // The second server must listen on the same address as the first.
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
async fn tail_takes_the_events_of_another_log() {
    let exchange = ExchangeServer::start().await.unwrap();
    let ports = Ports::reserve(1);
    // Without a folder, the second server has another log.
    let setup = Headwater::setup()
        .exchange(&exchange)
        .option("--listen", &ports.at(0).to_string())
        .option("--coinbase-record", MATCHES);
    let headwater = setup.spawn().await;
    let mut tail = Program::start(&["tail", "--url", &headwater.url(), "--json", MATCHES], &[]);
    let connected = async |headwater: &Headwater| {
        exchange.subscribed("matches", "BTC-USD").await;
        harness::until("the tail is connected", async || {
            let status = headwater.rest().get("/api/v1/status").await.json();
            (status["connections"] == 1).then_some(())
        })
        .await;
    };
    connected(&headwater).await;
    for _ in 0..3 {
        exchange.trade("BTC-USD");
        tail.line().await;
    }
    headwater.kill().await;
    let headwater = setup.spawn().await;
    connected(&headwater).await;
    let id = exchange.trade("BTC-USD");
    let mut line: Value = serde_json::from_str(&tail.line().await).unwrap();
    // The exchange repeats its last trade to a new subscriber. `tail` prints it if it has subscribed by then.
    if line["event"]["type"] == "last_match" {
        line = serde_json::from_str(&tail.line().await).unwrap();
    }
    assert_eq!(line["event"]["trade_id"], id);
    tail.terminate().await;
    headwater.stop().await;
}

#[tokio::test]
async fn tail_rejects_unknown_topics_and_invalid_tokens() {
    let exchange = ExchangeServer::start().await.unwrap();
    let headwater = Headwater::setup().exchange(&exchange).start().await;
    let url = headwater.url();
    let ended = Program::run(&["tail", "--url", &url, "coinbase/ticker/BTC-USX"], &[]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("BTC-USD"), "the error suggests a topic: {ended:?}");
    assert_eq!(ended.stdout, "");
    let ended = Program::run(&["tail", "--url", &url, "twitter/public"], &[]).await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("twitter/public"), "{ended:?}");
    let ended = Program::run(&["tail", "--url", &url, "--token", "nonsense", MATCHES], &[]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("401"), "{ended:?}");
}

#[tokio::test]
async fn a_server_with_the_same_secret_accepts_the_token() {
    let headwater = Headwater::setup().option("--jwt-secret", SECRET.1).start().await;
    let made = Program::run(&["token", "--class", "member", "--subject", "bo"], &[SECRET]).await;
    assert_eq!((made.code, made.stderr.as_str()), (Some(0), ""), "{made:?}");
    let path = format!("/live?token={}", made.stdout.trim());
    let mut client = Client::try_connect(headwater.address, &path, &[]).await.unwrap();
    let welcome = client.hello().await;
    assert_eq!((&welcome["principal"], &welcome["class"]), (&json!("bo"), &json!("member")));
    let rejected = Program::run(&["token"], &[]).await;
    assert_eq!(rejected.code, Some(1), "{rejected:?}");
    assert!(rejected.stderr.contains("HEADWATER_JWT_SECRET"), "{rejected:?}");
    assert_eq!(rejected.stderr.lines().count(), 1, "{rejected:?}");
}

#[tokio::test]
async fn the_error_for_an_invalid_setting_names_the_setting() {
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
async fn a_port_in_use_is_reported_in_one_line() {
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
async fn an_unusable_data_folder_is_reported_in_one_line() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let setup = Headwater::setup().folder(file.path());
    let ended = Program::run(&setup.arguments(), &[]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let lines: Vec<&str> = ended.stderr.lines().collect();
    let [line] = lines[..] else { panic!("not one line: {ended:?}") };
    assert!(line.contains(file.path().to_str().unwrap()), "{line}");
}
