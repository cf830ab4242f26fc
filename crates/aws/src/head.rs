//! The end of a topic, which is known even after all its events have expired.

use domain::topic::Topic;
use jiff::Timestamp;

use crate::{control::Control, error::StoreError, log::Log};

/// The end of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The number of the newest event, or 0 before the first. While a poller appends to a topic whose
    /// events have all expired, it may be up to a thousand too high.
    pub last: u64,
    /// The number of the newest snapshot that the log has.
    pub snapshot: Option<u64>,
}

/// Finds the end of a topic.
///
/// # Errors
///
/// [`StoreError`] when the database fails.
pub async fn head(
    log: &Log,
    control: &Control,
    topic: &Topic,
    now: Timestamp,
) -> Result<Head, StoreError> {
    let in_log = async || -> Result<Option<Head>, StoreError> {
        let newest = log.newest_retained(topic, now).await?;
        Ok(newest.map(|it| Head { last: it.entry.last(), snapshot: it.snapshot }))
    };
    if let Some(head) = in_log().await? {
        return Ok(head);
    }
    // Everything has expired, or nothing was ever appended. Expired entries are deleted in any order.
    let newest = log.newest(topic).await?.map_or(0, |newest| newest.entry.last());
    let Some(reservation) = control.reservation(topic).await? else {
        return Ok(Head { last: newest, snapshot: None });
    };
    // Another poller can have appended the first entry in the meantime.
    if let Some(head) = in_log().await? {
        return Ok(head);
    }
    // An append replaces the fence of its leader. So where the fence of the leader that reserved the
    // numbers stands, that leader has used none of them. A fence of an earlier leader says nothing: a
    // poller that was frozen may have put it far behind the end.
    let unused_from = match log.fence_at(topic).await? {
        Some((seq, epoch)) if reservation.epoch.is_some_and(|it| it <= epoch) => Some(seq),
        _ => None,
    };
    let used = unused_from.map_or(reservation.last, |seq| seq.saturating_sub(1));
    Ok(Head { last: newest.max(used), snapshot: None })
}
