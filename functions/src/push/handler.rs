//! The handler of a job.

use domain::{
    chain::BoxError,
    push::{Job, Push, PushError, Report},
};
use futures_util::future::BoxFuture;
use tracing::instrument;

use super::{
    pusher::{JobError, Pusher},
    stragglers::MissedCache,
};

impl Pusher {
    /// Runs a job.
    ///
    /// # Errors
    ///
    /// [`JobError`]; the caller can repeat the job.
    #[instrument(name = "push", skip_all, fields(shard = job.shard))]
    pub async fn handle(&self, job: Job) -> Result<Report, JobError> {
        let now = (self.clock)();
        let rules = self.rules.at_least(job.rules).await?;
        let view = self.view(job.shard, &rules);
        let mut view = view.lock().await;
        view.refresh(&job.joined, rules, now).await?;

        let mut report = Report::default();
        let unfinished = self.revoke(&mut view, job.shard, &mut report, now).await;
        let failed = self.post_to_groups(&view, &job, &mut report).await;
        // Connections that reject a message now are not tried again within this job.
        let stragglers = view.stragglers();
        self.add_stragglers(&mut view, &job, failed, &mut report, now).await;
        let mut cache = MissedCache::new();
        for (recipient, topics) in stragglers {
            self.serve(&mut view, &job, &recipient, &topics, &mut cache, &mut report, now).await;
        }
        view.regroup();
        report.waiting = (view.waiting() + unfinished) as u64;
        Ok(report)
    }
}

impl Push for Pusher {
    fn push(&self, job: Job) -> BoxFuture<'_, Result<Report, PushError>> {
        Box::pin(async move {
            self.handle(job).await.map_err(|error| PushError::Failed(BoxError::from(error)))
        })
    }
}
