//! The trades of one product in the order of their ids, and the holes between them.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::RangeInclusive,
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use crate::outgoing::Outgoing;

/// How long a trade may be late before it counts as missed.
const GRACE: Duration = Duration::from_millis(250);

/// How long a heartbeat may be ahead of the trades.
const HEARTBEAT_GRACE: Duration = Duration::from_secs(2);

/// How long heartbeats must name older trades, while no trades arrive, before the ids count as
/// restarted.
const RESTARTED: Duration = Duration::from_secs(30);

/// Most trades that are held until a hole is filled.
const MAX_HELD: usize = 10_000;

/// Most bytes of trades that are held. A trade has about 250.
const MAX_HELD_BYTES: usize = 4 * 1024 * 1024;

/// The trades of one product.
///
/// Ids are consecutive. A trade beyond the next id is held until the trades before it arrive, are
/// fetched, or count as lost.
#[derive(Debug, Default)]
pub(super) struct Trades {
    /// Whether the newest trade in the log is known. Until then all trades are held.
    is_known: bool,
    /// The newest trade that was published.
    last: Option<u64>,
    /// Missing trades up to this one were reported as lost by an earlier leader.
    reported: u64,
    /// The first trade that was published before the newest trade in the log was known.
    first_unplaced: Option<u64>,
    held: BTreeMap<u64, Bytes>,
    held_bytes: usize,
    /// Since when there is a hole below the held trades.
    hole_since: Option<Instant>,
    /// The newest trade that a heartbeat named before it arrived, and since when.
    ahead: Option<(u64, Instant)>,
    /// Since when heartbeats name older trades than those published.
    behind_since: Option<Instant>,
    is_filling: bool,
    /// The first trade of this connection.
    first_here: Option<u64>,
}

/// The end of the trades in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Logged {
    /// The newest trade.
    pub(super) trade: u64,
    /// How many trades after it were reported as lost.
    pub(super) lost: u64,
}

/// The result of a trade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It was published, together with the held trades that follow it.
    Published,
    /// It arrived before.
    Duplicate,
    /// It is held.
    Held,
    /// Too many were held: they were published, and the missing trades count as lost.
    Overflowed { lost: u64 },
}

/// Trades that are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hole {
    /// From the first to the last missing trade. Some between them may be held.
    pub(super) ids: RangeInclusive<u64>,
    /// Whether some of them were missed on this connection.
    pub(super) is_own_fault: bool,
}

impl Trades {
    /// Sets the end of the log, if it has trades. Those that follow it are fetched even if they were reported as
    /// lost, but are not reported again.
    pub(super) fn know(
        &mut self,
        logged: Option<Logged>,
        now: Instant,
        publish: &mut impl FnMut(Outgoing),
    ) {
        self.reported = logged.map_or(0, |logged| logged.trade.saturating_add(logged.lost));
        if let Some(first) = self.first_unplaced.take() {
            // More were held than fit, so the trades before them are lost.
            let lost = logged.map_or(0, |_| first.saturating_sub(self.reported + 1));
            if lost > 0 {
                publish(Outgoing::lost(lost));
            }
            return;
        }
        self.is_known = true;
        let last = logged.map(|logged| logged.trade);
        self.last = last.or_else(|| Some(self.held.first_key_value()?.0.saturating_sub(1)));
        self.drain(now, publish);
    }

    /// Handles a trade from upstream.
    pub(super) fn take(
        &mut self,
        id: u64,
        text: Bytes,
        now: Instant,
        publish: &mut impl FnMut(Outgoing),
    ) -> Taken {
        self.first_here.get_or_insert(id);
        let is_next = match self.last {
            _ if !self.is_known => false,
            None => true,
            Some(last) if id <= last => return Taken::Duplicate,
            Some(last) => id - 1 == last,
        };
        if is_next {
            publish(Outgoing::plain(text));
            self.last = Some(id);
            self.behind_since = None;
            if !self.held.is_empty() || self.ahead.is_some() {
                self.drain(now, publish);
            }
            return Taken::Published;
        }
        if self.held.contains_key(&id) {
            return Taken::Duplicate;
        }
        // A copy, because the text is part of a larger buffer that would be retained with it.
        self.held.insert(id, Bytes::copy_from_slice(&text));
        self.held_bytes += text.len();
        self.hole_since.get_or_insert(now);
        if self.held.len() <= MAX_HELD && self.held_bytes <= MAX_HELD_BYTES {
            return Taken::Held;
        }
        if !self.is_known {
            self.first_unplaced = self.held.first_key_value().map(|(first, _)| *first);
        }
        self.is_known = true;
        let newest = self.held.last_key_value().map_or(id, |(newest, _)| *newest);
        Taken::Overflowed { lost: self.skip_to(newest, now, publish) }
    }

    /// Handles the id of the newest trade in a heartbeat. Returns whether the exchange restarted its
    /// ids.
    pub(super) fn hear(&mut self, id: u64, now: Instant) -> bool {
        let Some(last) = self.last else { return false };
        let newest = self.held.last_key_value().map_or(last, |(id, _)| *id);
        if id > newest {
            let since = self.ahead.map_or(now, |(_, since)| since);
            self.ahead = Some((id, since));
        }
        if id == 0 || id >= last {
            self.behind_since = None;
            return false;
        }
        let since = *self.behind_since.get_or_insert(now);
        let restarted = now - since >= RESTARTED && self.held.is_empty();
        if restarted {
            self.last = Some(id);
            self.reported = 0;
            self.behind_since = None;
            self.ahead = None;
        }
        restarted
    }

    /// Returns a hole that has existed for too long. The caller must fill it.
    pub(super) fn missing(&mut self, now: Instant) -> Option<Hole> {
        let last = self.last.filter(|_| self.is_known && !self.is_filling)?;
        let is_due = |since: Instant, grace| now.saturating_duration_since(since) >= grace;
        let end = match (self.ahead, self.hole_since) {
            (Some((id, since)), _) if is_due(since, HEARTBEAT_GRACE) => id,
            (_, Some(since)) if is_due(since, GRACE) => self.last_missing()?,
            _ => return None,
        };
        self.is_filling = true;
        let is_own_fault = self.first_here.is_some_and(|first| end > first);
        Some(Hole { ids: last.saturating_add(1)..=end, is_own_fault })
    }

    /// Adds the trades of a hole that were found, and publishes in order. Those that were not found are lost.
    /// Returns how many those are.
    pub(super) fn fill(
        &mut self,
        ids: &RangeInclusive<u64>,
        found: Vec<(u64, Bytes)>,
        now: Instant,
        publish: &mut impl FnMut(Outgoing),
    ) -> u64 {
        self.is_filling = false;
        let last = self.last.unwrap_or_default();
        for (id, text) in found {
            if id > last && ids.contains(&id) {
                let bytes = text.len();
                if let Entry::Vacant(vacant) = self.held.entry(id) {
                    vacant.insert(text);
                    self.held_bytes += bytes;
                }
            }
        }
        self.skip_to(*ids.end(), now, publish)
    }

    /// Notes that the hole will not be filled.
    pub(super) fn cancel(&mut self) {
        self.is_filling = false;
    }

    /// Drops the state that belongs to the connection.
    pub(super) fn disconnect(&mut self) {
        self.first_here = None;
        self.ahead = None;
    }

    /// Drops everything except the newest trade, because the topic is not wanted.
    pub(super) fn rest(&mut self) {
        *self = Self {
            is_known: self.is_known,
            last: self.last,
            reported: self.reported,
            first_unplaced: self.first_unplaced,
            is_filling: self.is_filling,
            ..Self::default()
        };
    }

    /// Publishes the held trades that follow the last published one without a hole.
    fn drain(&mut self, now: Instant, publish: &mut impl FnMut(Outgoing)) {
        let Some(mut last) = self.last else { return };
        while let Some(entry) = self.held.first_entry() {
            if *entry.key() > last.saturating_add(1) {
                break;
            }
            let (id, text) = entry.remove_entry();
            self.held_bytes -= text.len();
            if id > last {
                publish(Outgoing::plain(text));
                last = id;
            }
        }
        self.last = Some(last);
        // The trades that are still held have another hole below them.
        self.hole_since = (!self.held.is_empty()).then_some(now);
        self.ahead = self.ahead.filter(|(id, _)| *id > last);
    }

    /// Publishes the held trades up to `end`, and a loss for those that are missing. Returns how many those are.
    fn skip_to(&mut self, end: u64, now: Instant, publish: &mut impl FnMut(Outgoing)) -> u64 {
        let mut lost = 0;
        while self.last.is_none_or(|last| last < end) {
            let next =
                self.held.first_key_value().map_or(end, |(id, _)| id.saturating_sub(1).min(end));
            let missing = self.last.map_or(0, |last| next.saturating_sub(last.max(self.reported)));
            if missing > 0 {
                publish(Outgoing::lost(missing));
                lost += missing;
            }
            self.last = self.last.max(Some(next));
            self.drain(now, publish);
        }
        self.drain(now, publish);
        lost
    }

    /// Returns the newest missing trade below the held ones.
    fn last_missing(&self) -> Option<u64> {
        let mut ids = self.held.keys().rev().copied();
        let mut lowest = ids.next()?;
        for id in ids {
            if id + 1 != lowest {
                break;
            }
            lowest = id;
        }
        lowest.checked_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::{
        Taken::{Duplicate, Published},
        *,
    };
    use crate::outgoing::Role;

    const MS: Duration = Duration::from_millis(1);

    /// Trades, and what was published. A fetched trade has a negative id.
    struct Bench {
        trades: Trades,
        now: Instant,
        out: Vec<Outgoing>,
    }

    impl Bench {
        fn new(logged: Option<u64>) -> Self {
            let mut bench = Self { trades: Trades::default(), now: Instant::now(), out: vec![] };
            let logged = logged.map(|trade| Logged { trade, lost: 0 });
            bench.trades.know(logged, bench.now, &mut |_| ());
            bench
        }

        fn take(&mut self, id: u64) -> Taken {
            let text = Bytes::from(id.to_string());
            let out = &mut self.out;
            self.trades.take(id, text, self.now, &mut |event| out.push(event))
        }

        fn fill(&mut self, ids: RangeInclusive<u64>, found: &[u64]) -> u64 {
            let out = &mut self.out;
            let found = found.iter().map(|id| (*id, Bytes::from(format!("-{id}")))).collect();
            self.trades.fill(&ids, found, self.now, &mut |event| out.push(event))
        }

        fn missing(&mut self, after: Duration) -> Option<RangeInclusive<u64>> {
            self.now += after;
            self.trades.missing(self.now).map(|hole| hole.ids)
        }

        /// Returns the ids of the trades that were published.
        fn ids(&self) -> Vec<i64> {
            let trades = self.out.iter().filter(|event| event.role == Role::Plain);
            trades.map(|event| read(&event.json)).collect()
        }
    }

    fn read(text: &[u8]) -> i64 {
        std::str::from_utf8(text).expect("UTF-8").parse().expect("a number")
    }

    #[test]
    fn trades_follow_each_other_and_repeats_are_dropped() {
        let mut bench = Bench::new(None);
        let taken = [7, 8, 8, 7, 9].map(|id| bench.take(id));
        assert_eq!(taken, [Published, Published, Duplicate, Duplicate, Published]);
        assert_eq!(bench.ids(), [7, 8, 9]);
        assert_eq!(bench.missing(Duration::from_secs(9)), None);
    }

    #[test]
    fn trades_in_the_wrong_order_are_reordered() {
        let mut bench = Bench::new(Some(6));
        for id in [8, 7, 11, 10, 9] {
            bench.take(id);
        }
        assert_eq!(bench.ids(), [7, 8, 9, 10, 11]);
        assert_eq!(bench.missing(GRACE * 2), None);
    }

    #[test]
    fn a_hole_is_filled_after_a_grace_and_live_texts_are_preferred() {
        let mut bench = Bench::new(Some(6));
        assert_eq!([9, 12].map(|id| bench.take(id)), [Taken::Held; 2]);
        assert_eq!(bench.missing(GRACE.saturating_sub(MS)), None);
        assert_eq!(bench.missing(MS), Some(7..=11));
        assert_eq!(bench.missing(GRACE), None, "one at a time");
        bench.take(7);
        bench.take(13);
        let lost = bench.fill(7..=11, &[11, 10, 9, 8, 7, 6, 14]);
        assert_eq!((lost, bench.ids().as_slice()), (0, [7, -8, 9, -10, -11, 12, 13].as_slice()));
    }

    #[test]
    fn trades_that_cannot_be_found_are_counted_as_lost() {
        let cases = [
            (vec![], 5, vec![10, 12]),
            (vec![8], 4, vec![-8, 10, 12]),
            (vec![6, 7, 8, 9], 1, vec![-6, -7, -8, -9, 10, 12]),
            (vec![6, 7, 8, 9, 11], 0, vec![-6, -7, -8, -9, 10, -11, 12]),
        ];
        for (found, lost, out) in cases {
            let mut bench = Bench::new(Some(5));
            bench.take(10);
            bench.take(12);
            assert_eq!(bench.missing(GRACE), Some(6..=11));
            assert_eq!(bench.fill(6..=11, &found), lost, "case: {found:?}");
            assert_eq!(bench.ids(), out, "case: {found:?}");
        }
    }

    #[test]
    fn a_loss_is_published_in_its_place() {
        let mut bench = Bench::new(Some(5));
        for id in [8, 10, 11] {
            bench.take(id);
        }
        assert_eq!(bench.missing(GRACE), Some(6..=9));
        assert_eq!(bench.fill(6..=9, &[7]), 2);
        let trade = |text: &'static str| Outgoing::plain(text);
        let lost = Outgoing::lost;
        let expected = [lost(1), trade("-7"), trade("8"), lost(1), trade("10"), trade("11")];
        assert_eq!(bench.out, expected);
    }

    #[test]
    fn heartbeats_reveal_a_hole_at_the_head() {
        let mut bench = Bench::new(Some(5));
        assert!(!bench.trades.hear(5, bench.now));
        assert_eq!(bench.missing(HEARTBEAT_GRACE), None);
        bench.trades.hear(7, bench.now);
        assert_eq!(bench.missing(HEARTBEAT_GRACE.saturating_sub(MS)), None);
        bench.take(6);
        bench.trades.hear(8, bench.now);
        assert_eq!(bench.missing(MS), Some(7..=8));
        assert_eq!(bench.fill(7..=8, &[7]), 1);
        assert_eq!(bench.ids(), [6, -7]);
        assert_eq!(bench.take(9), Taken::Published);
        bench.trades.hear(10, bench.now);
        bench.take(10);
        assert_eq!(bench.missing(HEARTBEAT_GRACE), None, "it was only late");
    }

    #[test]
    fn only_a_hole_within_this_connection_is_its_fault() {
        for (ids, is_own_fault) in [(vec![9], false), (vec![9, 11], true)] {
            let mut bench = Bench::new(Some(6));
            for id in ids {
                bench.take(id);
            }
            let hole = bench.trades.missing(bench.now + GRACE).expect("a hole");
            assert_eq!(hole.is_own_fault, is_own_fault, "{hole:?}");
        }
    }

    #[test]
    fn trades_are_held_until_the_newest_in_the_log_is_known() {
        for (logged, expected) in [(None, vec![8, 9]), (Some(8), vec![9]), (Some(5), vec![])] {
            let mut bench = Bench::new(None);
            bench.trades = Trades::default();
            assert_eq!([8, 9].map(|id| bench.take(id)), [Taken::Held; 2]);
            assert_eq!(bench.missing(GRACE), None);
            let out = &mut bench.out;
            let known = logged.map(|trade| Logged { trade, lost: 0 });
            bench.trades.know(known, bench.now, &mut |event| out.push(event));
            assert_eq!(bench.ids(), expected, "case: {logged:?}");
        }
    }

    #[test]
    fn what_an_earlier_leader_reported_as_lost_is_not_reported_again() {
        let mut bench = Bench::new(None);
        let logged = Logged { trade: 5, lost: 3 };
        bench.trades.know(Some(logged), bench.now, &mut |_| ());
        bench.take(11);
        assert_eq!(bench.missing(GRACE), Some(6..=10), "the exchange is asked for them again");
        assert_eq!(bench.fill(6..=10, &[7]), 2);
        assert_eq!(bench.ids(), [-7, 11]);
        let lost: Vec<&Role> = bench.out.iter().map(|event| &event.role).collect();
        assert_eq!(lost, [&Role::Plain, &Outgoing::lost(2).role, &Role::Plain], "9 and 10");
    }

    #[test]
    fn trades_that_were_published_before_the_log_was_known_stay_published() {
        let mut bench = Bench::new(None);
        bench.trades = Trades::default();
        let last = 8 + MAX_HELD as u64;
        for id in 8..=last {
            bench.take(id);
        }
        assert_eq!(bench.out.len(), MAX_HELD + 1);
        let logged = Logged { trade: 3, lost: 2 };
        bench.trades.know(Some(logged), bench.now, &mut |event| bench.out.push(event));
        assert_eq!(bench.out.last().map(|event| &event.role), Some(&Outgoing::lost(2).role));
        assert_eq!(bench.take(last + 1), Published);
        assert_eq!(bench.missing(GRACE), None);
    }

    #[test]
    fn an_exchange_that_restarts_its_ids_is_followed_in_the_end() {
        let mut bench = Bench::new(Some(1_000));
        assert!(!bench.trades.hear(3, bench.now));
        bench.now += RESTARTED;
        assert_eq!(bench.take(4), Taken::Duplicate);
        assert!(bench.trades.hear(4, bench.now));
        assert_eq!(bench.take(5), Taken::Published);
    }

    #[test]
    fn the_number_of_held_trades_is_bounded() {
        let mut bench = Bench::new(Some(1));
        let bound = u64::try_from(MAX_HELD).expect("a number");
        for id in 3..bound + 3 {
            assert_eq!(bench.take(id), Taken::Held);
        }
        assert_eq!(bench.take(bound + 4), Taken::Overflowed { lost: 2 });
        assert_eq!(bench.ids().len(), MAX_HELD + 1);
        assert_eq!(bench.take(bound + 5), Taken::Published);
    }

    #[test]
    fn the_size_of_held_trades_is_bounded() {
        let now = Instant::now();
        let mut trades = Trades::default();
        trades.know(Some(Logged { trade: 1, lost: 0 }), now, &mut |_| ());
        let large = Bytes::from(vec![b' '; 100_000]);
        let mut published = 0;
        for id in 3..1_000 {
            trades.take(id, large.clone(), now, &mut |_| published += 1);
            let held: usize = trades.held.values().map(Bytes::len).sum();
            assert_eq!(trades.held_bytes, held);
            assert!(held <= MAX_HELD_BYTES, "{held} bytes");
        }
        assert!(published > 0);
    }

    proptest! {
        #[test]
        fn trades_are_published_once_and_in_order(
            steps in vec((0_u8..4, 0_u64..40, vec(0_u64..40, 0..8)), 0..80),
            logged in proptest::option::of(0_u64..10),
        ) {
            let mut bench = Bench::new(logged);
            let mut hole = None;
            for (step, id, found) in steps {
                match step {
                    0 | 1 => { bench.take(id); }
                    // A lower id than the published ones may mean that the exchange restarted its ids.
                    2 if bench.trades.last.is_none_or(|last| id >= last) => {
                        bench.trades.hear(id, bench.now);
                    }
                    _ => hole = hole.or_else(|| bench.missing(HEARTBEAT_GRACE)),
                }
                if step == 3 && let Some(ids) = hole.take() {
                    bench.fill(ids, &found);
                }
            }
            let ids: Vec<_> = bench.ids().iter().map(|id| id.unsigned_abs()).collect();
            prop_assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
            prop_assert!(ids.iter().all(|id| logged.is_none_or(|logged| *id > logged)));
            // With the losses, no id is missing.
            let mut last = logged;
            for event in &bench.out {
                last = match event.role {
                    Role::Lost(count) => last.map(|last| last + count),
                    _ => {
                        let id = read(&event.json).unsigned_abs();
                        prop_assert!(last.is_none_or(|last| id == last + 1), "{id} after {last:?}");
                        Some(id)
                    }
                };
            }
        }
    }
}
