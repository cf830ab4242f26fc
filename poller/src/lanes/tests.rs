use std::collections::{BTreeSet, VecDeque};

use aws::{
    clients::{Clients, TableOptions},
    control::leases::Lease,
};
use domain::{
    connection::ConnectionId,
    frame::Frame,
    push::{Behind, Changed, Lag, Stretch},
};
use dynamo::Engine;
use futures_util::future::BoxFuture;
use jiff::{Timestamp, ToSpan as _};
use tokio::sync::mpsc;

use super::{change::Start, *};

/// A `push` that passes on each job with the time at which it came, and responds as scripted.
struct Script {
    jobs: mpsc::UnboundedSender<(u128, Job)>,
    outcomes: Mutex<VecDeque<Outcome>>,
    started: Instant,
}

/// How one invocation ends.
#[derive(Clone)]
enum Outcome {
    /// With success, after some milliseconds.
    After(u64),
    /// With these connections behind.
    Behind(Vec<Behind>),
    /// With the topic served up to this number.
    Served(u64),
    /// With an error of the function.
    Failed,
    /// Without a response, after some milliseconds.
    NoResponse(u64),
}

impl Push for Script {
    fn push(&self, job: Job) -> BoxFuture<'_, Result<Report, PushError>> {
        Box::pin(async move {
            let outcome = self.outcomes.lock().pop_front().unwrap_or(Outcome::After(0));
            let served = job.stretches.iter().map(|it| (it.topic.clone(), it.to)).collect();
            let mut report = Report { served, ..Report::default() };
            let _ = self.jobs.send((self.started.elapsed().as_millis(), job));
            match outcome {
                Outcome::After(millis) => time::sleep(Duration::from_millis(millis)).await,
                Outcome::Behind(behind) => report.behind = behind,
                Outcome::Served(seq) => report.served = BTreeMap::from([(topic(), seq)]),
                Outcome::Failed => return Err(PushError::Failed("a fault".into())),
                Outcome::NoResponse(millis) => {
                    time::sleep(Duration::from_millis(millis)).await;
                    return Err(PushError::NoResponse("a fault".into()));
                }
            }
            Ok(report)
        })
    }
}

/// Running lanes of shard 0, where `topic()` has a subscriber.
struct Bench {
    lanes: Lanes,
    leadership: Leadership,
    jobs: mpsc::UnboundedReceiver<(u128, Job)>,
    shutdown: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

impl Bench {
    fn new(outcomes: &[Outcome]) -> Self {
        let (sender, jobs) = mpsc::unbounded_channel();
        let outcomes = Mutex::new(outcomes.iter().cloned().collect());
        let push = Arc::new(Script { jobs: sender, outcomes, started: Instant::now() });
        let leadership = Leadership::default();
        let lease = Lease { source: "coinbase".to_owned(), owner: "me".to_owned(), epoch: 1 };
        // The paused time of a test passes quickly; nothing renews the lease.
        leadership.add(lease, Instant::now() + Duration::from_hours(1));
        let lanes = Lanes::new([0], leadership.clone(), u32::MAX, Clock::new(Timestamp::now));
        lanes.update(0, &subscribers(&[topic()]), vec![]);
        let shutdown = CancellationToken::new();
        let running = {
            let lanes = lanes.clone();
            let shutdown = shutdown.clone();
            let control = tables().control;
            tokio::spawn(async move { lanes.run(push, control, shutdown).await })
        };
        Self { lanes, leadership, jobs, shutdown, running }
    }

    fn send(&self, seq: u64) {
        self.lanes.send(&[&frame(&topic(), seq, 10)]);
    }

    /// The next job: when it came, the number before its first one, and the numbers of its frames.
    async fn next(&mut self) -> Option<(u128, u64, Vec<u64>)> {
        let (at, job) = self.next_job().await?;
        let stretch = job.stretches.first()?;
        Some((at, stretch.prev, stretch.entries.iter().map(Entry::seq).collect()))
    }

    async fn next_job(&mut self) -> Option<(u128, Job)> {
        time::timeout(Duration::from_mins(1), self.jobs.recv()).await.ok()?
    }
}

/// Tables that exist in the configuration only: notes cannot be written, which the lanes survive.
fn tables() -> aws::tables::Tables {
    let engine = Engine::open(None).expect("a database");
    let options =
        TableOptions { table_prefix: "test-".to_owned(), retention: Duration::from_hours(1) };
    Clients::from_config(engine.sdk_config()).tables(&options)
}

fn topic() -> Topic {
    Topic::parse("coinbase/matches/BTC-USD").expect("a topic")
}

fn subscribers(topics: &[Topic]) -> BTreeMap<Topic, usize> {
    topics.iter().map(|topic| (topic.clone(), 1)).collect()
}

fn frame(topic: &Topic, seq: u64, bytes: usize) -> Entry {
    let event = "x".repeat(bytes);
    Entry::Frame(Frame::new(topic.clone(), seq, Timestamp::UNIX_EPOCH, &[event]))
}

fn change(id: &str, topic: &Topic, joined: &[u64]) -> Change {
    Change {
        id: ConnectionId::new(id),
        version: 2,
        topics: BTreeSet::from([topic.clone()]),
        joined: joined.iter().map(|next| (topic.clone(), start(*next))).collect(),
    }
}

fn start(next: u64) -> Start {
    Start { next, since: Timestamp::UNIX_EPOCH }
}

fn behind(id: &str, next: u64, lag: Lag) -> Behind {
    let next = BTreeMap::from([(topic(), next)]);
    Behind { connection: ConnectionId::new(id), next, lag, waits: false }
}

#[tokio::test(start_paused = true)]
async fn one_invocation_is_in_flight_and_the_next_one_takes_what_was_appended_meanwhile() {
    let mut bench = Bench::new(&[Outcome::After(100)]);
    bench.send(7);
    assert_eq!(bench.next().await, Some((0, 6, vec![7])));
    bench.send(8);
    bench.send(9);
    assert_eq!(bench.next().await, Some((100, 7, vec![8, 9])));
    assert_eq!(bench.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_topic_without_a_subscriber_in_the_shard_is_not_sent_and_a_joiner_is_behind() {
    let mut bench = Bench::new(&[Outcome::Served(1)]);
    let other = Topic::parse("coinbase/matches/ETH-USD").expect("a topic");
    bench.lanes.send(&[&frame(&other, 1, 10)]);
    assert_eq!(bench.next().await, None);
    bench.lanes.update(0, &subscribers(&[topic(), other.clone()]), vec![change("c", &other, &[1])]);
    let (_, job) = bench.next_job().await.expect("a job");
    assert_eq!((job.behind.len(), job.stretches.len()), (1, 0), "the log is read to its end");
    assert_eq!(job.behind[0].next, BTreeMap::from([(other.clone(), 1)]));
    let joined = BTreeMap::from([(other.clone(), Timestamp::UNIX_EPOCH)]);
    assert_eq!(job.changed, [Changed { connection: ConnectionId::new("c"), version: 2, joined }]);
    bench.lanes.send(&[&frame(&other, 2, 10)]);
    let (_, job) = bench.next_job().await.expect("a job");
    assert_eq!((job.stretches[0].prev, job.behind.len()), (1, 0));
    bench.lanes.update(7, &BTreeMap::new(), vec![change("d", &other, &[1])]);
    assert_eq!(bench.next().await, None, "no such shard");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_failed_is_repeated_with_what_came_later() {
    let mut bench = Bench::new(&[Outcome::Failed]);
    bench.send(1);
    assert_eq!(bench.next().await, Some((0, 0, vec![1])));
    bench.send(2);
    let (at, prev, frames) = bench.next().await.expect("a job");
    assert!(at >= 1, "after a delay");
    assert_eq!((prev, frames), (0, vec![1, 2]));
}

#[tokio::test(start_paused = true)]
async fn a_job_without_a_response_is_repeated_when_the_first_one_has_certainly_ended() {
    let mut bench = Bench::new(&[Outcome::NoResponse(10), Outcome::After(60_000)]);
    bench.send(1);
    assert_eq!(bench.next().await, Some((0, 0, vec![1])));
    let (first, ..) = bench.next().await.expect("a job");
    assert_eq!(first, 4_000);
    let (second, ..) = bench.next().await.expect("a job");
    assert!((8_000..9_000).contains(&second), "the lane waits no longer than a job can take");
}

#[tokio::test(start_paused = true)]
async fn the_lane_goes_on_from_the_report() {
    let mut bench = Bench::new(&[Outcome::Served(1)]);
    bench.lanes.send(&[&frame(&topic(), 1, 10), &frame(&topic(), 2, 10)]);
    assert_eq!(bench.next().await, Some((0, 0, vec![1, 2])));
    assert_eq!(bench.next().await, Some((0, 1, vec![2])));
    assert_eq!(bench.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_slow_connection_is_retried_after_growing_delays_and_delays_nothing_else() {
    let slow = || Outcome::Behind(vec![behind("c", 1, Lag::Slow)]);
    let mut bench = Bench::new(&[slow(), slow(), slow(), slow()]);
    bench.send(1);
    assert_eq!(bench.next().await, Some((0, 0, vec![1])));
    let (at, job) = bench.next_job().await.expect("a job");
    assert_eq!((at, &job.behind), (50, &vec![behind("c", 1, Lag::Slow)]));
    assert_eq!((job.stretches[0].prev, job.stretches[0].to), (1, 1));
    bench.send(2);
    let (at, job) = bench.next_job().await.expect("a job");
    assert_eq!((at, job.behind[0].waits), (50, true), "the others are served at once");
    let (at, job) = bench.next_job().await.expect("a job");
    assert_eq!((at, job.behind[0].waits), (150, false));
    let (at, job) = bench.next_job().await.expect("a job");
    assert_eq!((at, job.behind[0].waits), (350, false));
    assert_eq!(bench.next().await, None, "it has everything");
}

#[tokio::test(start_paused = true)]
async fn a_poller_that_no_longer_leads_sends_nothing() {
    let mut bench = Bench::new(&[]);
    bench.leadership.remove("coinbase");
    bench.send(1);
    assert_eq!(bench.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_new_version_of_the_rules_and_a_check_make_a_job_without_events() {
    let mut bench = Bench::new(&[]);
    bench.lanes.set_rules(3);
    let (_, job) = bench.next_job().await.expect("a job");
    assert_eq!((job.rules, job.stretches.len()), (3, 0));
    bench.lanes.check(0);
    assert!(bench.next_job().await.is_some());
    assert!(bench.next_job().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_until_all_events_are_sent() {
    let mut bench = Bench::new(&[Outcome::After(200)]);
    bench.send(1);
    assert_eq!(bench.next().await, Some((0, 0, vec![1])));
    bench.send(2);
    bench.shutdown.cancel();
    assert_eq!(bench.next().await, Some((200, 1, vec![2])));
    bench.running.await.expect("the lanes end");
}

/// A connection that is behind must not keep a lane busy that may not send.
#[tokio::test(start_paused = true)]
async fn a_lane_that_may_not_send_waits_until_it_may() {
    let mut bench = Bench::new(&[Outcome::Behind(vec![behind("c", 1, Lag::Slow)])]);
    bench.send(1);
    assert!(bench.next().await.is_some());
    bench.leadership.remove("coinbase");
    bench.send(2);
    assert_eq!(bench.next().await, None, "the time passes, so the lane waits");
    let lease = Lease { source: "coinbase".to_owned(), owner: "me".to_owned(), epoch: 1 };
    bench.leadership.add(lease, Instant::now());
    let (_, prev, frames) = bench.next().await.expect("a job");
    assert_eq!((prev, frames), (1, vec![2]));
}

#[test]
fn too_many_pending_events_become_a_gap_in_their_place() {
    let mut state = State::default();
    state.set_topics(&subscribers(&[topic()]));
    let entries: Vec<Entry> = (1..=40).map(|seq| frame(&topic(), seq, 1_000_000)).collect();
    for entry in &entries {
        state.send(&[entry], 0);
    }
    let job = state.job(0, 0, Instant::now(), |_| true).expect("a job");
    let stretch = &job.stretches[0];
    assert_eq!(stretch.prev, 0);
    let first = &stretch.entries[0];
    assert!(matches!(first, Entry::Lost { seq: 1, last: 20.., is_logged: true, .. }), "{first:?}");
    let mut next = 1;
    for entry in &stretch.entries {
        assert_eq!(entry.seq(), next, "in order and complete");
        next = entry.last() + 1;
    }
}

#[test]
fn lines_that_have_few_entries_each_become_shorter_too() {
    let topics: Vec<Topic> = (0..300)
        .map(|n| Topic::parse(&format!("coinbase/matches/A{n}-B")).expect("a topic"))
        .collect();
    let mut state = State::default();
    state.set_topics(&subscribers(&topics));
    for topic in &topics {
        state.send(&[&frame(topic, 1, 1_000), &frame(topic, 2, 60_000)], 0);
    }
    let job = state.job(0, 0, Instant::now(), |_| true).expect("a job");
    assert!(job.stretches.iter().any(|it| matches!(it.entries[0], Entry::Lost { .. })));
}

#[test]
fn the_next_leader_continues_from_the_note() {
    let now = Instant::now();
    let at = Timestamp::UNIX_EPOCH + 1.hour();
    let mut old = State::default();
    old.take_over("coinbase", LaneNote::default());
    old.set_topics(&subscribers(&[topic()]));
    old.send(&[&frame(&topic(), 1, 10), &frame(&topic(), 2, 10)], 0);
    let job = old.job(0, 0, now, |_| true).expect("a job");
    let served = BTreeMap::from([(topic(), 2)]);
    let report = Report { served, behind: vec![behind("c", 2, Lag::Slow)], ..Report::default() };
    old.apply(&job, report, now);
    let note = old.note("coinbase", at).expect("it has changed");
    assert_eq!(note.sent, BTreeMap::from([(topic(), 2)]));
    assert_eq!(note.behind, [behind("c", 2, Lag::Slow)]);
    old.noted();
    assert_eq!(old.note("coinbase", at), None);

    let mut new = State::default();
    new.take_over("coinbase", note);
    new.set_topics(&subscribers(&[topic()]));
    new.extend(&topic(), 3);
    let job = new.job(0, 0, now, |_| true).expect("a job");
    assert_eq!(job.behind, [behind("c", 2, Lag::Slow)]);
    let stretch = Stretch { topic: topic(), prev: 2, to: 3, entries: vec![] };
    assert_eq!(job.stretches, [stretch], "3 is in the log and was not sent");
}

#[test]
fn a_job_has_posts_for_the_subscriptions_that_have_to_be_ended() {
    let now = Instant::now();
    let mut state = State::default();
    state.set_topics(&subscribers(&[topic()]));
    state.check(now);
    let job = state.job(0, 0, now, |_| true).expect("a job");
    state.apply(&job, Report { unfinished: 500, ..Report::default() }, now);
    let due = state.due_at(now, |_| true).expect("another check");
    let job = state.job(0, 0, due, |_| true).expect("a job");
    assert!(job.posts >= 500, "{} posts", job.posts);
    state.apply(&job, Report::default(), due);
    assert_eq!(state.due_at(due, |_| true), None);
}

#[test]
fn the_note_about_a_family_stands_until_it_is_taken_over() {
    let at = Timestamp::UNIX_EPOCH;
    let mut state = State::default();
    state.take_over("mastodon", LaneNote::default());
    state.set_topics(&subscribers(&[topic()]));
    state.touch();
    assert_eq!(state.note("coinbase", at), None);
    assert!(state.note("mastodon", at).is_some());
    state.take_over("coinbase", LaneNote::default());
    assert!(state.note("coinbase", at).is_some());
}

#[test]
fn a_topic_that_is_first_wanted_after_a_failover_is_read_from_the_log() {
    let now = Instant::now();
    let at = Timestamp::UNIX_EPOCH;
    let other = Topic::parse("coinbase/matches/ETH-USD").expect("a topic");
    let sent = BTreeMap::from([(topic(), 2), (other.clone(), 2)]);
    let mut state = State::default();
    state.take_over("coinbase", LaneNote { at, sent, behind: vec![] });
    state.set_topics(&subscribers(&[topic()]));
    // Nobody has wanted the other topic for a while, so the lane has not seen what was appended to it.
    state.set_topics(&subscribers(&[topic(), other.clone()]));
    state.change(change("c", &other, &[7]), now);
    let job = state.job(0, 0, now, |_| true).expect("a job");
    assert_eq!(job.behind[0].next, BTreeMap::from([(other, 7)]));
    assert_eq!(job.stretches, []);
}

#[test]
fn a_subscription_that_changes_during_a_job_keeps_its_new_position() {
    let now = Instant::now();
    let mut state = State::default();
    state.set_topics(&subscribers(&[topic()]));
    state.send(&[&frame(&topic(), 9, 10)], 0);
    for id in ["again", "left"] {
        state.change(change(id, &topic(), &[8]), now);
    }
    let job = state.job(0, 0, now, |_| true).expect("a job");
    assert_eq!(job.behind.len(), 2);
    state.change(change("again", &topic(), &[3]), now);
    state.change(Change { topics: BTreeSet::new(), ..change("left", &topic(), &[]) }, now);
    let served = BTreeMap::from([(topic(), 9)]);
    let reported = ["again", "left"].map(|id| behind(id, 8, Lag::None)).to_vec();
    state.apply(&job, Report { served, behind: reported, ..Report::default() }, now);
    let job = state.job(0, 0, now + Duration::from_secs(1), |_| true).expect("a job");
    assert_eq!(job.behind, [behind("again", 3, Lag::None)]);
}
