//! The channels of the feed.

const NEEDS_KEY: &str = "level2, level3, and full channels now require authentication. https://docs.cloud.coinbase.com/exchange/docs/websocket-auth";

/// A channel that needs no key.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Channel {
    Level2,
    Matches,
    Ticker,
    Heartbeat,
}

impl Channel {
    pub(super) fn parse(name: &str) -> Result<Self, String> {
        match name {
            "level2_batch" | "level2_50" => Ok(Self::Level2),
            "matches" => Ok(Self::Matches),
            "ticker" => Ok(Self::Ticker),
            "heartbeat" => Ok(Self::Heartbeat),
            "level2" | "level3" | "full" | "user" | "balance" => Err(NEEDS_KEY.to_owned()),
            _ => Err(format!("{name} is not a valid channel")),
        }
    }

    /// Returns the name that the exchange uses in acknowledgments.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Level2 => "level2_50",
            Self::Matches => "matches",
            Self::Ticker => "ticker",
            Self::Heartbeat => "heartbeat",
        }
    }
}
