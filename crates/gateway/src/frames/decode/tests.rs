//! The decoder against cases and against tungstenite.

use std::io::Cursor;

use proptest::prelude::*;
use tokio_tungstenite::tungstenite::{
    Error, Message, WebSocket,
    protocol::{Role, WebSocketConfig},
};

use super::*;
use crate::frames::encode;

/// A frame as a client could send it, right or wrong.
#[derive(Clone, Debug)]
struct Sent {
    opcode: u8,
    is_final: bool,
    reserved: u8,
    is_masked: bool,
    payload: Vec<u8>,
}

impl Sent {
    fn new(opcode: u8, payload: &[u8]) -> Self {
        Self { opcode, is_final: true, reserved: 0, is_masked: true, payload: payload.to_vec() }
    }

    fn more(self) -> Self {
        Self { is_final: false, ..self }
    }

    fn bytes(&self) -> Vec<u8> {
        let mask = [0x12, 0x34, 0x56, 0x78];
        let masked_bit = if self.is_masked { 0x80 } else { 0 };
        let mut out = vec![(u8::from(self.is_final) << 7) | (self.reserved << 4) | self.opcode];
        let length = self.payload.len();
        match (u8::try_from(length), u16::try_from(length)) {
            (Ok(length @ ..=125), _) => out.push(masked_bit | length),
            (_, Ok(length)) => {
                out.push(masked_bit | 0x7E);
                out.extend_from_slice(&length.to_be_bytes());
            }
            _ => {
                out.push(masked_bit | 0x7F);
                out.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        if self.is_masked {
            out.extend_from_slice(&mask);
            out.extend(
                self.payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask),
            );
        } else {
            out.extend_from_slice(&self.payload);
        }
        out
    }
}

fn decode_all(bytes: &[u8], piece: usize) -> (Vec<Incoming>, Option<Violation>) {
    let limits = GatewayLimits::default();
    let mut decoder = Decoder::default();
    let mut said = Vec::new();
    for mut input in bytes.chunks(piece) {
        loop {
            match decoder.decode(&mut input, &limits) {
                Ok(Some(Incoming::Close(frame))) => {
                    said.push(Incoming::Close(frame));
                    return (said, None);
                }
                Ok(Some(incoming)) => said.push(incoming),
                Ok(None) => break,
                Err(violation) => return (said, Some(violation)),
            }
        }
    }
    (said, None)
}

#[test]
fn decodes_what_clients_may_send() {
    let large = vec![b'x'; 32_768];
    let cases = [
        ("text", vec![Sent::new(TEXT, b"hello")], vec![Incoming::Text("hello".into())]),
        ("empty text", vec![Sent::new(TEXT, b"")], vec![Incoming::Text(String::new())]),
        (
            "a message in three frames with a ping between",
            vec![
                Sent::new(TEXT, "gr".as_bytes()).more(),
                Sent::new(CONTINUATION, &"ü".as_bytes()[..1]).more(),
                Sent::new(PING, b"?"),
                Sent::new(CONTINUATION, &"ü".as_bytes()[1..]),
            ],
            vec![Incoming::Ping(b"?".to_vec()), Incoming::Text("grü".into())],
        ),
        (
            "the largest message",
            vec![
                Sent::new(TEXT, &large).more(),
                Sent::new(CONTINUATION, &large).more(),
                Sent::new(CONTINUATION, &large).more(),
                Sent::new(CONTINUATION, &large),
            ],
            vec![Incoming::Text("x".repeat(131_072))],
        ),
        ("pong", vec![Sent::new(PONG, b"!")], vec![Incoming::Pong]),
        ("close", vec![Sent::new(CLOSE, b"")], vec![Incoming::Close(None)]),
        (
            "close with a reason",
            vec![Sent::new(CLOSE, b"\x03\xe9bye")],
            vec![Incoming::Close(Some((1001, "bye".into())))],
        ),
    ];
    for (name, frames, expected) in cases {
        let bytes: Vec<u8> = frames.iter().flat_map(Sent::bytes).collect();
        for piece in [1, 7, usize::MAX] {
            assert_eq!(
                decode_all(&bytes, piece),
                (expected.clone(), None),
                "case: {name}, {piece}"
            );
        }
    }
}

#[test]
fn refuses_what_clients_must_not_send() {
    let large = vec![b'x'; 32_768];
    let cases = [
        ("binary", vec![Sent::new(BINARY, b"x")], 1003),
        ("invalid UTF-8", vec![Sent::new(TEXT, b"\xff")], 1007),
        ("invalid UTF-8 in a close", vec![Sent::new(CLOSE, b"\x03\xe8\xff")], 1007),
        ("large frame", vec![Sent::new(TEXT, &vec![b'x'; 32_769])], 1009),
        (
            "large message",
            vec![
                Sent::new(TEXT, &large).more(),
                Sent::new(CONTINUATION, &large).more(),
                Sent::new(CONTINUATION, &large).more(),
                Sent::new(CONTINUATION, &large).more(),
                Sent::new(CONTINUATION, b"x"),
            ],
            1009,
        ),
        ("no mask", vec![Sent { is_masked: false, ..Sent::new(TEXT, b"x") }], 1002),
        ("reserved bit", vec![Sent { reserved: 4, ..Sent::new(TEXT, b"x") }], 1002),
        ("unknown opcode", vec![Sent::new(0x3, b"x")], 1002),
        ("unknown control opcode", vec![Sent::new(0xB, b"x")], 1002),
        ("continuation of nothing", vec![Sent::new(CONTINUATION, b"x")], 1002),
        ("text in a message", vec![Sent::new(TEXT, b"x").more(), Sent::new(TEXT, b"x")], 1002),
        ("fragmented ping", vec![Sent::new(PING, b"x").more()], 1002),
        ("long ping", vec![Sent::new(PING, &[0; 126])], 1002),
        ("half a close code", vec![Sent::new(CLOSE, b"\x03")], 1002),
        ("close code 1005", vec![Sent::new(CLOSE, b"\x03\xed")], 1002),
        ("close code 999", vec![Sent::new(CLOSE, b"\x03\xe7")], 1002),
    ];
    for (name, frames, expected) in cases {
        let bytes: Vec<u8> = frames.iter().flat_map(Sent::bytes).collect();
        let (_, violation) = decode_all(&bytes, 1_000);
        assert_eq!(violation.map(Violation::code), Some(expected), "case: {name}");
    }
}

#[test]
fn a_large_length_is_refused_before_its_payload_arrives() {
    let header = [0x81, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0];
    assert_eq!(decode_all(&header, 3), (vec![], Some(Violation::FrameTooLarge)));
}

fn sent() -> impl Strategy<Value = Sent> {
    let opcode =
        prop::sample::select(vec![TEXT, TEXT, CONTINUATION, CONTINUATION, PING, PONG, 3, 11]);
    let frame = (opcode, prop::bool::weighted(0.7), "[a-zü]{0,200}");
    let frame = frame.prop_map(|(opcode, is_final, text)| Sent {
        is_final: is_final || opcode >= 8,
        // Two valid halves of a text are valid UTF-8 only between characters.
        ..Sent::new(opcode, text.as_bytes())
    });
    let close = (1000_u16..1004, "[a-z]{0,20}").prop_map(|(code, reason)| {
        Sent::new(CLOSE, &[&code.to_be_bytes(), reason.as_bytes()].concat())
    });
    let unmasked =
        "[a-z]{1,9}".prop_map(|text| Sent { is_masked: false, ..Sent::new(TEXT, text.as_bytes()) });
    prop_oneof![30 => frame, 1 => close, 1 => unmasked]
}

/// What tungstenite makes of the same bytes.
fn oracle(bytes: &[u8]) -> (Vec<Incoming>, Option<u16>) {
    let limits = GatewayLimits::default();
    let config = WebSocketConfig::default()
        .max_frame_size(Some(limits.frame_bytes))
        .max_message_size(Some(limits.message_bytes));
    let stream = Cursor::new(bytes.to_vec());
    let mut socket = WebSocket::from_raw_socket(ReadOnly(stream), Role::Server, Some(config));
    let mut said = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => said.push(Incoming::Text(text.to_string())),
            Ok(Message::Ping(payload)) => said.push(Incoming::Ping(payload.to_vec())),
            Ok(Message::Pong(_)) => said.push(Incoming::Pong),
            Ok(Message::Close(frame)) => {
                let frame = frame.map(|frame| (frame.code.into(), frame.reason.to_string()));
                said.push(Incoming::Close(frame));
                return (said, None);
            }
            Ok(other) => panic!("unexpected {other:?}"),
            Err(Error::Protocol(
                tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
            )) => {
                return (said, None);
            }
            Err(Error::Protocol(_)) => return (said, Some(1002)),
            Err(Error::Utf8(_)) => return (said, Some(1007)),
            Err(Error::Capacity(_)) => return (said, Some(1009)),
            Err(error) => panic!("unexpected {error}"),
        }
    }
}

/// A client that never reads: what the oracle answers is not of interest.
struct ReadOnly(Cursor<Vec<u8>>);

impl std::io::Read for ReadOnly {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl std::io::Write for ReadOnly {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

proptest! {
    #[test]
    fn agrees_with_tungstenite(frames in prop::collection::vec(sent(), 0..20), piece in 1_usize..300) {
        let bytes: Vec<u8> = frames.iter().flat_map(Sent::bytes).collect();
        let (said, violation) = decode_all(&bytes, piece);
        prop_assert_eq!((said, violation.map(Violation::code)), oracle(&bytes));
    }

    #[test]
    fn never_panics_on_noise(bytes in prop::collection::vec(any::<u8>(), 0..2_000), piece in 1_usize..300) {
        decode_all(&bytes, piece);
    }

    #[test]
    fn tungstenite_reads_what_is_encoded(text in "\\PC{0,400}", frame_bytes in 1_usize..200) {
        let mut bytes = encode::text(text.as_bytes(), frame_bytes).to_vec();
        bytes.extend_from_slice(&encode::pong(b"x"));
        bytes.extend_from_slice(&encode::close(Some(1001), "Going away"));
        let mut socket = WebSocket::from_raw_socket(ReadOnly(Cursor::new(bytes)), Role::Client, None);
        prop_assert_eq!(socket.read().expect("text"), Message::text(text));
        prop_assert!(matches!(socket.read().expect("pong"), Message::Pong(_)));
        let Message::Close(Some(frame)) = socket.read().expect("close") else { panic!("no close") };
        prop_assert_eq!((u16::from(frame.code), frame.reason.as_str()), (1001, "Going away"));
    }
}
