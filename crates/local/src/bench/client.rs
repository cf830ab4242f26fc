//! Many WebSocket clients in one thread, each of which checks every number and every time.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use hdrhistogram::Histogram;
use memchr::memmem::Finder;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Bytes read at a time, by all clients into the same buffer.
const READ_BYTES: usize = 256 * 1024;

/// What all clients have seen together.
pub(super) struct Seen {
    pub(super) epoch: Instant,
    pub(super) subscribed: Cell<usize>,
    pub(super) events: Cell<u64>,
    pub(super) messages: Cell<u64>,
    pub(super) lost: Cell<u64>,
    pub(super) closed: Cell<usize>,
    /// Microseconds from an event's sending to its receipt.
    pub(super) latency: RefCell<Histogram<u64>>,
    buffer: RefCell<Vec<u8>>,
    id: Finder<'static>,
    time: Finder<'static>,
}

impl Seen {
    /// Nothing yet; times are since `epoch`.
    pub(super) fn new(epoch: Instant) -> anyhow::Result<Rc<Self>> {
        Ok(Rc::new(Self {
            epoch,
            subscribed: Cell::default(),
            events: Cell::default(),
            messages: Cell::default(),
            lost: Cell::default(),
            closed: Cell::default(),
            latency: RefCell::new(Histogram::new(3)?),
            buffer: RefCell::new(vec![0; READ_BYTES]),
            id: Finder::new(b"\"trade_id\":"),
            time: Finder::new(b"\"taker_order_id\":\""),
        }))
    }

    /// Forgets what was counted so far.
    pub(super) fn reset(&self) {
        self.events.set(0);
        self.messages.set(0);
        self.lost.set(0);
        self.latency.borrow_mut().reset();
    }
}

/// Connects, subscribes to `topic`, and reads until the connection ends.
pub(super) async fn run(server: SocketAddr, topic: &str, seen: &Seen) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET /live HTTP/1.1\r\nhost: {server}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.context("the handshake ended early")?);
    }
    ensure!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    let text = format!(r#"{{"action":"subscribe","topics":["{topic}"]}}"#);
    // A client's frame is masked; a mask of zeros leaves the text as it is (RFC 6455, section 5.3).
    let mut frame = vec![0x81, 0x80 | u8::try_from(text.len())?, 0, 0, 0, 0];
    frame.extend_from_slice(text.as_bytes());
    stream.write_all(&frame).await?;
    let read = read(&stream, seen).await;
    seen.closed.set(seen.closed.get() + 1);
    read
}

async fn read(stream: &TcpStream, seen: &Seen) -> anyhow::Result<()> {
    let mut rest: Vec<u8> = Vec::new();
    let mut last = 0;
    loop {
        stream.readable().await?;
        let mut buffer = seen.buffer.borrow_mut();
        let size = match stream.try_read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(size) => size,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        };
        if rest.is_empty() {
            let used = frames(&buffer[..size], seen, &mut last)?;
            rest.extend_from_slice(&buffer[used..size]);
        } else {
            rest.extend_from_slice(&buffer[..size]);
            let used = frames(&rest, seen, &mut last)?;
            rest.drain(..used);
        }
    }
}

/// Takes the whole frames at the front of `bytes` and returns their size.
fn frames(bytes: &[u8], seen: &Seen, last: &mut u64) -> anyhow::Result<usize> {
    let mut used = 0;
    loop {
        let (head, size) = match &bytes[used..] {
            [_, size, ..] if *size < 126 => (2, usize::from(*size)),
            [_, 126, a, b, ..] => (4, usize::from(u16::from_be_bytes([*a, *b]))),
            [_, 127, rest @ ..] => match rest.first_chunk() {
                Some(size) => (10, usize::try_from(u64::from_be_bytes(*size))?),
                None => return Ok(used),
            },
            _ => return Ok(used),
        };
        let Some(payload) = bytes.get(used + head..used + head + size) else { return Ok(used) };
        if bytes[used] & 0x0f == 8 {
            bail!("the server closed the connection");
        }
        message(payload, seen, last)?;
        used += head + size;
    }
}

fn message(payload: &[u8], seen: &Seen, last: &mut u64) -> anyhow::Result<()> {
    if payload.starts_with(br#"{"type":"subscribed""#) {
        seen.subscribed.set(seen.subscribed.get() + 1);
        return Ok(());
    }
    seen.messages.set(seen.messages.get() + 1);
    let now = u64::try_from(seen.epoch.elapsed().as_nanos())?;
    let mut latency = seen.latency.borrow_mut();
    let mut rest = payload;
    while let Some(at) = seen.id.find(rest) {
        rest = &rest[at + seen.id.needle().len()..];
        let id = number(rest);
        if *last > 0 && id > *last + 1 {
            seen.lost.set(seen.lost.get() + id - *last - 1);
        }
        if id <= *last {
            continue;
        }
        *last = id;
        seen.events.set(seen.events.get() + 1);
        if let Some(at) = seen.time.find(rest) {
            let sent = number(&rest[at + seen.time.needle().len()..]);
            latency
                .record(Duration::from_nanos(now.saturating_sub(sent)).as_micros().try_into()?)?;
        }
    }
    Ok(())
}

/// The digits at the front.
fn number(bytes: &[u8]) -> u64 {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}
