//! WebSocket clients that check the number and measure the latency of every event. All of them share
//! one thread.

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

/// The size of the read buffer, which all clients share.
const READ_BYTES: usize = 256 * 1024;

/// The counts and the latencies of all clients together.
pub(super) struct Statistics {
    pub(super) epoch: Instant,
    pub(super) subscribed: Cell<usize>,
    pub(super) events: Cell<u64>,
    pub(super) messages: Cell<u64>,
    pub(super) lost: Cell<u64>,
    pub(super) closed: Cell<usize>,
    /// Microseconds from the exchange's send to the client's receipt.
    pub(super) latency: RefCell<Histogram<u64>>,
    buffer: RefCell<Vec<u8>>,
    id: Finder<'static>,
    time: Finder<'static>,
}

impl Statistics {
    /// Returns empty statistics. The exchange stamps its events with the time since `epoch`.
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

    /// Clears all counts that belong to one measurement.
    pub(super) fn reset(&self) {
        self.events.set(0);
        self.messages.set(0);
        self.lost.set(0);
        self.latency.borrow_mut().reset();
    }
}

/// Connects, subscribes to `topic`, and reads until the connection ends.
pub(super) async fn run(
    server: SocketAddr,
    topic: &str,
    statistics: &Statistics,
) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET /live HTTP/1.1\r\nhost: {server}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(
            stream
                .read_u8()
                .await
                .context("the server closed the connection during the handshake")?,
        );
    }
    ensure!(
        head.starts_with(b"HTTP/1.1 101"),
        "the server rejected the handshake: {}",
        String::from_utf8_lossy(&head)
    );
    let text = format!(r#"{{"action":"subscribe","topics":["{topic}"]}}"#);
    // A client must mask its frames. A mask of zeros leaves the text unchanged (RFC 6455, section 5.3).
    let mut frame = vec![0x81, 0x80 | u8::try_from(text.len())?, 0, 0, 0, 0];
    frame.extend_from_slice(text.as_bytes());
    stream.write_all(&frame).await?;
    let read = read(&stream, statistics).await;
    statistics.closed.set(statistics.closed.get() + 1);
    read
}

async fn read(stream: &TcpStream, statistics: &Statistics) -> anyhow::Result<()> {
    let mut rest: Vec<u8> = Vec::new();
    let mut last = 0;
    loop {
        stream.readable().await?;
        let mut buffer = statistics.buffer.borrow_mut();
        let size = match stream.try_read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(size) => size,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        };
        if rest.is_empty() {
            let used = frames(&buffer[..size], statistics, &mut last)?;
            rest.extend_from_slice(&buffer[used..size]);
        } else {
            rest.extend_from_slice(&buffer[..size]);
            let used = frames(&rest, statistics, &mut last)?;
            rest.drain(..used);
        }
    }
}

/// Handles the complete frames at the start of `bytes` and returns their size.
fn frames(bytes: &[u8], statistics: &Statistics, last: &mut u64) -> anyhow::Result<usize> {
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
        message(payload, statistics, last)?;
        used += head + size;
    }
}

fn message(payload: &[u8], statistics: &Statistics, last: &mut u64) -> anyhow::Result<()> {
    if payload.starts_with(br#"{"type":"subscribed""#) {
        statistics.subscribed.set(statistics.subscribed.get() + 1);
        return Ok(());
    }
    statistics.messages.set(statistics.messages.get() + 1);
    let now = u64::try_from(statistics.epoch.elapsed().as_nanos())?;
    let mut latency = statistics.latency.borrow_mut();
    let mut rest = payload;
    while let Some(at) = statistics.id.find(rest) {
        rest = &rest[at + statistics.id.needle().len()..];
        let id = number(rest);
        if *last > 0 && id > *last + 1 {
            statistics.lost.set(statistics.lost.get() + id - *last - 1);
        }
        if id <= *last {
            continue;
        }
        *last = id;
        statistics.events.set(statistics.events.get() + 1);
        if let Some(at) = statistics.time.find(rest) {
            let sent = number(&rest[at + statistics.time.needle().len()..]);
            latency
                .record(Duration::from_nanos(now.saturating_sub(sent)).as_micros().try_into()?)?;
        }
    }
    Ok(())
}

/// Parses the digits at the start.
fn number(bytes: &[u8]) -> u64 {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}
