//! Messages from clients, each of which invokes a function, and the gateway's own error messages.

use std::sync::Arc;

use crate::{
    clock,
    fault_rates::occurs,
    frames::encode,
    functions::FunctionError,
    ids,
    invocation::{InvocationError, invoke},
    sockets::socket::Socket,
    state::GatewayState,
    web_socket::events::EventBuilder,
    web_socket::response::ProxyResponse,
};

/// Starts the invocation for a message.
pub(crate) fn receive(state: &Arc<GatewayState>, socket: &Arc<Socket>, body: String) {
    let at = clock::now();
    socket.touch(at);
    if !state.sockets.admits_request() {
        return send_error(state, socket, "Too Many Requests", &ids::request(at));
    }
    let in_flight = InFlight::begin(state.clone(), socket.clone());
    state.tasks.spawn(async move {
        let InFlight { state, socket } = &in_flight;
        socket.address().place().await.run(route(state, socket, &body, at)).await;
    });
}

/// A message that a function is processing. Dropping it frees its slot, even if the function panics.
struct InFlight {
    state: Arc<GatewayState>,
    socket: Arc<Socket>,
}

impl InFlight {
    fn begin(state: Arc<GatewayState>, socket: Arc<Socket>) -> Self {
        socket.begin_message();
        Self { state, socket }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.socket.finish_message(self.state.sockets.limits().in_flight);
    }
}

async fn route(state: &GatewayState, socket: &Socket, body: &str, at: u64) {
    let config = &state.config;
    let request_id = ids::request(at);
    let Some((key, route)) = config.routes.select(&config.selection, body) else {
        return send_error(state, socket, "Forbidden", &request_id);
    };
    let builder =
        EventBuilder { api: &config.api, client: &socket.client, request_id: &request_id, at };
    let event = builder.message(key, body);
    let limit = state.sockets.limits().integration;
    let (address, functions) = (Some(socket.address()), &*state.functions);
    if occurs(state.sockets.faults().duplicated_message) {
        let _ = invoke(address, functions, &route.function, event.clone(), limit).await;
    }
    match invoke(address, functions, &route.function, event, limit).await {
        Ok(response) => match ProxyResponse::parse(&response) {
            Some(response) if route.is_two_way => {
                if let Some(message) = response.into_message() {
                    send(state, socket, &message);
                }
            }
            Some(_) => {}
            None => send_error(state, socket, "Internal server error", &request_id),
        },
        Err(InvocationError::TimedOut) => {
            send_error(state, socket, "Endpoint request timed out", &request_id);
        }
        Err(InvocationError::Function(
            FunctionError::Handled { .. } | FunctionError::Timeout | FunctionError::Unavailable(_),
        )) => send_error(state, socket, "Internal server error", &request_id),
    }
}

/// Sends an error message in the format of API Gateway, including its spaces.
fn send_error(state: &GatewayState, socket: &Socket, message: &str, request_id: &str) {
    let id = &socket.client.id;
    let frame =
        format!(r#"{{"message": "{message}", "connectionId":"{id}", "requestId":"{request_id}"}}"#);
    send(state, socket, &frame);
}

/// Sends a message to the client. If the client does not accept it, the message is dropped.
fn send(state: &GatewayState, socket: &Socket, message: &str) {
    let limits = state.sockets.limits();
    let frames = encode::text(message.as_bytes(), limits.frame_bytes);
    if socket.send(&frames, limits.send_buffer_bytes).is_ok() {
        socket.touch(clock::now());
    }
}
