//! The wall clock, and the formats of times in events.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// Returns the current time in milliseconds since 1970.
pub(crate) fn now() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

/// Returns a time in the Common Log Format, as in `requestTime`.
pub(crate) fn common_log(at: u64) -> String {
    timestamp(at).strftime("%d/%b/%Y:%H:%M:%S +0000").to_string()
}

/// Returns a time in ISO 8601 with milliseconds.
pub(crate) fn iso_8601(at: u64) -> String {
    format!("{:.3}", timestamp(at))
}

fn timestamp(at: u64) -> Timestamp {
    let at = i64::try_from(at).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(at).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_times_as_api_gateway_does() {
        assert_eq!(common_log(1_708_326_702_790), "19/Feb/2024:07:11:42 +0000");
        assert_eq!(iso_8601(1_708_326_702_790), "2024-02-19T07:11:42.790Z");
        assert_eq!(iso_8601(1_708_326_702_000), "2024-02-19T07:11:42.000Z");
    }
}
