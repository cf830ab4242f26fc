//! Shards: the parts that all connections are divided into.

use crate::connection::ConnectionId;

/// A part of all connections: they are spread over the shards by a hash of their id.
pub type Shard = u16;

/// Returns the shard of a connection that opens while there are `shards` of them.
///
/// FNV-1a, 64 bits, so that every build agrees.
pub fn shard_of(id: &ConnectionId, shards: Shard) -> Shard {
    let hash = id.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Shard::try_from(hash % u64::from(shards.max(1))).unwrap_or_default()
}

/// How many shards there are: the number for new connections, then those that older ones may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shards(Vec<Shard>);

impl Shards {
    /// Most shards: each costs the poller a request a few times a second.
    pub const MAX: Shard = 1_024;

    /// Reads a comma list such as `8` or, while going from four to eight, `8,4`.
    ///
    /// # Errors
    ///
    /// A sentence, when a number is not between 1 and [`Shards::MAX`].
    pub fn parse(text: &str) -> Result<Self, String> {
        let counts = text.split(',').map(|count| match count.trim().parse() {
            Ok(count) if (1..=Self::MAX).contains(&count) => Ok(count),
            _ => Err(format!("{count:?} is not a number of shards between 1 and {}", Self::MAX)),
        });
        Ok(Self(counts.collect::<Result<_, _>>()?))
    }

    /// Whether every connection is where a new one with its id would be.
    pub fn is_settled(&self) -> bool {
        self.0.len() == 1
    }

    /// Every shard that can have connections.
    pub fn all(&self) -> std::ops::Range<Shard> {
        0..self.0.iter().copied().max().unwrap_or(1)
    }

    /// The shard of a connection that opens.
    pub fn of_new(&self, id: &ConnectionId) -> Shard {
        shard_of(id, self.0.first().copied().unwrap_or(1))
    }

    /// The shards where a connection can be, the likeliest first.
    pub fn of_old(&self, id: &ConnectionId) -> impl Iterator<Item = Shard> {
        self.0.iter().map(move |count| shard_of(id, *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_a_list_of_numbers() {
        assert_eq!(Shards::parse("8, 4").expect("shards").all(), 0..8);
        assert_eq!(Shards::parse("2,16").expect("shards").all(), 0..16);
        for text in ["", "0", "1,", "x", "1025", "-1"] {
            assert!(Shards::parse(text).is_err(), "case: {text}");
        }
    }

    #[test]
    fn a_connection_has_its_shard_by_either_number() {
        let shards = Shards::parse("8,4").expect("shards");
        let id = ConnectionId::new("TXzPWdnOjoECGjA=");
        assert_eq!(shards.of_new(&id), shard_of(&id, 8));
        assert_eq!(shards.of_old(&id).collect::<Vec<_>>(), [shard_of(&id, 8), shard_of(&id, 4)]);
    }
}
