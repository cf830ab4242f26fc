use domain::push::{PushError, Report};
use futures_util::future::BoxFuture;
use tokio::{sync::mpsc, time::Instant};

use super::*;

/// A `push` that records each job with its time of arrival, and returns scripted results.
struct Script {
    jobs: mpsc::UnboundedSender<(u128, Job)>,
    answers: Mutex<VecDeque<Answered>>,
    started: Instant,
}

/// The result of an invocation.
#[derive(Clone, Copy)]
enum Answered {
    /// At once, with this many connections that have a backlog.
    Waiting(u64),
    /// With success, after some milliseconds.
    After(u64),
    /// With an error.
    Failed,
}
use Answered::{After, Failed, Waiting};

impl Push for Script {
    fn push(&self, job: Job) -> BoxFuture<'_, Result<Report, PushError>> {
        Box::pin(async move {
            let answer = self.answers.lock().pop_front().unwrap_or(Waiting(0));
            let _ = self.jobs.send((self.started.elapsed().as_millis(), job));
            match answer {
                Waiting(waiting) => Ok(Report { waiting, ..Report::default() }),
                After(millis) => {
                    time::sleep(Duration::from_millis(millis)).await;
                    Ok(Report::default())
                }
                Failed => Err(PushError::Failed("a fault".into())),
            }
        })
    }
}

/// Running lanes of shard 0, where `topic()` has a subscriber.
struct Bench {
    lanes: Lanes,
    jobs: mpsc::UnboundedReceiver<(u128, Job)>,
    shutdown: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

impl Bench {
    fn new(answers: &[Answered]) -> Self {
        let (sender, jobs) = mpsc::unbounded_channel();
        let answers = Mutex::new(answers.iter().copied().collect());
        let push = Arc::new(Script { jobs: sender, answers, started: Instant::now() });
        let lanes = Lanes::new([0]);
        lanes.set_wanted(0, BTreeSet::from([topic()]), vec![]);
        let shutdown = CancellationToken::new();
        let runner = lanes.clone();
        let stop = shutdown.clone();
        let running = tokio::spawn(async move { runner.run(push, stop).await });
        Self { lanes, jobs, shutdown, running }
    }

    fn send(&self, seq: u64) {
        self.lanes.send(&[&frame(&topic(), seq, 10)]);
    }

    /// The next job: when it arrived, and the numbers of its frames.
    async fn next(&mut self) -> Option<(u128, Vec<u64>)> {
        let (at, job) = self.next_job().await?;
        Some((at, job.frames.iter().map(Frame::seq).collect()))
    }

    async fn next_job(&mut self) -> Option<(u128, Job)> {
        time::timeout(Duration::from_mins(1), self.jobs.recv()).await.ok()?
    }
}

fn topic() -> Topic {
    Topic::parse("coinbase/matches/BTC-USD").expect("a topic")
}

fn frame(topic: &Topic, seq: u64, bytes: usize) -> Entry {
    let event = "x".repeat(bytes);
    Entry::Frame(Frame::new(topic.clone(), seq, Timestamp::UNIX_EPOCH, &[event]))
}

fn lost(from: u64, to: u64) -> Lost {
    Lost { topic: topic(), from, to }
}

#[tokio::test(start_paused = true)]
async fn one_invocation_is_in_flight_and_the_next_one_takes_what_was_published_meanwhile() {
    let mut bench = Bench::new(&[After(100)]);
    bench.send(1);
    assert_eq!(bench.next().await, Some((0, vec![1])));
    bench.send(2);
    bench.send(3);
    assert_eq!(bench.next().await, Some((100, vec![2, 3])));
    assert_eq!(bench.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_topic_without_a_subscriber_in_the_shard_is_not_sent() {
    let mut bench = Bench::new(&[]);
    let other = Topic::parse("coinbase/matches/ETH-USD").expect("a topic");
    bench.lanes.send(&[&frame(&other, 1, 10)]);
    assert_eq!(bench.next().await, None);
    let joined = vec![ConnectionId::new("c")];
    bench.lanes.set_wanted(0, BTreeSet::from([other.clone()]), joined.clone());
    let (_, job) = bench.next_job().await.expect("a job");
    assert_eq!((job.joined, job.frames.len()), (joined, 0));
    bench.lanes.send(&[&frame(&other, 2, 10)]);
    let sent = bench.next().await.expect("a job");
    assert_eq!(sent.1, [2]);
    bench.lanes.set_wanted(7, BTreeSet::new(), vec![ConnectionId::new("d")]);
    assert_eq!(bench.next().await, None, "no such shard");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_failed_is_retried_before_what_came_later() {
    let mut bench = Bench::new(&[Failed]);
    bench.lanes.send(&[&frame(&topic(), 1, 10), &Entry::Lost { topic: topic(), seq: 2, last: 4 }]);
    assert_eq!(bench.next().await, Some((0, vec![1])));
    bench.send(5);
    let (at, job) = bench.next_job().await.expect("a job");
    assert!((10..=100).contains(&at), "{at}");
    assert_eq!(job.frames.iter().map(Frame::seq).collect::<Vec<_>>(), [1, 5]);
    assert_eq!(job.lost, [lost(2, 4)]);
    let counts = bench.lanes.counters().look(Timestamp::UNIX_EPOCH);
    assert_eq!((counts.frames, counts.events, counts.push_failures), (2, 2, 1));
}

#[tokio::test(start_paused = true)]
async fn slow_connections_are_retried_soon_and_do_not_delay_new_frames() {
    let mut bench = Bench::new(&[Waiting(2), Waiting(1), After(0), Waiting(1), After(0)]);
    bench.send(1);
    assert_eq!(bench.next().await, Some((0, vec![1])));
    assert_eq!(bench.next().await, Some((50, vec![])));
    assert_eq!(bench.next().await, Some((100, vec![])));
    assert_eq!(bench.next().await, None, "all connections accepted everything");
    bench.send(2);
    let (at, _) = bench.next().await.expect("a job");
    bench.send(3);
    assert_eq!(bench.next().await, Some((at, vec![3])));
}

#[tokio::test(start_paused = true)]
async fn new_rules_and_checks_invoke_push_without_frames() {
    let mut bench = Bench::new(&[]);
    bench.lanes.set_rules(7);
    let (_, job) = bench.next_job().await.expect("a job");
    assert_eq!((job.rules, job.frames.len()), (7, 0));
    bench.lanes.check(0);
    let (_, job) = bench.next_job().await.expect("a job");
    assert_eq!(job.rules, 7);
    assert_eq!(bench.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn jobs_are_bounded_and_a_backlog_that_is_too_large_becomes_a_gap() {
    let mut bench = Bench::new(&[After(100)]);
    bench.send(1);
    assert_eq!(bench.next().await, Some((0, vec![1])));
    for seq in 2..=18 {
        bench.lanes.send(&[&frame(&topic(), seq, 1024 * 1024)]);
    }
    // A frame has a little more than 1 MiB, so the 16th is too many, and the newest 7 stay.
    let (at, job) = bench.next_job().await.expect("a job");
    assert_eq!((at, job.lost), (100, vec![lost(2, 10)]));
    assert_eq!(job.frames.iter().map(Frame::seq).collect::<Vec<_>>(), [11, 12, 13, 14]);
    assert_eq!(bench.next().await, Some((100, vec![15, 16, 17, 18])));
}

#[tokio::test(start_paused = true)]
async fn what_is_pending_at_a_shutdown_is_still_sent() {
    let mut bench = Bench::new(&[After(100), Waiting(1)]);
    bench.send(1);
    assert_eq!(bench.next().await, Some((0, vec![1])));
    bench.send(2);
    bench.shutdown.cancel();
    assert_eq!(bench.next().await, Some((100, vec![2])));
    bench.running.await.expect("the lanes stop");
    assert_eq!(bench.jobs.recv().await.map(|(at, _)| at), None);
}
