//! WebSocket frames: decoding what clients send, and encoding what the gateway sends.

pub(crate) mod decode;
pub(crate) mod encode;
