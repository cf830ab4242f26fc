//! Lambda: the environments of the functions, and the Runtime API that gives them events.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use futures_util::future::BoxFuture;
use gateway::{FunctionError, Functions};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::{process::Command, sync::oneshot, task::JoinSet};

/// Most environments of a function. Each serves one event at a time.
const ENVIRONMENTS: usize = 4;

/// The time limit that functions learn from the deadline of an event. It is not enforced.
const TIMEOUT: Duration = Duration::from_secs(29);

/// Returns the program of an environment of the function with this binary.
type Start = Box<dyn Fn(&str) -> Command + Send + Sync>;

/// The functions, by binary.
#[derive(Clone)]
pub(super) struct Lambda(Arc<Inner>);

struct Inner {
    start: Start,
    state: Mutex<LambdaState>,
}

#[derive(Default)]
struct LambdaState {
    functions: HashMap<String, Function>,
    /// The invocations without a result, by request id.
    running: HashMap<String, oneshot::Sender<Result<Bytes, Failure>>>,
    invocations: u64,
    /// The processes. They end when this is dropped.
    environments: JoinSet<()>,
}

#[derive(Default)]
struct Function {
    environments: usize,
    /// The environments that wait for an event.
    idle: Vec<oneshot::Sender<Event>>,
    /// The events that wait for an environment.
    queue: VecDeque<Event>,
}

struct Event {
    id: String,
    body: Bytes,
}

/// The error of a function.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Failure {
    error_type: String,
    error_message: String,
}

impl Lambda {
    /// Starts environments when they are needed.
    pub(super) fn new(start: impl Fn(&str) -> Command + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner { start: Box::new(start), state: Mutex::default() }))
    }

    /// Invokes the function with this binary, and returns its response.
    pub(super) async fn call(&self, binary: &str, body: Bytes) -> Result<Bytes, Failure> {
        let (sender, result) = oneshot::channel();
        {
            let mut state = self.0.state.lock();
            state.invocations += 1;
            let id = format!("{binary}-{}", state.invocations);
            state.running.insert(id.clone(), sender);
            let function = state.functions.entry(binary.to_owned()).or_default();
            let mut event = Event { id, body };
            loop {
                let Some(idle) = function.idle.pop() else {
                    function.queue.push_back(event);
                    if function.environments < ENVIRONMENTS {
                        function.environments += 1;
                        self.start(&mut state, binary);
                    }
                    break;
                };
                // An environment that has ended does not take the event.
                let Err(unserved) = idle.send(event) else { break };
                event = unserved;
            }
        }
        result.await.unwrap_or_else(|_| Err(failure("the environment has ended")))
    }

    fn start(&self, state: &mut LambdaState, binary: &str) {
        let mut child = (self.0.start)(binary).kill_on_drop(true).spawn().unwrap();
        let binary = binary.to_owned();
        let inner = Arc::downgrade(&self.0);
        state.environments.spawn(async move {
            let status = child.wait().await;
            let Some(inner) = inner.upgrade() else { return };
            let mut state = inner.state.lock();
            let Some(function) = state.functions.get_mut(&binary) else { return };
            function.environments -= 1;
            let unserved: Vec<Event> = function.queue.drain(..).collect();
            for event in unserved {
                if let Some(running) = state.running.remove(&event.id) {
                    let _ = running.send(Err(failure(&format!("{binary} has ended: {status:?}"))));
                }
            }
        });
    }

    async fn next(&self, binary: &str) -> Event {
        let waiting = {
            let mut state = self.0.state.lock();
            let function = state.functions.entry(binary.to_owned()).or_default();
            if let Some(event) = function.queue.pop_front() {
                return event;
            }
            let (sender, waiting) = oneshot::channel();
            function.idle.push(sender);
            waiting
        };
        match waiting.await {
            Ok(event) => event,
            Err(_) => std::future::pending().await,
        }
    }

    fn finish(&self, id: &str, result: Result<Bytes, Failure>) {
        if let Some(running) = self.0.state.lock().running.remove(id) {
            // The caller may not wait any more.
            let _ = running.send(result);
        }
    }

    /// Returns the Runtime API (AWS Lambda developer guide, "Using the Lambda runtime API"). The path
    /// has the binary of the function first.
    pub(super) fn runtime_api(&self) -> Router {
        Router::new()
            .route("/{binary}/2018-06-01/runtime/invocation/next", get(next))
            .route("/{binary}/2018-06-01/runtime/invocation/{id}/response", post(respond))
            .route("/{binary}/2018-06-01/runtime/invocation/{id}/error", post(fail))
            .with_state(self.clone())
    }
}

/// The gateway's invocations. On AWS, SAM lets the APIs invoke the functions of their routes.
impl Functions for Lambda {
    fn invoke<'a>(
        &'a self,
        function: &'a str,
        event: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, FunctionError>> {
        Box::pin(async move {
            self.call(function, event).await.map_err(|failure| {
                let Failure { error_type, error_message: message } = failure;
                FunctionError::Handled { error_type, message }
            })
        })
    }
}

impl Failure {
    /// Returns the failure as Lambda reports it.
    pub(super) fn into_response(self) -> Response {
        let Self { error_type, error_message } = self;
        let body = serde_json::json!({"errorType": error_type, "errorMessage": error_message});
        ([("x-amz-function-error", "Unhandled")], body.to_string()).into_response()
    }
}

fn failure(message: &str) -> Failure {
    Failure { error_type: "Runtime.ExitError".to_owned(), error_message: message.to_owned() }
}

async fn next(State(lambda): State<Lambda>, Path(binary): Path<String>) -> Response {
    let Event { id, body } = lambda.next(&binary).await;
    let deadline = SystemTime::now() + TIMEOUT;
    let deadline = deadline.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    let headers = [
        ("lambda-runtime-aws-request-id", id),
        ("lambda-runtime-deadline-ms", deadline.to_string()),
    ];
    (headers, body).into_response()
}

async fn respond(
    State(lambda): State<Lambda>,
    Path((_, id)): Path<(String, String)>,
    body: Bytes,
) -> StatusCode {
    lambda.finish(&id, Ok(body));
    StatusCode::ACCEPTED
}

async fn fail(
    State(lambda): State<Lambda>,
    Path((_, id)): Path<(String, String)>,
    body: Bytes,
) -> StatusCode {
    let reported = serde_json::from_slice(&body);
    lambda.finish(&id, Err(reported.unwrap_or_else(|_| failure("the error is not JSON"))));
    StatusCode::ACCEPTED
}
