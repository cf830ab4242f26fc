//! The HTTP header `Retry-After`.

use std::time::Duration;

use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};

/// Longest wait that a server can ask for. A longer one is shortened to this, because a server can send any
/// value.
pub const LONGEST: Duration = Duration::from_mins(10);

/// Returns how long the header asks the client to wait, given its value and the current time, at most [`LONGEST`].
///
/// The value is a number of seconds or an HTTP date. A date in the past means zero. Returns `None`
/// for any other value.
pub fn parse(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    let asked = if let Ok(seconds) = value.parse() {
        Duration::from_secs(seconds)
    } else {
        let date = DateTimeParser::new().parse_timestamp(value).ok()?;
        Duration::try_from(date.duration_since(now)).unwrap_or_default()
    };
    Some(asked.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_value_is_seconds_or_a_date() {
        let now = "2015-10-21T07:27:00Z".parse().expect("a time");
        let cases = [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("Wed, 21 Oct 2015 07:28:00 GMT", Some(60)),
            ("Wed, 21 Oct 2015 07:00:00 GMT", Some(0)),
            ("86400", Some(600)),
            ("18446744073709551615", Some(600)),
            ("18446744073709551616", None),
            ("Thu, 22 Oct 2015 07:27:00 GMT", Some(600)),
            ("soon", None),
            ("-1", None),
            ("1.5", None),
            ("", None),
        ];
        for (value, seconds) in cases {
            assert_eq!(parse(value, now), seconds.map(Duration::from_secs), "case: {value:?}");
        }
    }

    proptest! {
        #[test]
        fn no_value_panics_or_asks_for_more(value in "\\PC{0,40}|[0-9]{0,30}|[A-Z][a-z]{2}, [0-9]{1,2} [A-Z][a-z]{2} [0-9]{1,5} [0-9:]{0,9} GMT") {
            let asked = parse(&value, Timestamp::UNIX_EPOCH);
            prop_assert!(asked.is_none_or(|asked| asked <= LONGEST));
        }
    }
}
