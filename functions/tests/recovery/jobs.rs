//! What the jobs of `push` read from the database.

use std::sync::Arc;

use domain::{
    clock::Clock,
    push::{Changed, Job},
};
use functions::push::Pusher;
use jiff::Timestamp;

use crate::world::World;

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
    let job = Job {
        shard: 0,
        rules: 0,
        time_ms: 2_000,
        posts: 10,
        stretches: vec![],
        behind: vec![],
        changed: changed.collect(),
    };
    assert_eq!(job.changed.len(), 1);
    let clock = Clock::new(Timestamp::now);
    let rules = Arc::clone(&world.app.rules);
    let pusher = Pusher::new(&world.tables, world.gateway.clone(), rules, clock);
    pusher.handle(job.clone()).await.unwrap();
    world.database.take_requests();
    pusher.handle(job).await.unwrap();
    assert_eq!(world.database.take_requests(), 0);
}
