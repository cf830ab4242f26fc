//! Interest: which topics have subscribers, and where each subscription starts.
//!
//! A poller follows the connections only while it leads a family of sources, and only for the topics
//! of its families.

mod shard;
mod topics;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use aws::{
    connections::{Connections, GONE_FOR},
    control::{Control, leases::Lease},
    error::StoreError,
    log::Log,
    reader::ShardReader,
    tables::Tables,
};
use domain::{
    chain::Chain,
    clock::Clock,
    connection::ConnectionId,
    shard::{Shard, Shards},
    topic::Topic,
};
use futures_util::{StreamExt as _, future, stream};
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::{
    shard::{Interrupted, Subscribers},
    topics::RecentTopics,
};
use crate::{
    lanes::Lanes,
    leadership::{Leadership, is_leaderless},
    wanted::Wanted,
};

/// How often the index is asked for changes, if no other part of this process reports them.
const EVERY: Duration = Duration::from_millis(250);

/// Shortest time between two reads, so that many new connections are read together.
const AT_MOST_EVERY: Duration = Duration::from_millis(10);

/// How often the version of the rules and the number of shards are read, subscriptions that were interrupted are
/// completed, and `push` is asked to check expired tokens.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// How often the ends of the topics that every poller may write to are read. Events of other pollers
/// are sent then.
const READ_ENDS_EVERY: Duration = Duration::from_secs(3);

/// Number of requests about single topics or connections that are made concurrently.
const CONCURRENCY: usize = 16;

/// Follows the connections, tells the lanes where subscriptions start, and tells the sources which
/// topics are wanted.
pub struct Interest {
    connections: Connections,
    control: Control,
    log: Log,
    shards: Vec<FollowedShard>,
    recorded: Wanted,
    topics: RecentTopics,
    families: HashMap<String, watch::Sender<Arc<Wanted>>>,
    leadership: Leadership,
    /// The leases of the families that this poller leads, by family.
    leases: BTreeMap<String, Lease>,
    /// Those families whose topics may have events that the previous leader has not sent.
    unread: BTreeSet<String>,
    clock: Clock,
}

struct FollowedShard {
    reader: ShardReader,
    subscribers: Subscribers,
    /// Whether the connections were read when this was last tried.
    is_read: bool,
    /// The families that the lane of this shard serves.
    served: BTreeSet<String>,
}

impl FollowedShard {
    fn new(connections: &Connections, shard: Shard) -> Self {
        Self {
            reader: ShardReader::new(connections.clone(), shard),
            subscribers: Subscribers::new(shard),
            is_read: false,
            served: BTreeSet::new(),
        }
    }
}

impl Interest {
    /// Starts without subscribers. The `recorded` topics are always wanted.
    pub fn new(
        tables: &Tables,
        shards: impl IntoIterator<Item = Shard>,
        recorded: Wanted,
        leadership: Leadership,
        clock: Clock,
    ) -> Self {
        let connections = &tables.connections;
        let shards: Vec<_> =
            shards.into_iter().map(|shard| FollowedShard::new(connections, shard)).collect();
        Self {
            connections: connections.clone(),
            control: tables.control.clone(),
            log: tables.log.clone(),
            shards,
            recorded,
            topics: RecentTopics::default(),
            families: HashMap::new(),
            leadership,
            leases: BTreeMap::new(),
            unread: BTreeSet::new(),
            clock,
        }
    }

    /// Returns the wanted topics of a family of sources, such as `coinbase`.
    pub fn wanted_of(&mut self, family: &str) -> watch::Receiver<Arc<Wanted>> {
        self.families.entry(family.to_owned()).or_default().subscribe()
    }

    /// Follows the connections until `shutdown`, whenever this poller leads a family.
    pub async fn run(mut self, lanes: Lanes, shutdown: CancellationToken) {
        let mut writes = self.connections.writes();
        let mut leases = self.leadership.changes();
        let mut rules = 0;
        let mut shards_read_at: Option<Instant> = None;
        let mut checked_at: Option<Instant> = None;
        let mut read_ends_at: Option<Instant> = None;
        let is_due = |at: Option<Instant>, every| at.is_none_or(|at| at.elapsed() >= every);
        while !shutdown.is_cancelled() {
            let leads = !self.leadership.all().is_empty();
            if leads {
                writes.mark_unchanged();
                if is_due(shards_read_at, CHECK_EVERY) {
                    shards_read_at = Some(Instant::now());
                    self.add_shards(&lanes).await;
                }
                self.refresh().await;
            }
            self.follow_leases(&lanes).await;
            if leads {
                self.update_lanes(&lanes);
                self.read_unread(&lanes).await;
                self.publish().await;
            }
            if leads && is_due(read_ends_at, READ_ENDS_EVERY) {
                read_ends_at = Some(Instant::now());
                if let Err(error) = self.read_ends(&lanes, is_leaderless).await {
                    warn!(error = %Chain(&error), "could not read the end of a topic; retrying");
                }
            }
            if leads && is_due(checked_at, CHECK_EVERY) {
                checked_at = Some(Instant::now());
                rules = self.follow_rules(rules, &lanes).await;
                self.finish_joining().await;
                self.delete_closed().await;
                for FollowedShard { subscribers, .. } in &self.shards {
                    // Repeated until `push` has closed the connection.
                    if subscribers.has_expired(self.clock.now()) {
                        lanes.check(subscribers.shard());
                    }
                }
            }
            let changed = async {
                time::sleep(AT_MOST_EVERY).await;
                tokio::select! {
                    () = time::sleep(EVERY) => {}
                    _ = writes.changed() => {}
                    () = leases.changed() => {}
                }
            };
            shutdown.run_until_cancelled(changed).await;
        }
    }

    /// Adds the shards in which functions with a newer setting open connections.
    async fn add_shards(&mut self, lanes: &Lanes) {
        let noted = match self.control.shards(self.clock.now()).await {
            Ok(noted) => noted.min(Shards::MAX),
            Err(error) => {
                warn!(error = %Chain(&error), "could not read the number of shards; retrying in a second");
                return;
            }
        };
        for shard in 0..noted {
            if self.shards.iter().any(|it| it.subscribers.shard() == shard) {
                continue;
            }
            info!(shard, "following a shard that only the functions are configured for");
            self.shards.push(FollowedShard::new(&self.connections, shard));
            lanes.add(shard);
        }
    }

    /// Reads what changed in each shard. A shard that cannot be read does not delay the others.
    async fn refresh(&mut self) {
        let clock = &self.clock;
        let reads = self.shards.iter_mut().map(|it| async {
            let FollowedShard { reader, subscribers, is_read, .. } = it;
            let now = clock.now();
            match reader.refresh(now).await {
                Ok(changed) => {
                    *is_read = true;
                    for connection in changed {
                        subscribers.apply(connection);
                    }
                }
                Err(error) => {
                    *is_read = false;
                    let shard = subscribers.shard();
                    warn!(shard, error = %Chain(&error), "could not read the connections; keeping the previous view");
                }
            }
            subscribers.expire(now);
        });
        future::join_all(reads).await;
    }

    /// Takes over the families that this poller has begun to lead, and drops those that it no longer
    /// leads.
    async fn follow_leases(&mut self, lanes: &Lanes) {
        let leases: BTreeMap<String, Lease> =
            self.leadership.all().into_iter().map(|it| (it.source.clone(), it)).collect();
        let before = std::mem::replace(&mut self.leases, leases);
        for (family, lease) in before {
            if self.leases.get(&family) == Some(&lease) {
                continue;
            }
            lanes.drop_family(&family);
            self.unread.remove(&family);
            for shard in &mut self.shards {
                shard.served.remove(&family);
            }
        }
        if self.leases.is_empty() {
            lanes.drop_family("system");
            for shard in &mut self.shards {
                shard.is_read = false;
            }
        }
        for family in self.leases.keys().cloned().collect::<Vec<_>>() {
            if let Err(error) = self.take_over(&family, lanes).await {
                warn!(family, error = %Chain(&error), "could not read what the previous leader sent; retrying");
            }
        }
    }

    /// Continues where the previous leader of a family stopped, in each shard whose connections are known. To
    /// connections that become known only later, everything would be sent again.
    async fn take_over(&mut self, family: &str, lanes: &Lanes) -> Result<(), StoreError> {
        let is_left = |it: &&mut FollowedShard| it.is_read && !it.served.contains(family);
        let mut left = self.shards.iter_mut().filter(is_left).peekable();
        if left.peek().is_none() {
            return Ok(());
        }
        let mut notes = self.control.lanes(family).await?;
        for FollowedShard { subscribers, served, .. } in left {
            // The topics without a leader come with the first family.
            let is_first = served.is_empty();
            let is_part =
                |topic: &Topic| topic.source() == family || (is_first && is_leaderless(topic));
            let note = notes.remove(&subscribers.shard()).unwrap_or_default();
            subscribers.join_again(is_part, &note);
            lanes.take_over(subscribers.shard(), family, note);
            served.insert(family.to_owned());
            let (topics, changes) = subscribers.take_changes(|topic| serves(served, topic));
            lanes.update(subscribers.shard(), &topics, changes);
        }
        self.unread.insert(family.to_owned());
        Ok(())
    }

    /// Lets the lanes send what the log has beyond what the previous leaders noted as sent.
    async fn read_unread(&mut self, lanes: &Lanes) {
        for family in self.unread.clone() {
            match self.read_ends(lanes, |topic| topic.source() == family).await {
                Ok(()) => {
                    self.unread.remove(&family);
                }
                Err(error) => {
                    warn!(family, error = %Chain(&error), "could not read what the previous leader has not sent; retrying");
                }
            }
        }
    }

    /// Passes on what changed in each shard that the lanes serve.
    fn update_lanes(&mut self, lanes: &Lanes) {
        for FollowedShard { subscribers, served, .. } in &mut self.shards {
            if subscribers.has_changed() && !served.is_empty() {
                let (topics, changes) = subscribers.take_changes(|topic| serves(served, topic));
                lanes.update(subscribers.shard(), &topics, changes);
            }
        }
    }

    /// Reads where some of the wanted topics end in the log.
    async fn read_ends(
        &self,
        lanes: &Lanes,
        is_part: impl Fn(&Topic) -> bool,
    ) -> Result<(), StoreError> {
        let topics = self.shards.iter().flat_map(|it| it.subscribers.topics());
        let topics: BTreeSet<Topic> = topics.filter(|topic| is_part(topic)).cloned().collect();
        let mut reads = Vec::with_capacity(topics.len());
        for topic in topics {
            reads.push(async move {
                let newest = self.log.newest(&topic).await;
                (topic, newest)
            });
        }
        let mut reads = stream::iter(reads).buffer_unordered(CONCURRENCY);
        while let Some((topic, newest)) = reads.next().await {
            if let Some(newest) = newest? {
                lanes.extend(&topic, newest.entry.last());
            }
        }
        Ok(())
    }

    /// Marks the topics as live whose `subscribe` was interrupted.
    async fn finish_joining(&mut self) {
        let now = self.clock.now();
        let connections = &self.connections;
        let mut finishing = Vec::new();
        for FollowedShard { subscribers, .. } in &mut self.shards {
            let shard = subscribers.shard();
            for it in subscribers.take_interrupted(now) {
                finishing.push(async move {
                    let Interrupted { id, since, topics } = &it;
                    let finished = connections.finish_joining(shard, id, topics, *since).await;
                    (shard, it, finished)
                });
            }
        }
        let mut finishing = stream::iter(finishing).buffer_unordered(CONCURRENCY);
        let mut failed = Vec::new();
        while let Some((shard, interrupted, finished)) = finishing.next().await {
            if let Err(error) = finished {
                warn!(shard, error = %Chain(&error), "could not complete a subscription that was interrupted; retrying");
                failed.push((shard, interrupted));
            }
        }
        for (shard, interrupted) in failed {
            for FollowedShard { subscribers, .. } in &mut self.shards {
                if subscribers.shard() == shard {
                    subscribers.put_back(interrupted);
                    break;
                }
            }
        }
    }

    /// Deletes the items of connections that closed some time ago. DynamoDB's own expiry can take days.
    async fn delete_closed(&mut self) {
        let before = self.clock.now() - GONE_FOR;
        let mut closed: Vec<(Shard, ConnectionId)> = Vec::new();
        for FollowedShard { subscribers, .. } in &mut self.shards {
            let shard = subscribers.shard();
            closed.extend(subscribers.take_closed(before).into_iter().map(|id| (shard, id)));
        }
        let mut deleting = Vec::with_capacity(closed.len());
        for (shard, id) in &closed {
            deleting.push(self.connections.delete_closed(*shard, id));
        }
        let mut deleting = stream::iter(deleting).buffer_unordered(CONCURRENCY);
        while let Some(deleted) = deleting.next().await {
            if let Err(error) = deleted {
                warn!(error = %Chain(&error), "could not delete a closed connection; it will expire");
            }
        }
    }

    /// Announces the wanted topics of each family, and stores them where they changed.
    async fn publish(&mut self) {
        let subscribed = self.shards.iter().flat_map(|it| it.subscribers.topics());
        self.topics.see(subscribed, Instant::now());
        let led: BTreeSet<String> =
            self.leadership.all().into_iter().map(|lease| lease.source).collect();
        for (family, sender) in &self.families {
            let wanted = self.topics.iter().chain(&self.recorded);
            let wanted: Wanted = wanted.filter(|it| it.source() == family).cloned().collect();
            let wanted = Arc::new(wanted);
            let changed = sender.send_if_modified(|before| {
                let changed = *before != wanted;
                *before = wanted.clone();
                changed
            });
            if changed
                && led.contains(family)
                && let Err(error) = self.control.put_wanted(family, &wanted).await
            {
                warn!(family, error = %Chain(&error), "could not store the wanted topics");
            }
        }
    }

    /// Passes a new version of the rules to the lanes. Returns the version in force.
    async fn follow_rules(&self, version: u64, lanes: &Lanes) -> u64 {
        match self.control.current_rules().await {
            Ok(Some(current)) if current.version != version => {
                lanes.set_rules(current.version);
                current.version
            }
            Ok(_) => version,
            Err(error) => {
                warn!(error = %Chain(&error), "could not read the version of the rules; keeping the previous one");
                version
            }
        }
    }
}

/// Returns whether a lane that serves some families serves a topic.
fn serves(served: &BTreeSet<String>, topic: &Topic) -> bool {
    !served.is_empty() && (is_leaderless(topic) || served.contains(topic.source()))
}

#[cfg(test)]
mod tests {
    use aws::{
        clients::{Clients, TableOptions},
        control::lanes::LaneNote,
    };
    use domain::{
        access::Principal,
        connection::{Connection, Recipient, Subscription},
        entry::Entry,
        frame::Frame,
        push::{Job, Push, PushError, Report},
    };
    use dynamo::{Engine, Fault, Faults, Storage};
    use futures_util::future::BoxFuture;
    use jiff::Timestamp;
    use tokio::sync::mpsc;

    use super::*;

    /// Does each job at once, and passes it on.
    struct Jobs(mpsc::UnboundedSender<Job>);

    impl Push for Jobs {
        fn push(&self, job: Job) -> BoxFuture<'_, Result<Report, PushError>> {
            let served = job.stretches.iter().map(|it| (it.topic.clone(), it.to)).collect();
            let _ = self.0.send(job);
            Box::pin(async { Ok(Report { served, ..Report::default() }) })
        }
    }

    fn clients(faults: &Faults) -> (Clients, TableOptions) {
        let engine = Engine::inline(Storage::open(None).expect("a database"));
        let config = engine.with_faults(faults.clone()).sdk_config();
        let options =
            TableOptions { table_prefix: "test-".to_owned(), retention: Duration::from_hours(1) };
        (Clients::from_config(config), options)
    }

    fn topic() -> Topic {
        Topic::parse("coinbase/matches/BTC-USD").expect("a topic")
    }

    fn lease(source: &str, epoch: u64) -> Lease {
        Lease { source: source.into(), owner: "a".into(), epoch }
    }

    /// Adds a connection that joined the topic some time ago, and an event that is in the log.
    async fn join(
        (clients, options): &(Clients, TableOptions),
        ago: Duration,
    ) -> (Connections, ConnectionId) {
        let now = Timestamp::now();
        let before = Clock::new(move || now - ago);
        let tables = clients.tables_with_clock(options, before);
        let id = ConnectionId::new("c");
        let recipient = Recipient { endpoint: "http://gateway".into(), id: id.clone() };
        let connection = Connection::open(recipient, 0, Principal::anonymous(), now);
        let connections = tables.connections;
        connections.open(&connection).await.expect("opened");
        connections.join(0, &id, &BTreeMap::from([(topic(), 0)]), 9).await.expect("joined");
        let entry = Entry::Frame(Frame::new(topic(), 1, now, &["1"]));
        tables.log.append(&entry, None, now).await.expect("appended");
        (connections, id)
    }

    /// Follows the connections and does the jobs. Returns the jobs.
    fn follow(tables: Tables, leadership: Leadership) -> mpsc::UnboundedReceiver<Job> {
        let clock = Clock::new(Timestamp::now);
        let lanes = Lanes::new([0], leadership.clone(), 1, clock.clone());
        let interest = Interest::new(&tables, [0], Wanted::new(), leadership, clock);
        let (sender, jobs) = mpsc::unbounded_channel();
        let shutdown = CancellationToken::new();
        tokio::spawn(interest.run(lanes.clone(), shutdown.clone()));
        let push = Arc::new(Jobs(sender));
        tokio::spawn(async move { lanes.run(push, tables.control, shutdown).await });
        jobs
    }

    fn lose(faults: &Faults, operation: &'static str, table: &'static str) {
        faults.set(move |it, request| {
            let is_lost = it == operation && String::from_utf8_lossy(request).contains(table);
            is_lost.then_some(Fault::LoseRequest)
        });
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_leader_goes_on_where_the_previous_one_stopped_when_it_can_read_that() {
        // What cannot be read at first, and whether the poller has led another family before.
        for (table, has_led) in [
            ("test-events", false),
            ("test-connections", false),
            ("test-connections", true),
            ("test-control", false),
        ] {
            let faults = Faults::default();
            let clients = clients(&faults);
            let tables = clients.0.tables(&clients.1);
            tables.create_missing().await.expect("tables");
            let leadership = Leadership::default();
            if has_led {
                leadership.add(lease("mastodon", 1), Instant::now());
            }
            let mut jobs = follow(tables.clone(), leadership.clone());
            time::sleep(Duration::from_secs(1)).await;
            let (connections, id) = join(&clients, Duration::ZERO).await;
            connections.go_live(0, &id, &BTreeMap::from([(topic(), 0)])).await.expect("live");
            let sent = BTreeMap::from([(topic(), 0)]);
            // The previous leader has known the connection for long.
            let at = Timestamp::now() + Duration::from_mins(1);
            let note = LaneNote { at, sent, behind: vec![] };
            let before = lease("coinbase", 1);
            assert!(tables.control.put_lane(&before, 0, &note).await.expect("noted"));

            lose(&faults, "Query", table);
            time::sleep(Duration::from_secs(1)).await;
            leadership.add(lease("coinbase", 2), Instant::now());
            time::sleep(Duration::from_secs(4)).await;
            faults.clear();
            let stretch = async {
                loop {
                    let job = jobs.recv().await.expect("a job");
                    assert_eq!(job.behind, [], "the note says that nobody is behind: {table}");
                    if let Some(stretch) = job.stretches.into_iter().next() {
                        return stretch;
                    }
                }
            };
            let stretch = time::timeout(Duration::from_secs(5), stretch).await;
            let stretch = stretch.unwrap_or_else(|_| panic!("no job: {table}, has led {has_led}"));
            assert_eq!((stretch.topic, stretch.prev, stretch.to), (topic(), 0, 1), "{table}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_interrupted_subscription_is_completed_when_that_can_be_written() {
        let faults = Faults::default();
        let clients = clients(&faults);
        let tables = clients.0.tables(&clients.1);
        tables.create_missing().await.expect("tables");
        let (connections, id) = join(&clients, Duration::from_mins(1)).await;
        lose(&faults, "UpdateItem", "test-connections");
        let leadership = Leadership::default();
        leadership.add(lease("coinbase", 1), Instant::now());
        let mut jobs = follow(tables, leadership);
        time::sleep(Duration::from_secs(4)).await;
        faults.clear();
        let behind = async {
            loop {
                let job = jobs.recv().await.expect("a job");
                if let Some(behind) = job.behind.into_iter().next() {
                    return behind;
                }
            }
        };
        let behind = time::timeout(Duration::from_secs(5), behind).await.expect("in time");
        assert_eq!((behind.connection, behind.next), (id.clone(), [(topic(), 1)].into()));
        let item = connections.get(0, &id).await.expect("a response").expect("open");
        assert!(matches!(item.topics[&topic()], Subscription::Live { .. }), "{item:?}");
    }
}
