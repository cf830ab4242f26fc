//! The handler of a job.

use std::{collections::BTreeMap, sync::Arc};

use domain::{
    chain::{BoxError, Chain},
    connection::{ConnectionId, Recipient},
    outlet::OutletError,
    push::{Behind, Job, Lag, Push, PushError, Report, Stretch},
    topic::Topic,
};
use futures_util::{StreamExt as _, future::BoxFuture, stream};
use jiff::Timestamp;
use tokio::{join, sync::Mutex};
use tracing::{instrument, warn};

use super::{
    budget::Budget,
    catch_up::{CaughtUp, Source},
    fan_out::Unserved,
    message::positions,
    pusher::{JobError, Pusher},
    segment::Segment,
    view::{Plan, View},
};

/// Number of segments, and of items of closed connections, that are worked on concurrently.
const CONCURRENCY: usize = 32;

impl Pusher {
    /// Does a job.
    ///
    /// # Errors
    ///
    /// [`JobError`]; the caller can repeat the job.
    // The future is boxed here so that `push` is compiled once, and not again in each program that runs it.
    pub fn handle(&self, job: Job) -> BoxFuture<'_, Result<Report, JobError>> {
        Box::pin(self.handle_job(job))
    }

    #[instrument(name = "push", skip_all, fields(shard = job.shard))]
    async fn handle_job(&self, job: Job) -> Result<Report, JobError> {
        let budget = Budget::new(job.posts, job.time());
        let now = self.clock.now();
        let prepared =
            budget.run(self.prepare(&job, &budget, now)).await.ok_or(JobError::OutOfTime)??;
        let Prepared { view, segments, plan } = prepared;
        let Plan { shares, stragglers, closed, revocations } = plan;

        let source = Source::new(&segments, now);
        let (unserved, caught_up, revoked) = join!(
            self.fan_out(shares, &segments, &budget),
            self.catch_up(stragglers, &source, &budget),
            self.revoke(job.shard, revocations, &budget),
        );

        let mut outcome = Outcome { report: Report::default(), gone: revoked.closed };
        outcome.report.gone = closed;
        for unserved in unserved {
            outcome.unserved(unserved);
        }
        for caught_up in caught_up {
            outcome.caught_up(caught_up);
        }
        let Outcome { mut report, gone } = outcome;
        self.record_closed(&job, &gone, &budget).await;
        {
            let mut view = view.lock().await;
            for recipient in &gone {
                view.remove(&recipient.id);
            }
            report.unfinished = view.keep_revocations(revoked.unfinished) as u64;
        }
        report.gone.extend(gone.into_iter().map(|recipient| recipient.id));
        report.served = source.into_ends();
        report.served.extend(segments.into_iter().map(|segment| (segment.topic, segment.to)));
        report.posts = budget.used();
        Ok(report)
    }

    /// Reads what a job needs.
    async fn prepare(
        &self,
        job: &Job,
        budget: &Budget,
        now: Timestamp,
    ) -> Result<Prepared, JobError> {
        let rules = self.rules.at_least(job.rules, budget.time_left()).await?;
        let view = self.view(job.shard, &rules);
        let segments = self.segments(job).await;
        let plan = {
            let mut view = view.lock().await;
            view.refresh(job, rules, now).await?;
            view.plan(job, &segments, now)
        };
        Ok(Prepared { view, segments, plan })
    }

    /// Completes the stretches of a job. If the log cannot be read, a topic is left for the next job.
    async fn segments(&self, job: &Job) -> Vec<Segment> {
        let mut completing = Vec::with_capacity(job.stretches.len());
        for stretch in &job.stretches {
            completing.push(self.segment(stretch));
        }
        stream::iter(completing).buffered(CONCURRENCY).collect().await
    }

    async fn segment(&self, stretch: &Stretch) -> Segment {
        match Segment::complete(&self.log, stretch, self.clock.now()).await {
            Ok(segment) => segment,
            Err(error) => {
                let topic = stretch.topic.clone();
                warn!(%topic, error = %Chain(&error), "could not read the log; retrying later");
                Segment { topic, prev: stretch.prev, to: stretch.prev, pieces: Vec::new() }
            }
        }
    }

    /// Records in their items that connections are closed.
    async fn record_closed(&self, job: &Job, gone: &[Recipient], budget: &Budget) {
        let mut closing = Vec::with_capacity(gone.len());
        for recipient in gone {
            closing.push(self.connections.close(job.shard, &recipient.id));
        }
        let mut closing = stream::iter(closing).buffer_unordered(CONCURRENCY);
        while let Some(Some(closed)) = budget.run(closing.next()).await {
            if let Err(error) = closed {
                warn!(error = %Chain(&error), "could not record that a connection closed");
            }
        }
    }
}

/// What a job needs before anything is posted.
struct Prepared {
    view: Arc<Mutex<View>>,
    segments: Vec<Segment>,
    plan: Plan,
}

/// The report of a job while it is put together.
struct Outcome {
    report: Report,
    gone: Vec<Recipient>,
}

impl Outcome {
    fn unserved(&mut self, unserved: Unserved) {
        let Unserved { recipient, messages, from, error } = unserved;
        let mut from = from;
        let lag = match error {
            None => Lag::None,
            Some(OutletError::Gone) => return self.gone.push(recipient),
            Some(OutletError::TooLarge) => {
                warn!(connection.id = %recipient.id, "dropped a message that is too large; the client sees a gap");
                from += 1;
                Lag::None
            }
            Some(OutletError::Busy) => {
                self.report.refused += 1;
                Lag::Slow
            }
            Some(OutletError::Failed(error)) => {
                warn!(connection.id = %recipient.id, error = %Chain(error.as_ref()), "could not post a message; retrying later");
                Lag::Slow
            }
        };
        self.behind(recipient.id, positions(&messages[from..]), lag);
    }

    fn caught_up(&mut self, caught_up: CaughtUp) {
        match caught_up {
            CaughtUp::Done => {}
            CaughtUp::Behind(behind) => self.report.behind.push(behind),
            CaughtUp::Gone(recipient) => self.gone.push(recipient),
        }
    }

    fn behind(&mut self, connection: ConnectionId, next: BTreeMap<Topic, u64>, lag: Lag) {
        if !next.is_empty() {
            self.report.behind.push(Behind { connection, next, lag, waits: false });
        }
    }
}

impl Push for Pusher {
    fn push(&self, job: Job) -> BoxFuture<'_, Result<Report, PushError>> {
        Box::pin(async move {
            self.handle_job(job).await.map_err(|error| PushError::Failed(BoxError::from(error)))
        })
    }
}
