//! The rules while the database is away: nothing is served that may have been withdrawn.

use std::sync::Arc;

use domain::{
    access::{Principal, Right},
    clock::Clock,
    push::Job,
    rules::SetText,
};
use functions::{
    access::rules::{Rules, RulesError},
    push::{JobError, Pusher},
};
use jiff::Timestamp;
use serde_json::json;
use tokio::time::{self, Duration, Instant};

use crate::world::{World, summary, topic};

/// The longest time for which rules are used that were not confirmed.
const VALID_FOR: Duration = Duration::from_secs(5);

async fn allows(rules: &Rules) -> Result<bool, RulesError> {
    let rules = rules.current().await?;
    Ok(rules.allows(&Principal::anonymous(), Right::Subscribe(&topic())))
}

/// Puts rules in force that permit nothing.
async fn withdraw(world: &World) {
    let nothing = SetText { policies: String::new(), ..SetText::open() };
    world.tables.control.put_rules(&nothing, "root", Timestamp::now()).await.unwrap();
}

async fn permit(world: &World) {
    world.tables.control.put_rules(&SetText::open(), "root", Timestamp::now()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_right_that_was_withdrawn_during_an_outage_ends_within_five_seconds() {
    // The rules that were in force before: the initial ones, and others.
    for puts in [0, 1] {
        let world = World::new().await;
        for _ in 0..puts {
            permit(&world).await;
        }
        let rules = &world.app.rules;
        assert!(allows(rules).await.unwrap());
        withdraw(&world).await;
        world.database.set_away(true);
        let withdrawn = time::Instant::now();
        let mut served = 0;
        while withdrawn.elapsed() < VALID_FOR * 2 {
            let answers =
                [allows(rules).await, rules.at_least(puts, Duration::ZERO).await.map(|_| true)];
            for answer in answers {
                let elapsed = withdrawn.elapsed();
                assert!(answer.is_err() || elapsed < VALID_FOR, "served after {elapsed:?}");
                served += usize::from(answer.is_ok());
            }
            time::advance(Duration::from_millis(100)).await;
        }
        assert!(served > 20, "a short outage ends nothing: {served}");
        world.database.set_away(false);
        time::advance(Duration::from_secs(1)).await;
        assert!(!allows(rules).await.unwrap(), "the rules in force are used again");
        permit(&world).await;
        time::advance(Duration::from_secs(2)).await;
        assert!(allows(rules).await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_at_the_start_permits_nothing() {
    let world = World::new().await;
    world.database.set_away(true);
    assert!(allows(&world.app.rules).await.is_err());
    world.database.set_away(false);
    time::advance(Duration::from_secs(1)).await;
    assert!(allows(&world.app.rules).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_older_version_than_required_is_never_used() {
    let world = World::new().await;
    let rules = &world.app.rules;
    assert_eq!(rules.at_least(0, Duration::ZERO).await.unwrap().version, 0);
    withdraw(&world).await;
    world.database.set_away(true);
    assert!(rules.at_least(1, Duration::ZERO).await.is_err());
    assert_eq!(rules.at_least(0, Duration::ZERO).await.unwrap().version, 0);
    world.database.set_away(false);
    time::advance(Duration::from_secs(1)).await;
    assert_eq!(rules.at_least(1, Duration::ZERO).await.unwrap().version, 1);
    assert!(matches!(
        rules.at_least(2, Duration::ZERO).await,
        Err(RulesError::Missing { version: 2 })
    ));
}

#[tokio::test(start_paused = true)]
async fn rules_that_cannot_be_read_permit_nothing() {
    let world = World::new().await;
    let rules = &world.app.rules;
    assert!(allows(rules).await.unwrap());
    let broken = SetText { policies: "permit (".to_owned(), ..SetText::open() };
    world.tables.control.put_rules(&broken, "root", Timestamp::now()).await.unwrap();
    time::advance(Duration::from_secs(3)).await;
    assert!(allows(rules).await.unwrap());
    time::advance(Duration::from_secs(2)).await;
    assert!(matches!(allows(rules).await, Err(RulesError::Invalid { version: 1, .. })));
    permit(&world).await;
    time::advance(Duration::from_secs(1)).await;
    assert!(allows(rules).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_quiet_system_reads_the_version_every_two_seconds_at_most() {
    let world = World::new().await;
    permit(&world).await;
    let rules = &world.app.rules;
    rules.current().await.unwrap();
    world.database.take_requests();
    for _ in 0..600 {
        let (current, at_least) = tokio::join!(rules.current(), rules.at_least(1, Duration::ZERO));
        assert_eq!((current.unwrap().version, at_least.unwrap().version), (1, 1));
        time::advance(Duration::from_millis(100)).await;
    }
    let reads = world.database.take_requests();
    assert!((25..=30).contains(&reads), "{reads} in a minute");
}

#[tokio::test(start_paused = true)]
async fn a_job_ends_before_its_rules_are_no_longer_valid() {
    let world = World::new().await;
    let rules = &world.app.rules;
    let confirmed_at = Instant::now();
    rules.current().await.unwrap();
    world.database.set_away(true);
    let job = Duration::from_millis(1_500);
    let (mut last_job, mut last_request) = (Duration::ZERO, Duration::ZERO);
    while confirmed_at.elapsed() < Duration::from_secs(7) {
        if rules.at_least(0, job).await.is_ok() {
            last_job = confirmed_at.elapsed();
        }
        if rules.current().await.is_ok() {
            last_request = confirmed_at.elapsed();
        }
        time::advance(Duration::from_millis(100)).await;
    }
    let [earliest, latest] = [Duration::from_secs(2), VALID_FOR.saturating_sub(job)];
    assert!((earliest..=latest).contains(&last_job), "it posts for 1.5 s: {last_job:?}");
    assert!((latest..=VALID_FOR).contains(&last_request), "{last_request:?}");
}

#[tokio::test(start_paused = true)]
async fn requests_and_jobs_fail_while_the_rules_are_not_known() {
    let world = World::new().await;
    let client = world.connect("a").await;
    world.append(&topic(), 1, 3).await;
    let replay = json!({"action": "replay", "topic": topic(), "from": 1, "to": 3});
    let pusher = Pusher::new(
        &world.tables,
        world.gateway.clone(),
        Arc::clone(&world.app.rules),
        Clock::new(Timestamp::now),
    );
    let job = || Job {
        shard: 0,
        rules: 0,
        time_ms: 5_000,
        posts: 1_000,
        stretches: vec![],
        behind: vec![],
        changed: vec![],
    };
    assert_eq!(summary(&world.send(&client, replay.clone()).await[0]), "events 1-3");
    pusher.handle(job()).await.unwrap();
    world.database.set_away(true);
    time::advance(VALID_FOR).await;
    assert_eq!(summary(&world.send(&client, replay.clone()).await[0]), "error unavailable");
    assert!(matches!(pusher.handle(job()).await, Err(JobError::Rules(_))));
    world.database.set_away(false);
    time::advance(Duration::from_secs(1)).await;
    assert_eq!(summary(&world.send(&client, replay).await[0]), "events 1-3");
    pusher.handle(job()).await.unwrap();
}
