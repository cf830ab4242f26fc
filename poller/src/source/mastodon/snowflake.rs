//! Mastodon's status ids, which hold a time: milliseconds since 1970, then 16 bits to tell apart.
//!
//! Other software has other ids, also numeric ones, so a time is believed only where it can be one.

use std::time::Duration;

use jiff::Timestamp;

/// Mastodon's first public year, in milliseconds since 1970: ids before that are mere counters.
const FIRST_MS: i64 = 1_451_606_400_000;

/// When a status was written by its id; `None` where the id does not tell.
pub(super) fn time(id: &str, now: Timestamp) -> Option<Timestamp> {
    let ms = i64::try_from(id.parse::<u64>().ok()? >> 16).ok()?;
    let last = now + Duration::from_hours(24);
    (FIRST_MS..=last.as_millisecond())
        .contains(&ms)
        .then(|| Timestamp::from_millisecond(ms).ok())
        .flatten()
}

/// The least id of a status written at `at`.
pub(super) fn id(at: Timestamp) -> String {
    (u64::try_from(at.as_millisecond()).unwrap_or(0) << 16).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_that_hold_a_time_tell_one() {
        let now = "2026-11-22T12:00:00Z".parse().expect("a time");
        let cases = [
            ("mastodon", "117659978849024469", Some("2026-11-22T11:59:58.355Z")),
            ("a counter", "123456", None),
            ("another's numbers", "893761058352889856", None),
            ("flake", "AzK3q9TmR0cV1xYw2E", None),
            ("ulid", "01KDZQ9X4T7M2B8N5C6V1R3W0Y", None),
            ("too large", "99999999999999999999", None),
        ];
        for (name, id, expected) in cases {
            let time = time(id, now).map(|at| at.to_string());
            assert_eq!(time.as_deref(), expected, "case: {name}");
        }
        assert_eq!(time(&id(now), now), Some(now));
    }
}
