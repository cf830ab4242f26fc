//! The spelling of a client's header names.
//!
//! Events carry header names as the client wrote them, and hyper gives them in lower case only. So
//! the stream under hyper keeps what it read of a request's head, to look the names up in.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// More of a head than this is not kept.
const HEAD_BYTES: usize = 16 * 1_024;

/// The names of a request's headers as the client spelled them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spelling(Vec<String>);

impl Spelling {
    /// Finds the names in a request's head.
    pub(crate) fn read(head: &[u8]) -> Self {
        let lines = head.split(|byte| *byte == b'\n').skip(1);
        let lines = lines.take_while(|line| !line.trim_ascii().is_empty());
        let names = lines.filter_map(|line| line.split(|byte| *byte == b':').next());
        Self(names.filter_map(|name| Some(str::from_utf8(name).ok()?.to_owned())).collect())
    }

    /// Returns `name`, which is in lower case, as the client spelled it.
    pub(crate) fn of(&self, name: &str) -> String {
        let spelled = self.0.iter().find(|spelled| spelled.eq_ignore_ascii_case(name));
        spelled.map_or_else(|| name.to_owned(), Clone::clone)
    }
}

/// What was read of the request at hand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head(Arc<Mutex<Recorded>>);

#[derive(Debug, Default)]
struct Recorded {
    bytes: Vec<u8>,
    is_answered: bool,
}

impl Head {
    /// Reads the spelling from the head and forgets the head.
    pub(crate) fn take(&self) -> Spelling {
        Spelling::read(&std::mem::take(&mut self.0.lock().bytes))
    }

    fn record(&self, bytes: &[u8]) {
        let mut recorded = self.0.lock();
        if std::mem::take(&mut recorded.is_answered) {
            recorded.bytes.clear();
        }
        let room = HEAD_BYTES.saturating_sub(recorded.bytes.len());
        recorded.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// A TCP stream that keeps the head of the request it is reading.
#[derive(Debug)]
pub(crate) struct Recorder {
    stream: TcpStream,
    head: Head,
}

impl Recorder {
    pub(crate) fn new(stream: TcpStream, head: Head) -> Self {
        Self { stream, head }
    }

    pub(crate) fn into_inner(self) -> TcpStream {
        self.stream
    }
}

impl AsyncRead for Recorder {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.head.record(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Recorder {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // What is read after an answer belongs to the next request.
        self.head.0.lock().is_answered = true;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_names_as_the_client_spelled_them() {
        let head = b"GET /live HTTP/1.1\r\nHost: a\r\nX-ApiKey: b:c\r\nsec-websocket-key: d\r\n\r\nBody: e";
        let spelling = Spelling::read(head);
        let cases = [
            ("host", "Host"),
            ("x-apikey", "X-ApiKey"),
            ("sec-websocket-key", "sec-websocket-key"),
            ("body", "body"),
        ];
        for (name, expected) in cases {
            assert_eq!(spelling.of(name), expected, "case: {name}");
        }
    }
}
