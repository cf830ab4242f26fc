//! The environments of `push`. Lambda routes an invocation to any of them, or to one that is cold.

use std::{sync::Arc, time::Duration};

use domain::push::{Job, Push, PushError, Report, Stretch};
use functions::push::{JobError, Pusher};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::{self, Instant};

use crate::{database::Database, link::Link, trace::Trace};

/// The faults of Lambda.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) throttled: f64,
    /// Share of the invocations that are done and whose response is lost.
    pub(crate) lost_responses: f64,
    /// Share of the invocations that end somewhere in the middle.
    pub(crate) killed: f64,
    /// Share of the invocations whose response is lost at once, while the function goes on.
    pub(crate) abandoned: f64,
    /// Share of the invocations that another environment handles at the same time.
    pub(crate) twice: f64,
    /// Share of the invocations that start a new environment although another one is free.
    pub(crate) cold: f64,
}

/// How long after another poller has acquired the lease a leader whose clock is wrong may take itself for one.
const TERM_ENDS_WITHIN: Duration = Duration::from_secs(3);

/// How much longer than a job may take an invocation takes until its report is ready.
const SLACK: Duration = Duration::from_millis(100);

type Start = Box<dyn Fn() -> Pusher + Send + Sync>;

/// `push`, as all pollers see it.
pub(crate) struct Environments {
    start: Start,
    state: Mutex<State>,
    trace: Trace,
}

struct State {
    rng: fastrand::Rng,
    faults: Faults,
    free: Vec<Arc<Pusher>>,
}

/// `push`, as one poller sees it.
pub(crate) struct Invoker {
    pub(crate) environments: Arc<Environments>,
    pub(crate) database: Database,
    pub(crate) link: Link,
    /// The name of the poller.
    pub(crate) owner: String,
}

impl Environments {
    pub(crate) fn new(rng: fastrand::Rng, start: Start, trace: Trace) -> Self {
        let state = State { rng, faults: Faults::default(), free: Vec::new() };
        Self { start, state: Mutex::new(state), trace }
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    fn take(&self) -> Arc<Pusher> {
        let free = {
            let mut state = self.state.lock();
            let is_cold = state.rng.f64() < state.faults.cold || state.free.is_empty();
            if is_cold {
                self.trace.count("lambda: cold starts");
                None
            } else {
                let count = state.free.len();
                let index = state.rng.usize(..count);
                Some(state.free.swap_remove(index))
            }
        };
        free.unwrap_or_else(|| Arc::new((self.start)()))
    }

    /// Handles a job in one of the environments.
    async fn handle(self: Arc<Self>, job: Job) -> Result<Report, JobError> {
        let pusher = self.take();
        let started = Instant::now();
        let (time, posts) = (job.time() + SLACK, job.posts);
        let result = pusher.handle(job).await;
        if started.elapsed() > time {
            let took = started.elapsed();
            self.trace.violation(&format!("a job took {took:?} of {time:?}"));
        }
        if result.as_ref().is_ok_and(|report| report.posts > posts) {
            self.trace.violation(&format!("more than {posts} posts: {result:?}"));
        }
        self.state.lock().free.push(pusher);
        result
    }

    async fn invoke(self: Arc<Self>, job: Job) -> Result<Report, PushError> {
        // What is sent is what a function on AWS gets.
        let json = serde_json::to_vec(&job).unwrap();
        self.trace.record("push", &json);
        let read = || serde_json::from_slice::<Job>(&json).unwrap();
        let (fate, delay, kill_after, is_throttled) = {
            let mut state = self.state.lock();
            self.trace.count("lambda: invocations");
            let throttled = state.faults.throttled;
            let is_throttled = state.rng.f64() < throttled;
            (state.rng.f64(), state.rng.u64(500..3_000), state.rng.u64(0..40), is_throttled)
        };
        time::sleep(Duration::from_micros(delay)).await;
        if is_throttled {
            self.trace.count("lambda: throttled invocations");
            return Err(PushError::Throttled("simulated".into()));
        }
        let Faults { lost_responses, killed, abandoned, twice, .. } = self.state.lock().faults;
        if self.state.lock().rng.f64() < twice {
            self.trace.count("lambda: jobs handled twice");
            tokio::spawn(self.clone().handle(read()));
        }
        let running = tokio::spawn(self.clone().handle(read()));
        let no_response = || PushError::NoResponse("simulated".into());
        if fate < killed {
            self.trace.count("lambda: killed invocations");
            time::sleep(Duration::from_millis(kill_after)).await;
            running.abort();
            return Err(no_response());
        }
        if fate < killed + abandoned {
            self.trace.count("lambda: responses lost while the function runs");
            return Err(no_response());
        }
        let report = running.await.map_err(|error| PushError::Failed(error.into()))?;
        if fate < killed + abandoned + lost_responses {
            self.trace.count("lambda: lost responses");
            return Err(no_response());
        }
        let report = report.map_err(|error| PushError::Failed(error.into()))?;
        let json = serde_json::to_vec(&report).unwrap();
        self.trace.record("report", &json);
        Ok(serde_json::from_slice(&json).unwrap())
    }
}

impl Invoker {
    /// Checks that nobody else leads the topics of a job. A leader learns the end of its term from its own clock.
    fn check_leads(&self, job: &Job) {
        for Stretch { topic, .. } in &job.stretches {
            let other = self.database.led_by_another(topic.source(), &self.owner);
            if let Some(since) = other.filter(|since| *since > TERM_ENDS_WITHIN) {
                self.environments.trace.violation(&format!(
                    "{} pushed {topic}, which another poller has led for {since:?}",
                    self.owner
                ));
            }
        }
    }
}

impl Push for Invoker {
    fn push(&self, job: Job) -> BoxFuture<'_, Result<Report, PushError>> {
        Box::pin(async move {
            self.link.is_up().await;
            self.check_leads(&job);
            let result = self.environments.clone().invoke(job).await;
            self.link.is_up().await;
            result
        })
    }
}
