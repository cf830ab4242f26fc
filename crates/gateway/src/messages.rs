//! Messages from clients: one invocation each, and the frames API Gateway itself answers with.

use std::{sync::Arc, time::Duration};

use tokio::time;

use super::{
    Shared, clock, encode,
    events::Occasion,
    faults::strikes,
    functions::FunctionError,
    ids,
    invocation::{InvocationError, invoke},
    proxy::Answer,
    socket::Socket,
};

/// How long a message waits of a client that sends too fast.
const PAUSE: Duration = Duration::from_millis(100);

/// Starts the invocation for a message.
pub(super) fn receive(shared: &Arc<Shared>, socket: &Arc<Socket>, body: String) {
    let at = clock::now();
    socket.touch(at);
    if !shared.sockets.admits_request() {
        return send_error(shared, socket, "Too Many Requests", &ids::request(at));
    }
    let in_flight = InFlight::begin(shared.clone(), socket.clone());
    let keeps_pace = socket.keeps_pace();
    shared.tasks.spawn(async move {
        if !keeps_pace {
            // Its places are taken meanwhile, so nothing more is read from it.
            time::sleep(PAUSE).await;
        }
        route(&in_flight.shared, &in_flight.socket, &body, at).await;
    });
}

/// A message that a function works on. Also a function that panics gives its place back.
struct InFlight {
    shared: Arc<Shared>,
    socket: Arc<Socket>,
}

impl InFlight {
    fn begin(shared: Arc<Shared>, socket: Arc<Socket>) -> Self {
        socket.begin_message();
        Self { shared, socket }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.socket.finish_message(self.shared.sockets.limits().in_flight);
    }
}

async fn route(shared: &Shared, socket: &Socket, body: &str, at: u64) {
    let config = &shared.config;
    let request_id = ids::request(at);
    let Some((key, route)) = config.routes.select(&config.selection, body) else {
        return send_error(shared, socket, "Forbidden", &request_id);
    };
    let occasion =
        Occasion { api: &config.api, client: &socket.client, request_id: &request_id, at };
    let event = occasion.message(key, body);
    let limit = shared.sockets.limits().integration;
    if strikes(shared.sockets.faults().duplicated_message) {
        let _ = invoke(&*shared.functions, &route.function, event.clone(), limit).await;
    }
    match invoke(&*shared.functions, &route.function, event, limit).await {
        Ok(answer) => match Answer::parse(&answer) {
            Some(answer) if route.is_two_way => {
                if let Some(message) = answer.into_message() {
                    send(shared, socket, &message);
                }
            }
            Some(_) => {}
            None => send_error(shared, socket, "Internal server error", &request_id),
        },
        Err(InvocationError::TimedOut) => {
            send_error(shared, socket, "Endpoint request timed out", &request_id);
        }
        Err(InvocationError::Function(
            FunctionError::Handled { .. } | FunctionError::Timeout | FunctionError::Unavailable(_),
        )) => send_error(shared, socket, "Internal server error", &request_id),
    }
}

/// Sends one of API Gateway's own frames, spaced as API Gateway spaces it.
fn send_error(shared: &Shared, socket: &Socket, message: &str, request_id: &str) {
    let id = &socket.client.id;
    let frame =
        format!(r#"{{"message": "{message}", "connectionId":"{id}", "requestId":"{request_id}"}}"#);
    send(shared, socket, &frame);
}

/// Sends an answer. There is nobody to tell if the client does not take it.
fn send(shared: &Shared, socket: &Socket, message: &str) {
    let limits = shared.sockets.limits();
    let frames = encode::text(message.as_bytes(), limits.frame_bytes);
    if socket.send(&frames, limits.send_buffer_bytes).is_ok() {
        socket.touch(clock::now());
    }
}
