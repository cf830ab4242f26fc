//! API Gateway and the clients' ends of its connections.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use domain::{
    connection::{ConnectionId, Recipient},
    outlet::{Outlet, OutletError},
    topic::Topic,
};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    sync::mpsc,
    time::{self, Instant},
};

use crate::{trace::Trace, upstream::Logged};

/// The faults of the gateway.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Share of the posts that are delivered and answered with an error.
    pub(crate) failed_after_delivery: f64,
    /// Share of the posts that are not delivered and answered with an error.
    pub(crate) rejected: f64,
    /// Share of the posts that are answered with 429.
    pub(crate) throttled: f64,
    /// Share of the posts that hang.
    pub(crate) hung: f64,
}

/// The gateway, as one of the functions sees it.
#[derive(Clone)]
pub(crate) struct Gateway {
    inner: Arc<Mutex<Inner>>,
    /// Most posts in a second; `None` if they are not limited.
    most_posts: Option<usize>,
}

struct Inner {
    rng: fastrand::Rng,
    faults: Faults,
    sockets: BTreeMap<ConnectionId, Socket>,
    /// The topic that nobody has a right to any more, and since when nothing of it may be sent.
    forbidden: Option<(Topic, Instant)>,
    /// By topic and number, the event.
    events: BTreeMap<(String, u64), Logged>,
    /// When `push` has posted in the last second.
    posts: VecDeque<Instant>,
    trace: Trace,
}

struct Socket {
    messages: mpsc::UnboundedSender<Value>,
    busy_until: Option<Instant>,
}

impl Gateway {
    pub(crate) fn new(rng: fastrand::Rng, trace: Trace) -> Self {
        let inner = Inner {
            rng,
            faults: Faults::default(),
            sockets: BTreeMap::new(),
            forbidden: None,
            events: BTreeMap::new(),
            posts: VecDeque::new(),
            trace,
        };
        Self { inner: Arc::new(Mutex::new(inner)), most_posts: None }
    }

    /// Returns the gateway for `push`, which must not post more than this in a second.
    pub(crate) fn with_most_posts(&self, most_posts: usize) -> Self {
        Self { most_posts: Some(most_posts), ..self.clone() }
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        self.inner.lock().faults = faults;
    }

    /// Makes it a violation to send anything of a topic from some time on.
    pub(crate) fn forbid(&self, topic: Option<(Topic, Instant)>) {
        self.inner.lock().forbidden = topic;
    }

    /// Opens a connection. Returns what the client receives.
    pub(crate) fn open(&self, id: &ConnectionId) -> mpsc::UnboundedReceiver<Value> {
        let (messages, receiver) = mpsc::unbounded_channel();
        self.inner.lock().sockets.insert(id.clone(), Socket { messages, busy_until: None });
        receiver
    }

    pub(crate) fn close(&self, id: &ConnectionId) {
        self.inner.lock().sockets.remove(id);
    }

    /// Makes a client accept nothing for a while.
    pub(crate) fn block(&self, id: &ConnectionId, time: Duration) {
        let mut inner = self.inner.lock();
        if let Some(socket) = inner.sockets.get_mut(id) {
            socket.busy_until = Some(Instant::now() + time);
        }
        inner.trace.count("gateway: slow clients");
    }
}

impl Inner {
    fn post(&mut self, id: &ConnectionId, message: &Bytes) -> Result<(), OutletError> {
        let Faults { failed_after_delivery, rejected, throttled, .. } = self.faults;
        if self.rng.f64() < throttled {
            self.trace.count("gateway: 429 of the account");
            return Err(OutletError::Busy);
        }
        let Some(socket) = self.sockets.get(id) else {
            self.trace.count("gateway: 410");
            return Err(OutletError::Gone);
        };
        if socket.busy_until.is_some_and(|until| until > Instant::now()) {
            self.trace.count("gateway: 429 of a connection");
            return Err(OutletError::Busy);
        }
        let messages = socket.messages.clone();
        if self.rng.f64() < rejected {
            self.trace.count("gateway: rejected posts");
            return Err(OutletError::Failed("simulated".into()));
        }
        self.trace.record(&format!("post {id}"), message);
        let json: Value = serde_json::from_slice(message).unwrap();
        self.check_rights(id, &json);
        self.check_numbers(id, &json);
        if messages.send(json).is_err() {
            return Err(OutletError::Gone);
        }
        if self.rng.f64() < failed_after_delivery {
            self.trace.count("gateway: 5xx after delivery");
            return Err(OutletError::Failed("simulated".into()));
        }
        Ok(())
    }

    /// Checks that a message has no events of a topic whose rights were withdrawn.
    fn check_rights(&self, id: &ConnectionId, message: &Value) {
        let Some((topic, since)) = &self.forbidden else { return };
        let frames = message["frames"].as_array().into_iter().flatten();
        let has_topic = frames.filter(|frame| frame["topic"] == topic.as_str()).count() > 0;
        if has_topic && *since < Instant::now() {
            let late = since.elapsed().as_millis();
            self.trace.violation(&format!("{id} was sent events of {topic}, {late} ms too late"));
        }
    }

    /// Checks that `push` does not post more than it may.
    fn check_posts(&mut self, most: usize) {
        let now = Instant::now();
        self.posts.push_back(now);
        while self.posts.front().is_some_and(|at| now - *at > Duration::from_secs(1)) {
            self.posts.pop_front();
        }
        if self.posts.len() > most {
            self.trace.violation(&format!("more than {most} posts in a second"));
            self.posts.clear();
        }
    }

    /// Checks that a number always stands for the same event.
    fn check_numbers(&mut self, id: &ConnectionId, message: &Value) {
        for frame in message["frames"].as_array().into_iter().flatten() {
            let (topic, first) = (frame["topic"].as_str().unwrap(), frame["seq"].as_u64().unwrap());
            for (seq, event) in (first..).zip(frame["events"].as_array().unwrap()) {
                let Some(event) = Logged::read(event) else { continue };
                let known = self.events.entry((topic.to_owned(), seq)).or_insert(event.clone());
                let is_same = match (&*known, &event) {
                    // A delete takes the place of its post. A job may still have the post.
                    (Logged::Posted(post), Logged::Deleted(deleted))
                    | (Logged::Deleted(deleted), Logged::Posted(post)) => post == deleted,
                    (known, event) => known == event,
                };
                if !is_same {
                    self.trace.violation(&format!(
                        "{id} was sent {event:?} of {topic} as {seq}, which was {known:?}"
                    ));
                }
                *known = event;
            }
        }
    }
}

impl Outlet for Gateway {
    fn post<'a>(
        &'a self,
        recipients: &'a [Recipient],
        message: Bytes,
    ) -> BoxFuture<'a, Vec<(usize, OutletError)>> {
        Box::pin(async move {
            let mut errors = Vec::new();
            let (delay, hangs) = {
                let mut inner = self.inner.lock();
                let share = inner.faults.hung;
                let hangs = inner.rng.f64() < share;
                if hangs {
                    inner.trace.count("gateway: posts that hang");
                }
                (inner.rng.u64(1_000..8_000), hangs)
            };
            time::sleep(Duration::from_micros(delay)).await;
            for (index, recipient) in recipients.iter().enumerate() {
                let mut inner = self.inner.lock();
                if let Some(most) = self.most_posts {
                    inner.check_posts(most);
                }
                let posted = inner.post(&recipient.id, &message);
                errors.extend(posted.err().map(|error| (index, error)));
            }
            if hangs {
                time::sleep(Duration::from_secs(3)).await;
            }
            errors
        })
    }

    fn close<'a>(&'a self, recipient: &'a Recipient) -> BoxFuture<'a, Result<(), OutletError>> {
        Box::pin(async move {
            self.close(&recipient.id);
            Ok(())
        })
    }
}
