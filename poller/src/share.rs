//! The share of a poller: the posts of the account are divided among the pollers that lead, in proportion to
//! the sources that each leads.

use std::{sync::Arc, time::Duration};

use aws::control::Control;
use domain::{chain::Chain, clock::Clock};
use tokio::time::{self, MissedTickBehavior};
use tracing::debug;

use crate::{lanes::Lanes, leadership::Leadership};

/// How often the leaders are read.
const EVERY: Duration = Duration::from_secs(3);

/// Keeps the share of the poller called `owner` up to date.
pub(crate) async fn keep(
    control: Control,
    leadership: Leadership,
    lanes: Lanes,
    owner: Arc<str>,
    clock: Clock,
) {
    let mut changes = leadership.changes();
    let mut timer = time::interval(EVERY);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            () = changes.changed() => {}
        }
        // A standby has nothing to post.
        if leadership.all().is_empty() {
            continue;
        }
        match control.leaders(clock.now()).await {
            Ok(leaders) => {
                let own = leaders.values().filter(|leader| ***leader == *owner).count();
                // The database can know already that another poller has taken over.
                if own > 0 {
                    lanes.share(own, leaders.len());
                }
            }
            Err(error) => {
                debug!(error = %Chain(&error), "could not read the leaders; keeping the share");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use aws::clients::{Clients, TableOptions};
    use domain::{
        entry::Entry,
        frame::Frame,
        push::{Job, Push, PushError, Report},
        topic::Topic,
    };
    use dynamo::{Engine, Storage};
    use futures_util::future::BoxFuture;
    use jiff::Timestamp;
    use tokio::{sync::mpsc, time::Instant};
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// Does each job at once, and passes on how many posts it may use.
    struct Posts(mpsc::UnboundedSender<u64>);

    impl Push for Posts {
        fn push(&self, job: Job) -> BoxFuture<'_, Result<Report, PushError>> {
            let served = job.stretches.iter().map(|it| (it.topic.clone(), it.to)).collect();
            let _ = self.0.send(job.posts);
            Box::pin(async { Ok(Report { served, ..Report::default() }) })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_posts_are_divided_among_the_pollers_that_lead() {
        const SUBSCRIBERS: usize = 1_000;
        let topic = Topic::parse("coinbase/matches/BTC-USD").expect("a topic");
        let engine = Engine::inline(Storage::open(None).expect("a database"));
        let options =
            TableOptions { table_prefix: "test-".to_owned(), retention: Duration::from_hours(1) };
        let tables = Clients::from_config(engine.sdk_config()).tables(&options);
        tables.create_missing().await.expect("tables");
        let control = tables.control;
        let (began, started) = (Timestamp::now(), Instant::now());
        let clock = Clock::new(move || began + started.elapsed());

        let hour = Duration::from_hours(1);
        let acquire = async |family: &str, owner: &str| {
            let lease = control.acquire(family, owner, hour, clock.now()).await;
            lease.expect("a response").expect("the lease is free")
        };
        let leadership = Leadership::default();
        leadership.add(acquire("coinbase", "this").await, Instant::now() + hour);
        let lanes = Lanes::new([0], leadership.clone(), 100, clock.clone());
        lanes.update(0, &BTreeMap::from([(topic.clone(), SUBSCRIBERS)]), vec![]);
        let (sender, mut jobs) = mpsc::unbounded_channel();
        let (runs, notes) = (lanes.clone(), control.clone());
        tokio::spawn(async move {
            runs.run(Arc::new(Posts(sender)), notes, CancellationToken::new()).await;
        });
        tokio::spawn(keep(
            control.clone(),
            leadership.clone(),
            lanes.clone(),
            "this".into(),
            clock.clone(),
        ));
        let mut seq = 0;
        let mut posts = async || {
            // By now, the leaders were read again, and a second's worth of posts is available.
            time::sleep(EVERY * 2).await;
            seq += 1;
            let frame = Frame::new(topic.clone(), seq, clock.now(), &["1"]);
            lanes.send(&[&Entry::Frame(frame)]);
            jobs.recv().await.expect("a job")
        };

        assert_eq!(posts().await, 100, "one poller leads");
        let other = acquire("mastodon", "other").await;
        assert_eq!(posts().await, 50, "two pollers lead a family each");
        assert!(control.release(&other).await.expect("released"));
        let ours = acquire("mastodon", "this").await;
        leadership.add(ours, Instant::now() + hour);
        assert_eq!(posts().await, 100, "one poller leads both families");
    }
}
