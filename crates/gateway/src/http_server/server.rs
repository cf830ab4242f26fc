//! The listening socket, and the HTTP connections that it accepts.

use std::{
    future::{Future, poll_fn},
    io,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt;
use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use socket2::{Domain, Protocol, Type};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::OwnedSemaphorePermit,
    time::{self, Instant},
};
use tracing::{debug, warn};

use crate::{
    addresses::{Address, Counted},
    clock,
    fault_rates::occurs,
    http_api::handler,
    http_server::admission,
    http_server::header_case::{Head, Recorder},
    http_server::request::HttpRequest,
    http_server::response::{self, HttpResponse},
    limits::GatewayLimits,
    management,
    sockets::socket::{CloseStatus, Socket},
    state::GatewayState,
    web_socket::connection,
    web_socket::handshake::{self, Accepted},
};

/// The number of TCP connections that the kernel queues for the accept loop.
const BACKLOG: i32 = 4_096;

/// The size of an HTTP connection's buffer. A WebSocket has no buffer.
const HTTP_BUFFER_BYTES: usize = 16 * 1_024;

/// The kernel's receive buffer of a connection. What a client sends faster than the gateway reads waits with the
/// client. The kernel would hold up to 6 MB.
const RECEIVE_BUFFER_BYTES: usize = 128 * 1_024;

/// How often rejected connections are reported, at most.
const REPORT_EVERY: Duration = Duration::from_mins(1);

/// The wait of the accept loop after an error, for example when the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Opens the listening socket. Connections inherit its options.
pub(crate) fn listen(address: SocketAddr, send_buffer_bytes: usize) -> io::Result<TcpListener> {
    let domain = Domain::for_address(address);
    let socket = socket2::Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // The kernel doubles the requested size, to have room for its own bookkeeping.
    socket.set_send_buffer_size(send_buffer_bytes / 2)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES / 2)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts connections until the gateway shuts down.
pub(crate) async fn accept(state: &Arc<GatewayState>, listener: TcpListener) {
    let mut stopped = pin!(state.shutdown.cancelled());
    let mut reported_at: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            () = &mut stopped => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => match admit(state, peer) {
                Ok(admitted) => {
                    state.tasks.spawn(serve(state.clone(), stream, peer, admitted));
                }
                Err(limit) => {
                    if reported_at.is_none_or(|at| at.elapsed() > REPORT_EVERY) {
                        warn!(%peer, "rejecting connections: {limit} reached");
                        reported_at = Some(Instant::now());
                    }
                }
            },
            Err(error) => {
                warn!(%error, "could not accept a connection");
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A TCP connection that counts, until this is dropped.
struct Admitted {
    _permit: OwnedSemaphorePermit,
    /// The address for which it counts.
    counted: Option<Counted>,
}

/// A connection that becomes a WebSocket.
struct Upgrade {
    accepted: Accepted,
    /// Set if the client is behind a proxy: the address for which it counts from now on.
    proxied: Option<Counted>,
}

/// Admits a connection, or returns the name of the limit that it exceeds.
fn admit(state: &GatewayState, peer: SocketAddr) -> Result<Admitted, &'static str> {
    let address = peer.ip().to_canonical();
    let counted = if state.config.trusts(address) {
        // A proxy connects for many clients.
        None
    } else {
        Some(state.addresses.count(address).ok_or("the connection limit of an address")?)
    };
    let permit =
        state.connections.clone().try_acquire_owned().map_err(|_| "the connection limit")?;
    Ok(Admitted { _permit: permit, counted })
}

/// Serves HTTP requests until one of them becomes a WebSocket.
async fn serve(
    state: Arc<GatewayState>,
    stream: TcpStream,
    peer: SocketAddr,
    mut admitted: Admitted,
) {
    let (Ok(local), Ok(())) = (stream.local_addr(), stream.set_nodelay(true)) else { return };
    let head = Head::default();
    let accepted: Arc<Mutex<Option<Upgrade>>> = Arc::default();
    // When the client must have received the last response. Then it waits for the next request, or has
    // already been closed because there was none.
    let due: Arc<Mutex<Option<Instant>>> = Arc::default();
    let service = {
        let state = state.clone();
        let head = head.clone();
        let accepted = accepted.clone();
        let due = due.clone();
        service_fn(move |request: http::Request<Incoming>| {
            let (parts, body) = request.into_parts();
            let now = clock::now();
            let mut request = HttpRequest::new(parts, head.take(), peer, local, now);
            if let Some(domain) = &state.config.domain {
                request.host.clone_from(domain);
            }
            if state.config.trusts(request.source_ip) {
                request.source_ip = request.behind_proxy().unwrap_or(request.source_ip);
            }
            let state = state.clone();
            let accepted = accepted.clone();
            let due = due.clone();
            *due.lock() = None;
            Box::pin(async move {
                let response = respond(&state, request, body, peer, &accepted).await;
                *due.lock() = Some(Instant::now() + time_to_write(&state, &response));
                Ok::<_, std::convert::Infallible>(response)
            })
        })
    };
    let mut http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(state.sockets.limits().http_read)
        .max_buf_size(HTTP_BUFFER_BYTES)
        .serve_connection(TokioIo::new(Recorder::new(stream, head)), service);
    let served = {
        let mut stopped = pin!(state.shutdown.cancelled());
        let mut is_stopping = false;
        let mut overdue = pin!(time::sleep(Duration::ZERO));
        poll_fn(|cx| {
            if !is_stopping && stopped.as_mut().poll(cx).is_ready() {
                is_stopping = true;
                Pin::new(&mut http).graceful_shutdown();
            }
            let served = http.poll_without_shutdown(cx).map(Some);
            let Some(due) = *due.lock() else { return served };
            if served.is_ready() {
                return served;
            }
            if overdue.deadline() != due {
                overdue.as_mut().reset(due);
            }
            overdue.as_mut().poll(cx).map(|()| None)
        })
        .await
    };
    let Some(served) = served else {
        debug!("closed a connection whose client does not read");
        return;
    };
    let parts = http.into_parts();
    let mut stream = parts.io.into_inner().into_inner();
    let accepted = accepted.lock().take();
    match (accepted, served) {
        (None, Ok(())) => {
            // An error means that the client has already closed the connection.
            let _ = stream.shutdown().await;
        }
        (None, Err(error)) => debug!(%error, "HTTP connection failed"),
        (Some(Upgrade { accepted, .. }), Err(_)) => {
            connection::disconnect(&state, &accepted.client, &CloseStatus::ABNORMAL).await;
        }
        (Some(Upgrade { accepted, proxied }), Ok(())) => {
            // The WebSocket gets a task of its own, because the task of an HTTP connection is large.
            let is_half_open = occurs(state.sockets.faults().half_open);
            admitted.counted = proxied.or(admitted.counted);
            let address = state.addresses.of(accepted.client.source_ip);
            let limits = state.sockets.limits();
            let socket = Socket::new(accepted.client, stream, is_half_open, limits, address);
            let socket = Arc::new(socket);
            state.sockets.insert(&socket);
            let early = parts.read_buf.to_vec();
            state.tasks.clone().spawn(async move {
                connection::run(state, socket, early).await;
                drop(admitted);
            });
        }
    }
}

/// Returns how long a client may take to receive a response.
fn time_to_write(state: &GatewayState, response: &HttpResponse) -> Duration {
    let limits = state.sockets.limits();
    let bytes = u32::try_from(response.body().size_hint().lower()).unwrap_or(u32::MAX);
    limits.http_write + Duration::from_secs(1) * bytes / limits.http_write_rate
}

/// The part of the gateway that handles a request.
enum Target {
    WebSocket,
    Connection(String),
    Http,
    Forbidden,
}

fn target(state: &GatewayState, request: &HttpRequest) -> Target {
    let path = percent_decode_str(&request.path).decode_utf8_lossy();
    let stage = &state.config.api.stage;
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match segments[..] {
        [first] | [first, ""] if first == stage => Target::WebSocket,
        [first, "@connections", id] if first == stage => Target::Connection(id.to_owned()),
        [_, "@connections", ..] | ["@connections", ..] => Target::Forbidden,
        _ if handshake::is_upgrade(request) => Target::Forbidden,
        _ => Target::Http,
    }
}

async fn respond(
    state: &Arc<GatewayState>,
    request: HttpRequest,
    body: Incoming,
    peer: SocketAddr,
    accepted: &Mutex<Option<Upgrade>>,
) -> HttpResponse {
    // A client can send many requests at once. Between two of them, it is the turn of others.
    tokio::task::yield_now().await;
    if let Err((status, message)) = admission::check(&state.config, &request) {
        return response::message(status, message);
    }
    let limits = state.sockets.limits();
    match target(state, &request) {
        Target::WebSocket => {
            let Ok(proxied) = count_proxied(state, peer, request.source_ip) else {
                return response::rejected_handshake(StatusCode::TOO_MANY_REQUESTS);
            };
            match handshake::accept(state.clone(), request).await {
                Ok((client, response)) => {
                    *accepted.lock() = Some(Upgrade { accepted: client, proxied });
                    response
                }
                Err(status) => response::rejected_handshake(status),
            }
        }
        Target::Connection(id) => {
            if let Some(response) = management::refuse(state, &request, &id) {
                return response;
            }
            match read(body, limits.message_bytes, limits, None).await {
                Ok(body) => management::handle(state, &request, &id, body.as_ref()),
                Err(response) => response,
            }
        }
        Target::Http if request.head_bytes() > limits.http_head_bytes => {
            response::error(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
        }
        Target::Http => match handle(state, &request, body, peer).await {
            Ok(response) | Err(response) => response,
        },
        Target::Forbidden => management::forbidden(),
    }
}

/// Handles a request to the HTTP API when it is the turn of the client's address. Its body is read when the
/// address has room for it.
async fn handle(
    state: &Arc<GatewayState>,
    request: &HttpRequest,
    body: Incoming,
    peer: SocketAddr,
) -> Result<HttpResponse, HttpResponse> {
    let limits = state.sockets.limits();
    let most = limits.http_body_bytes;
    let is_from_proxy = state.config.trusts(peer.ip().to_canonical());
    let is_for_client = request.headers.contains_key("x-forwarded-for");
    if is_from_proxy && !is_for_client && request.path == "/healthz" {
        // The health check of a load balancer must not wait for clients.
        let body = read(body, most, limits, None).await?;
        return Ok(handler::handle(state, None, request, body).await);
    }
    let address = state.addresses.of(request.source_ip);
    address.request().await;
    let needed = match body.size_hint().upper().map(usize::try_from) {
        Some(Ok(length)) if length <= most => length,
        // Such a body is not read.
        Some(_) => 0,
        // Its length is not known.
        None => most,
    };
    let Ok(room) = time::timeout(limits.http_read, address.room(needed)).await else {
        return Err(response::error(StatusCode::TOO_MANY_REQUESTS));
    };
    let body = read(body, most, limits, Some(&address)).await?;
    let length = body.as_ref().map_or(0, Bytes::len);
    // The room that the body does not need is given back now, and the rest after the response.
    let _used = room.and_then(|mut room| room.split(length.min(room.num_permits())));
    Ok(address.place().await.run(handler::handle(state, Some(&address), request, body)).await)
}

/// Counts a WebSocket for the address of its client, if the client is behind a proxy. Fails if that address has
/// too many.
fn count_proxied(
    state: &GatewayState,
    peer: SocketAddr,
    client: IpAddr,
) -> Result<Option<Counted>, ()> {
    if client == peer.ip().to_canonical() {
        return Ok(None);
    }
    state.addresses.count(client).map(Some).ok_or(())
}

/// Reads a body, for whose bytes an address pays. Returns `None` if it has more than `most` bytes.
async fn read(
    mut body: Incoming,
    most: usize,
    limits: &GatewayLimits,
    address: Option<&Address>,
) -> Result<Option<Bytes>, HttpResponse> {
    if body.size_hint().lower() > most as u64 {
        return Ok(None);
    }
    let mut received = BytesMut::new();
    let mut deadline = Instant::now() + limits.http_read;
    loop {
        let data = match time::timeout_at(deadline, body.frame()).await {
            Err(_) => return Err(response::error(StatusCode::REQUEST_TIMEOUT)),
            Ok(Some(Err(_))) => return Err(response::error(StatusCode::BAD_REQUEST)),
            Ok(None) => return Ok(Some(received.freeze())),
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => data,
                // Trailers.
                Err(_) => continue,
            },
        };
        if data.len() > most - received.len() {
            return Ok(None);
        }
        received.extend_from_slice(&data);
        let wait = address.map_or(Duration::ZERO, |address| address.bytes().spend(data.len()));
        if !wait.is_zero() {
            time::sleep(wait).await;
        }
        let bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
        deadline += wait + Duration::from_secs(1) * bytes / limits.http_read_rate;
    }
}
