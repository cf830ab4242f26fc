//! The bodies of entries: compressed frames.

use std::{cell::RefCell, io};

use bytes::Bytes;

/// The fastest level; on frames of JSON, higher levels are only a few percent smaller.
const ZSTD_LEVEL: i32 = 1;

/// Maximum size of a decompressed body, in bytes. An item is limited to 400 KB, a frame to 128 KB.
const MAX_BODY_BYTES: usize = 1024 * 1024;

thread_local! {
    // A zstd context takes some hundred kilobytes, so each thread keeps one.
    static COMPRESSOR: RefCell<zstd::bulk::Compressor<'static>> = RefCell::new(
        zstd::bulk::Compressor::new(ZSTD_LEVEL).expect("zstd has the level"),
    );
    static DECOMPRESSOR: RefCell<zstd::bulk::Decompressor<'static>> = RefCell::new(
        zstd::bulk::Decompressor::new().expect("zstd can decompress"),
    );
}

/// Compresses the JSON of a frame.
pub(super) fn compress(bytes: &[u8]) -> Vec<u8> {
    COMPRESSOR.with_borrow_mut(|zstd| zstd.compress(bytes)).expect("memory to compress a frame")
}

/// Returns the JSON of a frame.
///
/// # Errors
///
/// [`io::Error`] when the bytes are not a compressed body, or one that is too large.
pub(super) fn decompress(bytes: &[u8]) -> io::Result<Bytes> {
    let size = zstd::bulk::Decompressor::upper_bound(bytes).unwrap_or(MAX_BODY_BYTES);
    DECOMPRESSOR
        .with_borrow_mut(|zstd| zstd.decompress(bytes, size.min(MAX_BODY_BYTES)))
        .map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_survives_compression() {
        for size in [0, 1, 100, 100_000] {
            let body = vec![b'x'; size];
            assert_eq!(decompress(&compress(&body)).expect("decompressed"), body);
        }
        assert!(decompress(b"not zstd").is_err());
    }

    #[test]
    fn a_body_that_decompresses_to_too_much_is_rejected() {
        let bomb = compress(&vec![0; 64 * 1024 * 1024]);
        assert!(bomb.len() < 100_000 && decompress(&bomb).is_err());
    }
}
