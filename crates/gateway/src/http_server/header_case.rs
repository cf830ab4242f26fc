//! The case of a client's header names.
//!
//! Events contain header names as the client wrote them, but hyper returns them in lower case. The
//! stream under hyper therefore records the head of each request, and the names are looked up there.

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

/// The most bytes of a head that are recorded.
const HEAD_BYTES: usize = 16 * 1_024;

/// The names of a request's headers as the client wrote them.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeaderCase(Vec<String>);

impl HeaderCase {
    /// Reads the names from a request's head.
    pub(crate) fn read(head: &[u8]) -> Self {
        let names = head
            .split(|byte| *byte == b'\n')
            .skip(1)
            .take_while(|line| !line.trim_ascii().is_empty())
            .filter_map(|line| line.split(|byte| *byte == b':').next())
            .filter_map(|name| Some(str::from_utf8(name).ok()?.to_owned()));
        Self(names.collect())
    }

    /// Returns `name`, which is in lower case, as the client wrote it.
    pub(crate) fn of(&self, name: &str) -> String {
        let original = self.0.iter().find(|original| original.eq_ignore_ascii_case(name));
        original.map_or_else(|| name.to_owned(), Clone::clone)
    }
}

/// The bytes of the current request's head, as far as they have been read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head(Arc<Mutex<Recorded>>);

#[derive(Debug, Default)]
struct Recorded {
    bytes: Vec<u8>,
    has_response: bool,
}

impl Head {
    /// Reads the names from the recorded head, and clears it.
    pub(crate) fn take(&self) -> HeaderCase {
        HeaderCase::read(&std::mem::take(&mut self.0.lock().bytes))
    }

    fn record(&self, bytes: &[u8]) {
        let mut recorded = self.0.lock();
        if std::mem::take(&mut recorded.has_response) {
            recorded.bytes.clear();
        }
        let room = HEAD_BYTES.saturating_sub(recorded.bytes.len());
        recorded.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// A TCP stream that records the head of the request that it reads.
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
        // Bytes that are read after a response belong to the next request.
        self.head.0.lock().has_response = true;
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
    fn finds_names_as_the_client_wrote_them() {
        let head = b"GET /live HTTP/1.1\r\nHost: a\r\nX-ApiKey: b:c\r\nsec-websocket-key: d\r\n\r\nBody: e";
        let names = HeaderCase::read(head);
        let cases = [
            ("host", "Host"),
            ("x-apikey", "X-ApiKey"),
            ("sec-websocket-key", "sec-websocket-key"),
            ("body", "body"),
        ];
        for (name, expected) in cases {
            assert_eq!(names.of(name), expected, "case: {name}");
        }
    }
}
