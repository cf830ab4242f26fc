//! The roles in the templates, compared with the calls of the programs.

use std::{collections::BTreeMap, time::Duration};

use domain::{
    access::Principal,
    clock::Clock,
    connection::{Connection, ConnectionId, Recipient, Subscription},
    topic::Topic,
};
use harness::{
    Client, Event, ExchangeServer, Headwater, MastodonServer, Rest, Serverless, token, until,
};
use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};

const MATCHES: &str = "coinbase/matches/BTC-USD";
const PUBLIC: &str = "mastodon/public";
const TAG: &str = "mastodon/tag/rust";
const INTERRUPTED: &str = "mastodon/tag/interrupted";

/// Uses every feature that makes a program call AWS in a way of its own. A call that no role grants is
/// rejected, and fails the test when `headwater` is dropped. If a grant is unused, remove it, or use here
/// what needs it.
#[tokio::test]
async fn each_role_grants_what_its_program_does_and_nothing_else() {
    let exchange = ExchangeServer::start().await.unwrap();
    let server = MastodonServer::start().await.unwrap();
    let setup = Headwater::setup().exchange(&exchange).servers(&[&server]).with_tokens();
    let mut headwater = setup.deploy().await;
    let trader = token(&["--class", "trader", "--subject", "ann"]).await;
    let mut client = connect(&headwater, &trader).await;
    let welcome = client.hello().await;
    let rest = headwater.rest().with("authorization", &format!("Bearer {trader}")).of(&welcome);

    use_the_websocket(&exchange, &mut client).await;
    use_rest(&rest).await;
    edit_and_delete_a_post(&headwater, &server, &mut client).await;
    withdraw_rights(&headwater, &mut client).await;
    let closed = leave_work_for_the_next_leader(&headwater, &client.hello().await).await;
    fail_over(&mut headwater, &exchange, &mut client, &closed).await;

    let unused = headwater.unused();
    assert!(unused.is_empty(), "grants that nothing uses: {unused:#?}");
}

async fn connect(headwater: &Serverless, token: &str) -> Client {
    let bearer = format!("bearer.{token}");
    let protocols = ["headwater.v1", bearer.as_str()];
    Client::try_connect(headwater.address, "/live", &protocols).await.unwrap()
}

async fn use_the_websocket(exchange: &ExchangeServer, client: &mut Client) {
    client.subscribe(&[MATCHES, PUBLIC]).await;
    exchange.subscribed("matches", "BTC-USD").await;
    for _ in 0..5 {
        exchange.trade("BTC-USD");
    }
    assert_eq!(client.events(MATCHES, 5).await.len(), 5);
    assert_eq!(client.replay(MATCHES, 2..=3).await.len(), 2);
    for action in ["list", "ping"] {
        assert_eq!(client.ask(json!({"action": action})).await["heads"][MATCHES], 5);
    }
    let unsubscribe = json!({"action": "unsubscribe", "topics": [MATCHES]});
    assert_eq!(client.ask(unsubscribe).await["type"], "unsubscribed");
    let since = json!({"since": {MATCHES: 1}});
    let answer = client.subscribe_with(&[MATCHES], since).await;
    assert_eq!(answer["topics"][0]["recovered"], true);
    client.events(MATCHES, 4).await;
}

async fn use_rest(rest: &Rest) {
    for path in ["/healthz", "/api/v1/status", "/api/v1/topics", "/api/v1/subscribe"] {
        let answer = rest.get(path).await;
        assert_eq!(answer.status, 200, "case: {path}: {answer:?}");
    }
    assert_eq!(rest.history(MATCHES).await["events"].as_array().unwrap().len(), 5);
    let ticker = "/api/v1/subscribe/BTC-USD?channel=ticker";
    assert_eq!(rest.post(ticker).await.status, 201);
    assert_eq!(rest.delete(ticker).await.status, 204);
}

async fn edit_and_delete_a_post(
    headwater: &Serverless,
    server: &MastodonServer,
    client: &mut Client,
) {
    server.streamed().await;
    let status = server.status(&json!({"content": "the first words"}));
    server.post(&status);
    client.event(PUBLIC).await;
    let mut edited = status.clone();
    edited["content"] = json!("the second words");
    edited["edited_at"] = json!(MastodonServer::later(&status));
    server.edit(&edited);
    assert_eq!(client.event(PUBLIC).await.json()["type"], "post.edited");
    server.delete(&status);
    assert_eq!(client.event(PUBLIC).await.json()["type"], "post.deleted");
    let control = headwater.tables(Clock::new(Timestamp::now)).control;
    until("the log has the delete in place of the post", async || {
        let page = headwater.rest().history(PUBLIC).await.to_string();
        let is_done =
            !page.contains("words") && control.pending("mastodon").await.unwrap().is_empty();
        is_done.then_some(())
    })
    .await;
}

/// Ends a subscription by a change of the rules, and a connection by the expiry of its token.
async fn withdraw_rights(headwater: &Serverless, client: &mut Client) {
    client.subscribe(&[TAG]).await;
    let admin = token(&["--class", "admin", "--subject", "root"]).await;
    let admin = headwater.rest().with("authorization", &format!("Bearer {admin}"));
    let policies = format!(
        r#"permit (principal, action, resource);
        forbid (principal in Class::"trader", action, resource == Topic::"{TAG}");"#
    );
    let body = json!({"policies": policies}).to_string();
    let put = admin.send(Method::PUT, "/api/v1/policy", body).await;
    assert_eq!(put.status, 200, "{put:?}");
    assert_eq!(admin.get("/api/v1/policy").await.json()["version"], 1);
    assert_eq!(client.expect("error").await["topic"], TAG);

    let longer = token(&["--class", "trader", "--subject", "bo"]).await;
    let short_lived = token(&["--class", "trader", "--subject", "bo", "--term", "8s"]).await;
    let mut renewed = connect(headwater, &short_lived).await;
    let mut left = connect(headwater, &short_lived).await;
    let answer = renewed.ask(json!({"action": "authenticate", "token": longer})).await;
    assert_eq!(answer["type"], "authenticated", "{answer}");
    assert_eq!(left.expect("error").await["code"], "expired");
    assert_eq!(left.closed().await.0, 1000);
    renewed.close().await;
}

/// Leaves a subscription that was interrupted in the middle, and a connection that closed long ago, which
/// is returned.
async fn leave_work_for_the_next_leader(headwater: &Serverless, welcome: &Value) -> ConnectionId {
    let long_ago = |ago: Duration| headwater.tables(Clock::new(move || Timestamp::now() - ago));
    let id = ConnectionId::new(welcome["connectionId"].as_str().unwrap());
    let start = BTreeMap::from([(Topic::parse(INTERRUPTED).unwrap(), 0)]);
    let joined = long_ago(Duration::from_mins(1)).connections.join(0, &id, &start, 10).await;
    assert_eq!(joined.unwrap().len(), 1);

    let id = ConnectionId::new("closed");
    let recipient = Recipient { endpoint: "http://gateway.invalid".into(), id: id.clone() };
    let opened_at = Timestamp::now() - Duration::from_mins(20);
    let connection = Connection::open(recipient, 0, Principal::anonymous(), opened_at);
    let connections = long_ago(Duration::from_mins(15)).connections;
    connections.open(&connection).await.unwrap();
    connections.close(0, &id).await.unwrap();
    id
}

/// Kills the leader. The next one continues, and does what was left.
async fn fail_over(
    headwater: &mut Serverless,
    exchange: &ExchangeServer,
    client: &mut Client,
    closed: &ConnectionId,
) {
    headwater.start_poller().await;
    headwater.kill_poller().await;
    exchange.trade_unstreamed("BTC-USD");
    let connections = headwater.tables(Clock::new(Timestamp::now)).connections;
    let since = Timestamp::now() - Duration::from_hours(1);
    until(
        "the interrupted subscription is complete, and the closed connection is deleted",
        async || {
            let all = connections.changes(0, since).await.unwrap();
            let is_live = all.iter().any(|it| {
                let topic = it.topics.iter().find(|(topic, _)| topic.as_str() == INTERRUPTED);
                topic.is_some_and(|(_, it)| matches!(it, Subscription::Live { .. }))
            });
            (is_live && all.iter().all(|it| it.recipient.id != *closed)).then_some(())
        },
    )
    .await;
    exchange.subscribed("matches", "BTC-USD").await;
    exchange.trade("BTC-USD");
    let seqs: Vec<u64> = client.events(MATCHES, 2).await.iter().map(|it: &Event| it.seq).collect();
    assert_eq!(seqs, [6, 7]);
}
