//! The listening socket, and the HTTP connections that it accepts.

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Limited};
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
    clock,
    fault_rates::occurs,
    http_api::handler,
    http_server::admission,
    http_server::header_case::{Head, Recorder},
    http_server::request::HttpRequest,
    http_server::response::{self, HttpResponse},
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
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts connections until the gateway shuts down.
pub(crate) async fn accept(state: &Arc<GatewayState>, listener: TcpListener) {
    let mut stopped = pin!(state.shutdown.cancelled());
    let mut is_limit_reported = false;
    loop {
        let accepted = tokio::select! {
            () = &mut stopped => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => match state.connections.clone().try_acquire_owned() {
                Ok(permit) => {
                    state.tasks.spawn(serve(state.clone(), stream, peer, permit));
                }
                Err(_) => {
                    if !std::mem::replace(&mut is_limit_reported, true) {
                        warn!("rejecting connections: connection limit reached");
                    }
                    continue;
                }
            },
            Err(error) => {
                warn!(%error, "could not accept a connection");
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
        is_limit_reported = false;
    }
}

/// Serves HTTP requests until one of them becomes a WebSocket.
async fn serve(
    state: Arc<GatewayState>,
    stream: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
) {
    let (Ok(local), Ok(())) = (stream.local_addr(), stream.set_nodelay(true)) else { return };
    let head = Head::default();
    let accepted: Arc<Mutex<Option<Accepted>>> = Arc::default();
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
            if state.config.trusts_proxies && request.source_ip.is_loopback() {
                request.source_ip = request.behind_proxy().unwrap_or(request.source_ip);
            }
            let state = state.clone();
            let accepted = accepted.clone();
            let due = due.clone();
            *due.lock() = None;
            Box::pin(async move {
                let response = respond(&state, request, body, &accepted).await;
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
        (Some(accepted), Err(_)) => {
            connection::disconnect(&state, &accepted.client, &CloseStatus::ABNORMAL).await;
        }
        (Some(accepted), Ok(())) => {
            // The WebSocket gets a task of its own, because the task of an HTTP connection is large.
            let is_half_open = occurs(state.sockets.faults().half_open);
            let rate = state.sockets.limits().messages;
            let socket = Arc::new(Socket::new(accepted.client, stream, is_half_open, rate));
            state.sockets.insert(&socket);
            let early = parts.read_buf.to_vec();
            state.tasks.clone().spawn(async move {
                connection::run(state, socket, early).await;
                drop(permit);
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
    accepted: &Mutex<Option<Accepted>>,
) -> HttpResponse {
    if let Err((status, message)) = admission::check(&state.config, &request) {
        return response::message(status, message);
    }
    let limits = state.sockets.limits();
    match target(state, &request) {
        Target::WebSocket => match handshake::accept(state.clone(), request).await {
            Ok((client, response)) => {
                *accepted.lock() = Some(client);
                response
            }
            Err(status) => response::rejected_handshake(status),
        },
        Target::Connection(id) => match read(body, limits.message_bytes, limits.http_read).await {
            Ok(body) => management::handle(state, &request, &id, body.as_ref()),
            Err(response) => response,
        },
        Target::Http if request.head_bytes() > limits.http_head_bytes => {
            response::error(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
        }
        Target::Http => match read(body, limits.http_body_bytes, limits.http_read).await {
            Ok(body) => handler::handle(state, &request, body).await,
            Err(response) => response,
        },
        Target::Forbidden => management::forbidden(),
    }
}

/// Reads a body. Returns `None` if it is larger than `limit`.
async fn read(body: Incoming, limit: usize, wait: Duration) -> Result<Option<Bytes>, HttpResponse> {
    if body.size_hint().lower() > limit as u64 {
        return Ok(None);
    }
    match time::timeout(wait, Limited::new(body, limit).collect()).await {
        Ok(Ok(body)) => Ok(Some(body.to_bytes())),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Ok(None),
        Ok(Err(_)) => Err(response::error(StatusCode::BAD_REQUEST)),
        Err(_) => Err(response::error(StatusCode::REQUEST_TIMEOUT)),
    }
}
