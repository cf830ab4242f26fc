//! What the jobs of `push` read from the database.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use domain::{
    clock::Clock,
    push::{Changed, Job},
};
use functions::push::Pusher;
use jiff::{SignedDuration, Timestamp};

use crate::world::World;

fn nothing_to_do() -> Job {
    Job {
        shard: 0,
        rules: 0,
        time_ms: 2_000,
        posts: 10,
        stretches: vec![],
        behind: vec![],
        changed: vec![],
    }
}

#[tokio::test(start_paused = true)]
async fn a_closed_connection_is_not_read_for_each_job_that_names_it() {
    let world = World::new().await;
    let client = world.connect("a").await;
    world.tables.connections.close(0, &client.id).await.unwrap();
    let all = world.tables.connections.changes(0, Timestamp::UNIX_EPOCH).await.unwrap();
    let changed = all.iter().map(|it| Changed {
        connection: it.recipient.id.clone(),
        version: it.version,
        joined: [].into(),
    });
    let job = Job { changed: changed.collect(), ..nothing_to_do() };
    assert_eq!(job.changed.len(), 1);
    let clock = Clock::new(Timestamp::now);
    let rules = Arc::clone(&world.app.rules);
    let pusher = Pusher::new(&world.tables, world.gateway.clone(), rules, clock);
    pusher.handle(job.clone()).await.unwrap();
    world.database.take_requests();
    pusher.handle(job).await.unwrap();
    assert_eq!(world.database.take_requests(), 0);
}

/// A job names the changes of the last 15 seconds. A subscription that is older, and that an environment has not
/// read because the index failed, would be left out and reported as served.
#[tokio::test(start_paused = true)]
async fn a_job_fails_if_the_view_can_miss_changes_that_the_job_does_not_name() {
    let world = World::new().await;
    world.connect("a").await;
    let seconds = Arc::new(AtomicI64::new(0));
    let clock = {
        let seconds = seconds.clone();
        let start = Timestamp::now();
        Clock::new(move || start + SignedDuration::from_secs(seconds.load(Ordering::Relaxed)))
    };
    let rules = Arc::clone(&world.app.rules);
    let pusher = Pusher::new(&world.tables, world.gateway.clone(), rules, clock);
    pusher.handle(nothing_to_do()).await.unwrap();
    for (age, is_away, is_done) in
        [(4, true, true), (7, true, true), (9, true, false), (9, false, true), (16, true, true)]
    {
        world.database.set_away(is_away);
        seconds.store(age, Ordering::Relaxed);
        let done = pusher.handle(nothing_to_do()).await;
        assert_eq!(done.is_ok(), is_done, "after {age} s, away {is_away}: {done:?}");
    }
}
