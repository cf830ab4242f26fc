//! Shards: the parts that all connections are divided into.

use crate::connection::id::ConnectionId;

/// The number of a shard. Connections are spread over the shards by a hash of their id.
pub type Shard = u16;

/// Returns the shard of a connection that opens while there are `shards` shards.
///
/// The hash is 64-bit FNV-1a, so that all builds agree.
pub fn shard_of(id: &ConnectionId, shards: Shard) -> Shard {
    let hash = id.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Shard::try_from(hash % u64::from(shards.max(1))).unwrap_or_default()
}

/// The numbers of shards in use: first the number for new connections, then those that applied when
/// older connections opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shards(Vec<Shard>);

impl Shards {
    /// The largest number of shards, also in `template.yaml`. Each costs the poller a request a few times a
    /// second.
    pub const MAX: Shard = 999;

    /// Parses a comma-separated list, such as `8`, or `8,4` during a change from four to eight shards.
    ///
    /// # Errors
    ///
    /// A sentence for the operator, when a number is not between 1 and [`Shards::MAX`].
    pub fn parse(text: &str) -> Result<Self, String> {
        let counts = text.split(',').map(|count| match count.trim().parse() {
            Ok(count) if (1..=Self::MAX).contains(&count) => Ok(count),
            _ => Err(format!("{count:?} is not a number of shards between 1 and {}", Self::MAX)),
        });
        Ok(Self(counts.collect::<Result<_, _>>()?))
    }

    /// Returns whether there is only one number, so that an id determines the shard.
    pub fn is_settled(&self) -> bool {
        self.0.len() == 1
    }

    /// Returns all shards that can have connections.
    pub fn all(&self) -> std::ops::Range<Shard> {
        0..self.0.iter().copied().max().unwrap_or(1)
    }

    /// Returns the shard of a new connection.
    pub fn of_new(&self, id: &ConnectionId) -> Shard {
        shard_of(id, self.0.first().copied().unwrap_or(1))
    }

    /// Returns the shards that an existing connection can be in, most likely first.
    pub fn of_old(&self, id: &ConnectionId) -> impl Iterator<Item = Shard> {
        self.0.iter().map(move |count| shard_of(id, *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_parsed_from_a_list_of_numbers() {
        assert_eq!(Shards::parse("8, 4").expect("shards").all(), 0..8);
        assert_eq!(Shards::parse("2,16").expect("shards").all(), 0..16);
        for text in ["", "0", "1,", "x", "1000", "-1"] {
            assert!(Shards::parse(text).is_err(), "case: {text}");
        }
    }

    #[test]
    fn the_shard_of_an_id_never_changes() {
        // The test vectors of FNV-1a (draft-eastlake-fnv): 0x85944171f73967e8 and 0xaf63dc4c8601ec8c.
        for (id, shards, shard) in
            [("foobar", 999, 24), ("a", 999, 232), ("foobar", 8, 0), ("a", 8, 4), ("a", 1, 0)]
        {
            assert_eq!(shard_of(&ConnectionId::new(id), shards), shard, "{id} of {shards}");
        }
        assert!(Shards::parse("8").expect("shards").is_settled());
        assert!(!Shards::parse("8,4").expect("shards").is_settled());
    }

    #[test]
    fn an_existing_connection_can_be_in_either_shard() {
        let shards = Shards::parse("8,4").expect("shards");
        let id = ConnectionId::new("TXzPWdnOjoECGjA=");
        assert_eq!(shards.of_new(&id), shard_of(&id, 8));
        assert_eq!(shards.of_old(&id).collect::<Vec<_>>(), [shard_of(&id, 8), shard_of(&id, 4)]);
    }
}
