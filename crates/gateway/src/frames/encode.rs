//! The gateway's frames (RFC 6455 section 5.2). They are not masked, and a long message has several.

use bytes::{BufMut, Bytes, BytesMut};

const FIN: u8 = 0x80;
const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const CLOSE: u8 = 0x8;
const PONG: u8 = 0xA;

/// The longest payload of a control frame (RFC 6455 section 5.5).
pub(crate) const CONTROL_BYTES: usize = 125;

/// Returns a text message as frames of at most `frame_bytes` of payload each.
pub(crate) fn text(payload: &[u8], frame_bytes: usize) -> Bytes {
    let frames = payload.len().div_ceil(frame_bytes).max(1);
    let mut out = BytesMut::with_capacity(payload.len() + frames * 10);
    let mut rest = payload;
    for number in 1..=frames {
        let (part, left) = rest.split_at(rest.len().min(frame_bytes));
        let opcode = if number == 1 { TEXT } else { CONTINUATION };
        put_header(&mut out, if number == frames { FIN | opcode } else { opcode }, part.len());
        out.put_slice(part);
        rest = left;
    }
    out.freeze()
}

/// Returns the response to a ping.
pub(crate) fn pong(payload: &[u8]) -> Bytes {
    control(PONG, payload)
}

/// Returns a close frame. Without a code, the frame is empty.
pub(crate) fn close(code: Option<u16>, reason: &str) -> Bytes {
    let Some(code) = code else { return control(CLOSE, &[]) };
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(&reason.as_bytes()[..reason.floor_char_boundary(CONTROL_BYTES - 2)]);
    control(CLOSE, &payload)
}

fn control(opcode: u8, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(2 + payload.len());
    put_header(&mut out, FIN | opcode, payload.len());
    out.put_slice(payload);
    out.freeze()
}

fn put_header(out: &mut BytesMut, first: u8, len: usize) {
    out.put_u8(first);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ ..=125), _) => out.put_u8(len),
        (_, Ok(len)) => {
            out.put_u8(126);
            out.put_u16(len);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(len as u64);
        }
    }
}
