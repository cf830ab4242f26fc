//! Decimal text of integers, so that prices and sizes need no floating-point numbers.

/// Returns `units` × 10^-`scale` with every digit of the scale: `63514.60`.
pub(super) fn padded(units: u64, scale: u32) -> String {
    wide(u128::from(units), scale)
}

/// Returns `units` × 10^-`scale` without trailing zeros: `63514.6`.
pub(super) fn trimmed(units: u64, scale: u32) -> String {
    trim(padded(units, scale))
}

/// Returns a sum that may exceed 64 bits, without trailing zeros.
pub(super) fn trimmed_wide(units: u128, scale: u32) -> String {
    trim(wide(units, scale))
}

fn wide(units: u128, scale: u32) -> String {
    if scale == 0 {
        return units.to_string();
    }
    let one = 10_u128.pow(scale);
    format!("{}.{:0width$}", units / one, units % one, width = scale as usize)
}

fn trim(mut text: String) -> String {
    if text.contains('.') {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_decimals_as_the_exchange_does() {
        let cases = [
            (6_351_460, 2, "63514.60", "63514.6"),
            (20_000_000, 8, "0.20000000", "0.2"),
            (0, 8, "0.00000000", "0"),
            (700, 0, "700", "700"),
            (100, 2, "1.00", "1"),
            (17, 1, "1.7", "1.7"),
            (1_234, 8, "0.00001234", "0.00001234"),
        ];
        for (units, scale, with_zeros, without) in cases {
            assert_eq!(padded(units, scale), with_zeros, "case: {units} e-{scale}");
            assert_eq!(trimmed(units, scale), without, "case: {units} e-{scale}");
        }
        assert_eq!(trimmed_wide(u128::from(u64::MAX) * 10, 1), "18446744073709551615");
    }
}
