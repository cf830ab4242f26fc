//! The frames of clients, decoded from pieces of any size (RFC 6455 section 5).
//!
//! Between two messages a decoder owns no heap memory, so an idle connection needs little memory.

use std::mem;

use crate::{frames::encode::CONTROL_BYTES, limits::GatewayLimits};

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

/// A message or a control frame of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClientMessage {
    Text(String),
    /// A frame of a message that is not complete.
    Fragment,
    Ping(Vec<u8>),
    Pong,
    /// A close frame, with its status code and reason if it has a code.
    Close(Option<(u16, String)>),
}

/// A violation of the protocol or of a limit. It closes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    #[error("{0}")]
    Protocol(&'static str),
    #[error("Binary frames are not supported")]
    Binary,
    #[error("Text is not UTF-8")]
    NotUtf8,
    #[error("Frame is too large")]
    FrameTooLarge,
    #[error("Message is too large")]
    MessageTooLarge,
}

impl Violation {
    /// Returns the status code with which the connection is closed.
    pub(crate) fn code(self) -> u16 {
        match self {
            Self::Protocol(_) => 1002,
            Self::Binary => 1003,
            Self::NotUtf8 => 1007,
            Self::FrameTooLarge | Self::MessageTooLarge => 1009,
        }
    }
}

/// Decodes the frames of one connection.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    header: [u8; 14],
    header_filled: u8,
    frame: Option<Frame>,
    /// The text of the message that is being received, from all of its frames so far.
    message: Vec<u8>,
    in_message: bool,
    control: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    opcode: u8,
    is_final: bool,
    mask: [u8; 4],
    mask_offset: usize,
    remaining: usize,
}

impl Decoder {
    /// Consumes bytes from the front of `input` until a frame is complete or no bytes are left.
    pub(crate) fn decode(
        &mut self,
        input: &mut &[u8],
        limits: &GatewayLimits,
    ) -> Result<Option<ClientMessage>, Violation> {
        loop {
            let Some(frame) = &mut self.frame else {
                let Some(frame) = self.read_header(input)? else { return Ok(None) };
                self.begin(frame, limits)?;
                continue;
            };
            let (payload, rest) = input.split_at(input.len().min(frame.remaining));
            *input = rest;
            let is_control = frame.opcode & 0x8 != 0;
            let target = if is_control { &mut self.control } else { &mut self.message };
            frame.unmask_into(payload, target);
            if frame.remaining > 0 {
                return Ok(None);
            }
            let frame = *frame;
            self.frame = None;
            if let Some(message) = self.complete(frame)? {
                return Ok(Some(message));
            }
        }
    }

    fn read_header(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, Violation> {
        loop {
            let filled = usize::from(self.header_filled);
            if filled >= 2 && filled == header_len(self.header[1]) {
                self.header_filled = 0;
                return parse_header(&self.header).map(Some);
            }
            let Some((&byte, rest)) = input.split_first() else { return Ok(None) };
            *input = rest;
            self.header[filled] = byte;
            self.header_filled += 1;
        }
    }

    /// Checks a frame by its header, before any of its payload is stored.
    fn begin(&mut self, frame: Frame, limits: &GatewayLimits) -> Result<(), Violation> {
        match frame.opcode {
            CLOSE | PING | PONG if !frame.is_final => {
                return Err(Violation::Protocol("Control frame is fragmented"));
            }
            CLOSE | PING | PONG if frame.remaining > CONTROL_BYTES => {
                return Err(Violation::Protocol("Control frame is too long"));
            }
            CLOSE | PING | PONG => {}
            CONTINUATION if !self.in_message => {
                return Err(Violation::Protocol("Continuation of no message"));
            }
            TEXT | BINARY if self.in_message => {
                return Err(Violation::Protocol("Message inside a message"));
            }
            BINARY => return Err(Violation::Binary),
            TEXT | CONTINUATION if frame.remaining > limits.frame_bytes => {
                return Err(Violation::FrameTooLarge);
            }
            TEXT | CONTINUATION if self.message.len() + frame.remaining > limits.message_bytes => {
                return Err(Violation::MessageTooLarge);
            }
            TEXT | CONTINUATION => self.in_message = true,
            _ => return Err(Violation::Protocol("Unknown opcode")),
        }
        self.frame = Some(frame);
        Ok(())
    }

    fn complete(&mut self, frame: Frame) -> Result<Option<ClientMessage>, Violation> {
        match frame.opcode {
            CLOSE => parse_close(&mem::take(&mut self.control))
                .map(|frame| Some(ClientMessage::Close(frame))),
            PING => Ok(Some(ClientMessage::Ping(mem::take(&mut self.control)))),
            PONG => {
                self.control = Vec::new();
                Ok(Some(ClientMessage::Pong))
            }
            _ if !frame.is_final => Ok(Some(ClientMessage::Fragment)),
            _ => {
                self.in_message = false;
                String::from_utf8(mem::take(&mut self.message))
                    .map(|text| Some(ClientMessage::Text(text)))
                    .map_err(|_| Violation::NotUtf8)
            }
        }
    }
}

impl Frame {
    fn unmask_into(&mut self, payload: &[u8], target: &mut Vec<u8>) {
        let mut mask = self.mask;
        mask.rotate_left(self.mask_offset);
        let start = target.len();
        target.extend_from_slice(payload);
        for chunk in target[start..].chunks_mut(4) {
            for (byte, mask) in chunk.iter_mut().zip(mask) {
                *byte ^= mask;
            }
        }
        self.remaining -= payload.len();
        self.mask_offset = (self.mask_offset + payload.len()) % 4;
    }
}

/// Returns the length of a header whose second byte is `second`.
fn header_len(second: u8) -> usize {
    let length_bytes = match second & 0x7F {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask_bytes = if second & 0x80 == 0 { 0 } else { 4 };
    2 + length_bytes + mask_bytes
}

fn parse_header(header: &[u8; 14]) -> Result<Frame, Violation> {
    let [first, second, rest @ ..] = header;
    if first & 0x70 != 0 {
        return Err(Violation::Protocol("Reserved bits are set"));
    }
    if second & 0x80 == 0 {
        return Err(Violation::Protocol("Frame is not masked"));
    }
    let (remaining, mask, least) = match second & 0x7F {
        126 => (u64::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..6], 126),
        127 => {
            let length = rest.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
            (length, &rest[8..12], 1 << 16)
        }
        length => (u64::from(length), &rest[..4], 0),
    };
    // RFC 6455 section 5.2: a length has as few bytes as possible, and the first bit of eight is 0.
    if remaining < least || remaining > i64::MAX as u64 {
        return Err(Violation::Protocol("Length is not encoded as required"));
    }
    Ok(Frame {
        opcode: first & 0x0F,
        is_final: first & 0x80 != 0,
        mask: [mask[0], mask[1], mask[2], mask[3]],
        mask_offset: 0,
        remaining: usize::try_from(remaining).unwrap_or(usize::MAX),
    })
}

fn parse_close(payload: &[u8]) -> Result<Option<(u16, String)>, Violation> {
    match payload {
        [] => Ok(None),
        [_] => Err(Violation::Protocol("Close code is cut short")),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(Violation::Protocol("Close code is not allowed"));
            }
            let reason = str::from_utf8(reason).map_err(|_| Violation::NotUtf8)?;
            Ok(Some((code, reason.to_owned())))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
