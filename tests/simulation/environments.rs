//! The environments of `push`. Lambda routes an invocation to any of them, or to one that is cold.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use domain::push::{Job, Push, PushError, Report};
use functions::push::Pusher;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time;

use crate::link::Link;

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
    /// Share of the invocations that start a new environment although another one is free.
    pub(crate) cold: f64,
}

type Start = Box<dyn Fn() -> Pusher + Send + Sync>;

/// `push`, as all pollers see it.
pub(crate) struct Environments {
    start: Start,
    state: Mutex<State>,
}

struct State {
    rng: fastrand::Rng,
    faults: Faults,
    free: Vec<Arc<Pusher>>,
    counts: BTreeMap<&'static str, u64>,
}

/// `push`, as one poller sees it.
pub(crate) struct Invoker {
    pub(crate) environments: Arc<Environments>,
    pub(crate) link: Link,
}

impl Environments {
    pub(crate) fn new(rng: fastrand::Rng, start: Start) -> Self {
        let state =
            State { rng, faults: Faults::default(), free: Vec::new(), counts: BTreeMap::new() };
        Self { start, state: Mutex::new(state) }
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.state.lock().counts.clone()
    }

    fn take(&self) -> Arc<Pusher> {
        let free = {
            let mut state = self.state.lock();
            let is_cold = state.rng.f64() < state.faults.cold || state.free.is_empty();
            if is_cold {
                *state.counts.entry("lambda: cold starts").or_default() += 1;
                None
            } else {
                let count = state.free.len();
                let index = state.rng.usize(..count);
                Some(state.free.swap_remove(index))
            }
        };
        free.unwrap_or_else(|| Arc::new((self.start)()))
    }

    async fn invoke(self: Arc<Self>, job: Job) -> Result<Report, PushError> {
        // What is sent is what a function on AWS gets.
        let job: Job = serde_json::from_slice(&serde_json::to_vec(&job).unwrap()).unwrap();
        let (fate, delay, kill_after, is_throttled) = {
            let mut state = self.state.lock();
            *state.counts.entry("lambda: invocations").or_default() += 1;
            let throttled = state.faults.throttled;
            let is_throttled = state.rng.f64() < throttled;
            (state.rng.f64(), state.rng.u64(500..3_000), state.rng.u64(0..40), is_throttled)
        };
        time::sleep(Duration::from_micros(delay)).await;
        if is_throttled {
            self.count("lambda: throttled invocations");
            return Err(PushError::Throttled("simulated".into()));
        }
        let Faults { lost_responses, killed, abandoned, .. } = self.state.lock().faults;
        let pusher = self.take();
        let running = {
            let environments = self.clone();
            tokio::spawn(async move {
                let result = pusher.handle(job).await;
                environments.state.lock().free.push(pusher);
                result
            })
        };
        let no_response = || PushError::NoResponse("simulated".into());
        if fate < killed {
            self.count("lambda: killed invocations");
            time::sleep(Duration::from_millis(kill_after)).await;
            running.abort();
            return Err(no_response());
        }
        if fate < killed + abandoned {
            self.count("lambda: responses lost while the function runs");
            return Err(no_response());
        }
        let report = running.await.map_err(|error| PushError::Failed(error.into()))?;
        if fate < killed + abandoned + lost_responses {
            self.count("lambda: lost responses");
            return Err(no_response());
        }
        let report = report.map_err(|error| PushError::Failed(error.into()))?;
        Ok(serde_json::from_slice(&serde_json::to_vec(&report).unwrap()).unwrap())
    }

    fn count(&self, name: &'static str) {
        *self.state.lock().counts.entry(name).or_default() += 1;
    }
}

impl Push for Invoker {
    fn push(&self, job: Job) -> BoxFuture<'_, Result<Report, PushError>> {
        Box::pin(async move {
            self.link.is_up().await;
            let result = self.environments.clone().invoke(job).await;
            self.link.is_up().await;
            result
        })
    }
}
