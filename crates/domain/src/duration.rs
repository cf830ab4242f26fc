//! Durations as operators write them in options, such as `24h`.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo};

/// Parses a duration, such as `500ms`, `30s`, `1min`, `24h` or `1h 30m`. A day is 24 hours.
///
/// # Errors
///
/// A sentence for the operator.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let parse = || text.parse::<Span>()?.to_duration(SpanRelativeTo::days_are_24_hours());
    let duration = parse().map_err(|error| error.to_string())?;
    Duration::try_from(duration).map_err(|_| "a duration cannot be negative".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_duration_has_a_unit() {
        let hours = |hours: u64| Some(Duration::from_hours(hours));
        let cases = [
            ("500ms", Some(Duration::from_millis(500))),
            ("30s", Some(Duration::from_secs(30))),
            ("1min", Some(Duration::from_mins(1))),
            ("5m", Some(Duration::from_mins(5))),
            ("1h 30m", Some(Duration::from_mins(90))),
            ("1h30min", Some(Duration::from_mins(90))),
            ("1hour", hours(1)),
            ("24h", hours(24)),
            ("7d", hours(7 * 24)),
            ("365days", hours(365 * 24)),
            ("1day", hours(24)),
            ("1d 12h", hours(36)),
            ("10", None),
            ("", None),
            ("h", None),
            ("-1s", None),
            ("1 fortnight", None),
            ("9999999999999999d", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_duration(text).ok(), expected, "case: {text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[-0-9dhms ]{0,30}|\\PC{0,30}") {
            let _ = parse_duration(&text);
        }
    }
}
