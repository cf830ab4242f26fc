//! Clients that ask for more than their share, and bystanders at another address, who must not notice it.
//!
//! Each attack is on one of two servers. Bystanders at both measure how long a ping and a handshake take. The server
//! that is not attacked shows what the machine can do meanwhile: the attackers take its time as well.

#![allow(clippy::unwrap_used, reason = "a panic is the right end of a failed test")]

mod attack;
mod bystander;
mod flood;
mod target;

use std::{net::SocketAddr, time::Duration};

use harness::{Cluster, ExchangeServer, Headwater, skip, token};

use self::{
    attack::{Attack, Attackers},
    bystander::{Seen, watch},
    flood::Flood,
    target::Target,
};

/// How long an attack lasts.
const TIME: Duration = Duration::from_secs(2);

/// The bound of a bystander's waits, unless the machine is slow: 95 of 100 end sooner.
const BOUND: Duration = Duration::from_millis(100);

/// By which factor the waits at the server that is attacked may exceed those at the other, if they exceed [`BOUND`].
const FACTOR: u32 = 3;

/// By how many bytes the memory of the server that is attacked may exceed that of the other.
const MEMORY: u64 = 64 * 1024 * 1024;

async fn endure(attack: Attack) {
    let exchange = ExchangeServer::start().await.unwrap();
    let setup = Headwater::setup().with_tokens().exchange(&exchange);
    let attacked = setup.spawn().await;
    let quiet = setup.spawn().await;
    let target = targets().await;
    target(attacked.address).fill(&exchange).await;
    compare(attack, &target(attacked.address), &target(quiet.address)).await;
    stop(&format!("{attack:?}"), attacked, quiet).await;
}

/// Stops the servers, and checks that the attack has taken little memory.
async fn stop(attack: &str, attacked: Headwater, quiet: Headwater) {
    let (used, expected) = (attacked.peak_memory(), quiet.peak_memory());
    assert!(used <= expected + MEMORY, "{attack} took {used} bytes, and {expected} without it");
    attacked.stop().await;
    quiet.stop().await;
}

/// Returns how a client with a token reaches a server.
async fn targets() -> impl Fn(SocketAddr) -> Target {
    let protocols = vec!["headwater.v1".to_owned(), format!("bearer.{}", token(&[]).await)];
    move |address| Target { address, protocols: protocols.clone() }
}

#[expect(clippy::print_stdout, reason = "the figures are shown when the output of a test is")]
async fn compare(attack: Attack, attacked: &Target, quiet: &Target) {
    let attackers = Attackers::start(attack, attacked);
    let (seen, expected) = tokio::join!(watch(attacked.address, TIME), watch(quiet.address, TIME));
    let requests = attackers.stop().await;
    println!("{attack:?}: {requests} requests; attacked {seen:?}, quiet {expected:?}");
    assert!(requests > 0, "{attack:?} did nothing");
    judge(&format!("{attack:?}"), &seen, &expected);
}

/// Checks that bystanders did not notice an attack.
fn judge(attack: &str, seen: &Seen, expected: &Seen) {
    for (what, get) in
        [("a ping", (|it| it.ping) as fn(&Seen) -> Duration), ("a handshake", |it| it.handshake)]
    {
        let bound = BOUND.max(get(expected) * FACTOR);
        assert!(get(seen) <= bound, "{attack}: {what} took {:?}", get(seen));
    }
}

macro_rules! attacks {
    ($($name:ident: $attack:expr,)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                endure($attack).await;
            }
        )+

        const ALL: &[Attack] = &[$($attack),+];
    };
}

attacks! {
    subscriptions_to_a_hundred_unknown_pairs: Attack::UnknownPairs,
    messages_of_braces: Attack::Braces,
    messages_of_keys: Attack::Keys,
    pings_as_fast_as_they_go: Attack::Pings,
    floods_of_hello: Attack::Hello,
    fifty_hashtags_and_away: Attack::Hashtags,
    handshakes_past_the_limit: Attack::Handshakes,
    connections_that_say_nothing: Attack::Silence,
    requests_for_much_history: Attack::History,
    responses_that_are_not_read: Attack::Unread,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "the figures are shown when the output of a test is")]
async fn an_exchange_that_sends_too_much() {
    for flood in Flood::ALL {
        let (floods, sane) =
            (ExchangeServer::start().await.unwrap(), ExchangeServer::start().await.unwrap());
        let record = "matches/BTC-USD,level2/BTC-USD";
        let setup =
            |exchange| Headwater::setup().option("--coinbase-record", record).exchange(exchange);
        let attacked = setup(&floods).spawn().await;
        let quiet = setup(&sane).spawn().await;
        for exchange in [&floods, &sane] {
            exchange.subscribed("matches", "BTC-USD").await;
        }
        let (sent, seen, expected) = tokio::join!(
            flood.send(&floods, TIME),
            watch(attacked.address, TIME),
            watch(quiet.address, TIME)
        );
        println!("{flood:?}: {sent} messages; attacked {seen:?}, quiet {expected:?}");
        judge(&format!("{flood:?}"), &seen, &expected);
        stop(&format!("{flood:?}"), attacked, quiet).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_endures_them_too() {
    if std::env::var_os("CARGO_PROFILE_DEV_OPT_LEVEL").is_none() {
        skip("two clusters are too slow without optimization (CARGO_PROFILE_DEV_OPT_LEVEL=1)");
        return;
    }
    let exchange = ExchangeServer::start().await.unwrap();
    let Some(attacked) = Cluster::start_with_tokens(&exchange).await else { return };
    let Some(quiet) = Cluster::start_with_tokens(&exchange).await else { return };
    endure_all(&exchange, attacked, quiet).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it requires cargo-lambda: `make test-lambda` runs it"]
async fn functions_under_cargo_lambda_endure_them_too() {
    let exchange = ExchangeServer::start().await.unwrap();
    let attacked = Cluster::start_lambda_with_tokens(&exchange).await;
    let quiet = Cluster::start_lambda_with_tokens(&exchange).await;
    endure_all(&exchange, attacked, quiet).await;
}

async fn endure_all(exchange: &ExchangeServer, attacked: Cluster, quiet: Cluster) {
    let target = targets().await;
    target(attacked.address).fill(exchange).await;
    for attack in ALL {
        compare(*attack, &target(attacked.address), &target(quiet.address)).await;
    }
    attacked.stop().await;
    quiet.stop().await;
}
