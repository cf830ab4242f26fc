//! Ids as API Gateway makes them: 11 bytes in URL-safe base64 with padding, 16 characters.
//!
//! In every id seen in the wild the leading bytes grow with time, byte 8 is 2 for connections and
//! messages and 5 for requests, and a message's id ends in the last 3 bytes of its connection's.

use base64::{Engine, engine::general_purpose::URL_SAFE};

const BYTES: usize = 11;
const TAG: usize = 8;

/// Makes a connection id at `now_ms`, milliseconds since 1970.
pub(crate) fn connection(now_ms: u64) -> String {
    URL_SAFE.encode(tagged(now_ms, 0x02))
}

/// Makes a request id.
pub(crate) fn request(now_ms: u64) -> String {
    URL_SAFE.encode(tagged(now_ms, 0x05))
}

/// Makes the id of a message on the connection `connection`.
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
    // Units of 256 ms fit 32 bits with the two uppermost bits of the milliseconds lost.
    id[..4].copy_from_slice(&(now_ms >> 8).to_be_bytes()[4..]);
    id[TAG] = tag;
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_790_000_000_000;

    #[test]
    fn ids_have_the_form_of_api_gateways() {
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
    fn tells_ids_from_other_text() {
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
