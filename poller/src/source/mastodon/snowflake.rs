//! Mastodon's status ids, which contain a time: milliseconds since 1970, then 16 bits to make them
//! unique.
//!
//! Other software has other ids, and some of those are numeric. So a time is used only if it is
//! plausible.

use std::time::Duration;

use jiff::Timestamp;

/// The start of Mastodon's first public year, in milliseconds since 1970. Ids before it are counters.
const FIRST_MS: i64 = 1_451_606_400_000;

/// Returns when a status was written, if its id contains a time.
pub(super) fn time(id: &str, now: Timestamp) -> Option<Timestamp> {
    let ms = i64::try_from(id.parse::<u64>().ok()? >> 16).ok()?;
    let last = now + Duration::from_hours(24);
    (FIRST_MS..=last.as_millisecond())
        .contains(&ms)
        .then(|| Timestamp::from_millisecond(ms).ok())
        .flatten()
}

/// Returns the lowest id of a status that was written at `at`.
pub(super) fn id(at: Timestamp) -> String {
    (u64::try_from(at.as_millisecond()).unwrap_or(0) << 16).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_id_that_contains_a_time_has_one() {
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
