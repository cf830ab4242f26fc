//! Ids in the format of API Gateway: 11 bytes in URL-safe base64 with padding, which are 16 characters.
//!
//! In all captured ids, the first bytes grow with time, byte 8 is 2 for connections and messages and 5
//! for requests, and the id of a message ends with the last 3 bytes of its connection's id.

use base64::{Engine, engine::general_purpose::URL_SAFE};

const BYTES: usize = 11;
const TAG: usize = 8;

/// Generates a connection id. `now_ms` is in milliseconds since 1970.
pub(crate) fn connection(now_ms: u64) -> String {
    URL_SAFE.encode(tagged(now_ms, 0x02))
}

/// Generates a request id.
pub(crate) fn request(now_ms: u64) -> String {
    URL_SAFE.encode(tagged(now_ms, 0x05))
}

/// Generates the id of a message on the connection `connection`.
pub(crate) fn message(now_ms: u64, connection: &str) -> String {
    let mut id = tagged(now_ms, 0x02);
    if let Some(tail) = decode(connection) {
        id[TAG..].copy_from_slice(&tail[TAG..]);
    }
    URL_SAFE.encode(id)
}

/// Whether `id` could be a connection id.
pub(crate) fn is_well_formed(id: &str) -> bool {
    decode(id).is_some()
}

fn decode(id: &str) -> Option<[u8; BYTES]> {
    URL_SAFE.decode(id).ok()?.try_into().ok()
}

fn tagged(now_ms: u64, tag: u8) -> [u8; BYTES] {
    let mut id: [u8; BYTES] = rand::random();
    // The lowest 32 bits of the time in units of 256 ms.
    id[..4].copy_from_slice(&(now_ms >> 8).to_be_bytes()[4..]);
    id[TAG] = tag;
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_790_000_000_000;

    #[test]
    fn ids_have_the_format_of_api_gateway() {
        let connection = connection(NOW_MS);
        let request = request(NOW_MS);
        let message = message(NOW_MS, &connection);
        for id in [&connection, &request, &message] {
            assert_eq!(id.len(), 16, "{id}");
            assert!(id.ends_with('='), "{id}");
        }
        let bytes = |id: &str| decode(id).expect("11 bytes");
        assert_eq!(bytes(&connection)[8], 0x02);
        assert_eq!(bytes(&request)[8], 0x05);
        assert_eq!(bytes(&message)[8..], bytes(&connection)[8..]);
        assert!(bytes(&super::connection(NOW_MS + 1_000)) > bytes(&connection), "grows with time");
    }

    #[test]
    fn recognizes_well_formed_ids() {
        let cases = [
            ("TXzPWdnOjoECGjA=", true),
            ("JC1dgf9yoAMCK-g=", true),
            ("HXT_RfBnPHcCIIg=", true),
            ("TXzPWdnOjoECGjA", false),
            ("TXzPWdnOjoECGj+=", false),
            ("TXzPWdnOjoECGjAA", false),
            ("", false),
        ];
        for (id, expected) in cases {
            assert_eq!(is_well_formed(id), expected, "case: {id}");
        }
    }
}
