//! Tests of the decoder with single cases, and in comparison with tungstenite.

use std::io::Cursor;

use proptest::prelude::*;
use tokio_tungstenite::tungstenite::{
    Error, Message, WebSocket,
    protocol::{Role, WebSocketConfig},
};

use super::*;
use crate::frames::encode;

/// A frame of a client, valid or not.
#[derive(Clone, Debug)]
struct ClientFrame {
    opcode: u8,
    is_final: bool,
    reserved: u8,
    is_masked: bool,
    payload: Vec<u8>,
}

impl ClientFrame {
    fn new(opcode: u8, payload: &[u8]) -> Self {
        Self { opcode, is_final: true, reserved: 0, is_masked: true, payload: payload.to_vec() }
    }

    fn not_final(self) -> Self {
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

pub(crate) fn decode_all(bytes: &[u8], piece: usize) -> (Vec<ClientMessage>, Option<Violation>) {
    let limits = GatewayLimits::default();
    let mut decoder = Decoder::default();
    let mut messages = Vec::new();
    for mut input in bytes.chunks(piece) {
        loop {
            match decoder.decode(&mut input, &limits) {
                Ok(Some(ClientMessage::Fragment)) => {}
                Ok(Some(ClientMessage::Close(frame))) => {
                    messages.push(ClientMessage::Close(frame));
                    return (messages, None);
                }
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(violation) => return (messages, Some(violation)),
            }
        }
    }
    (messages, None)
}

#[test]
fn decodes_valid_frames() {
    let large = vec![b'x'; 32_768];
    let cases = [
        ("text", vec![ClientFrame::new(TEXT, b"hello")], vec![ClientMessage::Text("hello".into())]),
        ("empty text", vec![ClientFrame::new(TEXT, b"")], vec![ClientMessage::Text(String::new())]),
        (
            "a message in three frames with a ping between",
            vec![
                ClientFrame::new(TEXT, "gr".as_bytes()).not_final(),
                ClientFrame::new(CONTINUATION, &"ü".as_bytes()[..1]).not_final(),
                ClientFrame::new(PING, b"?"),
                ClientFrame::new(CONTINUATION, &"ü".as_bytes()[1..]),
            ],
            vec![ClientMessage::Ping(b"?".to_vec()), ClientMessage::Text("grü".into())],
        ),
        (
            "the largest message",
            vec![
                ClientFrame::new(TEXT, &large).not_final(),
                ClientFrame::new(CONTINUATION, &large).not_final(),
                ClientFrame::new(CONTINUATION, &large).not_final(),
                ClientFrame::new(CONTINUATION, &large),
            ],
            vec![ClientMessage::Text("x".repeat(131_072))],
        ),
        ("pong", vec![ClientFrame::new(PONG, b"!")], vec![ClientMessage::Pong]),
        ("close", vec![ClientFrame::new(CLOSE, b"")], vec![ClientMessage::Close(None)]),
        (
            "close with a reason",
            vec![ClientFrame::new(CLOSE, b"\x03\xe9bye")],
            vec![ClientMessage::Close(Some((1001, "bye".into())))],
        ),
    ];
    for (name, frames, expected) in cases {
        let bytes: Vec<u8> = frames.iter().flat_map(ClientFrame::bytes).collect();
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
fn rejects_invalid_frames() {
    let large = vec![b'x'; 32_768];
    let cases = [
        ("binary", vec![ClientFrame::new(BINARY, b"x")], 1003),
        ("invalid UTF-8", vec![ClientFrame::new(TEXT, b"\xff")], 1007),
        ("invalid UTF-8 in a close", vec![ClientFrame::new(CLOSE, b"\x03\xe8\xff")], 1007),
        ("large frame", vec![ClientFrame::new(TEXT, &vec![b'x'; 32_769])], 1009),
        (
            "large message",
            vec![
                ClientFrame::new(TEXT, &large).not_final(),
                ClientFrame::new(CONTINUATION, &large).not_final(),
                ClientFrame::new(CONTINUATION, &large).not_final(),
                ClientFrame::new(CONTINUATION, &large).not_final(),
                ClientFrame::new(CONTINUATION, b"x"),
            ],
            1009,
        ),
        ("no mask", vec![ClientFrame { is_masked: false, ..ClientFrame::new(TEXT, b"x") }], 1002),
        ("reserved bit", vec![ClientFrame { reserved: 4, ..ClientFrame::new(TEXT, b"x") }], 1002),
        ("unknown opcode", vec![ClientFrame::new(0x3, b"x")], 1002),
        ("unknown control opcode", vec![ClientFrame::new(0xB, b"x")], 1002),
        ("continuation of nothing", vec![ClientFrame::new(CONTINUATION, b"x")], 1002),
        (
            "text in a message",
            vec![ClientFrame::new(TEXT, b"x").not_final(), ClientFrame::new(TEXT, b"x")],
            1002,
        ),
        ("fragmented ping", vec![ClientFrame::new(PING, b"x").not_final()], 1002),
        ("long ping", vec![ClientFrame::new(PING, &[0; 126])], 1002),
        ("half a close code", vec![ClientFrame::new(CLOSE, b"\x03")], 1002),
        ("close code 1005", vec![ClientFrame::new(CLOSE, b"\x03\xed")], 1002),
        ("close code 999", vec![ClientFrame::new(CLOSE, b"\x03\xe7")], 1002),
    ];
    for (name, frames, expected) in cases {
        let bytes: Vec<u8> = frames.iter().flat_map(ClientFrame::bytes).collect();
        let (_, violation) = decode_all(&bytes, 1_000);
        assert_eq!(violation.map(Violation::code), Some(expected), "case: {name}");
    }
}

#[test]
fn a_large_length_is_rejected_before_its_payload_arrives() {
    let header = [0x81, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0];
    assert_eq!(decode_all(&header, 3), (vec![], Some(Violation::FrameTooLarge)));
}

#[test]
fn a_length_that_is_not_encoded_as_required_is_rejected() {
    let cases: [(&str, &[u8], bool); 6] = [
        ("126 in two bytes", &[0x81, 0xFE, 0, 126], true),
        ("125 in two bytes", &[0x81, 0xFE, 0, 125], false),
        ("0 in two bytes", &[0x89, 0xFE, 0, 0], false),
        ("65535 in eight bytes", &[0x81, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], false),
        ("1 in eight bytes", &[0x81, 0xFF, 0, 0, 0, 0, 0, 0, 0, 1], false),
        ("the first bit", &[0x81, 0xFF, 0x80, 0, 0, 0, 0, 1, 0, 0], false),
    ];
    for (name, header, is_valid) in cases {
        let bytes = [header, &[0; 4]].concat();
        let (_, violation) = decode_all(&bytes, 3);
        assert_eq!(violation.map(Violation::code), (!is_valid).then_some(1002), "case: {name}");
    }
}

fn client_frame() -> impl Strategy<Value = ClientFrame> {
    let opcode =
        prop::sample::select(vec![TEXT, TEXT, CONTINUATION, CONTINUATION, PING, PONG, 3, 11]);
    let frame = (opcode, prop::bool::weighted(0.7), "[a-zü]{0,200}").prop_map(
        |(opcode, is_final, text)| ClientFrame {
            is_final: is_final || opcode >= 8,
            ..ClientFrame::new(opcode, text.as_bytes())
        },
    );
    let close = (1000_u16..1004, "[a-z]{0,20}").prop_map(|(code, reason)| {
        ClientFrame::new(CLOSE, &[&code.to_be_bytes(), reason.as_bytes()].concat())
    });
    let unmasked = "[a-z]{1,9}".prop_map(|text| ClientFrame {
        is_masked: false,
        ..ClientFrame::new(TEXT, text.as_bytes())
    });
    prop_oneof![30 => frame, 1 => close, 1 => unmasked]
}

/// Decodes the same bytes with tungstenite.
fn oracle(bytes: &[u8]) -> (Vec<ClientMessage>, Option<u16>) {
    let limits = GatewayLimits::default();
    let config = WebSocketConfig::default()
        .max_frame_size(Some(limits.frame_bytes))
        .max_message_size(Some(limits.message_bytes));
    let stream = Cursor::new(bytes.to_vec());
    let mut socket = WebSocket::from_raw_socket(ReadOnly(stream), Role::Server, Some(config));
    let mut messages = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => messages.push(ClientMessage::Text(text.to_string())),
            Ok(Message::Ping(payload)) => messages.push(ClientMessage::Ping(payload.to_vec())),
            Ok(Message::Pong(_)) => messages.push(ClientMessage::Pong),
            Ok(Message::Close(frame)) => {
                let frame = frame.map(|frame| (frame.code.into(), frame.reason.to_string()));
                messages.push(ClientMessage::Close(frame));
                return (messages, None);
            }
            Ok(other) => panic!("unexpected {other:?}"),
            Err(Error::Protocol(
                tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
            )) => {
                return (messages, None);
            }
            Err(Error::Protocol(_)) => return (messages, Some(1002)),
            Err(Error::Utf8(_)) => return (messages, Some(1007)),
            Err(Error::Capacity(_)) => return (messages, Some(1009)),
            Err(error) => panic!("unexpected {error}"),
        }
    }
}

/// A stream that discards the responses of the oracle.
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
    fn agrees_with_tungstenite(frames in prop::collection::vec(client_frame(), 0..20), piece in 1_usize..300) {
        let bytes: Vec<u8> = frames.iter().flat_map(ClientFrame::bytes).collect();
        let (messages, violation) = decode_all(&bytes, piece);
        prop_assert_eq!((messages, violation.map(Violation::code)), oracle(&bytes));
    }

    #[test]
    fn never_panics_on_random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..2_000), piece in 1_usize..300) {
        decode_all(&bytes, piece);
    }

    #[test]
    fn tungstenite_decodes_encoded_frames(text in "\\PC{0,400}", frame_bytes in 1_usize..200) {
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
