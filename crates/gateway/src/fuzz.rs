//! Fuzz targets: the parsers of what clients and operators send.

use bolero::check;
use http::Method;

use crate::{
    frames::decode::{ClientMessage, Decoder},
    http_api::{HttpRoute, HttpRoutes, RouteKey},
    limits::GatewayLimits,
    template::{self, FunctionNames},
};

#[test]
fn frames_of_clients() {
    check!().for_each(|input| {
        // The first byte is the size of the pieces in which the others arrive.
        let Some((size, bytes)) = input.split_first() else { return };
        let size = usize::from(*size).max(1);
        assert_eq!(decode(bytes, size), decode(bytes, bytes.len().max(1)));
    });
}

/// Decodes frames that arrive in pieces. Returns what they are, and what is wrong with the last one.
fn decode(bytes: &[u8], size: usize) -> Vec<String> {
    let mut decoder = Decoder::default();
    let mut decoded = Vec::new();
    for mut piece in bytes.chunks(size) {
        loop {
            match decoder.decode(&mut piece, &GatewayLimits::default()) {
                // How many there are depends on the pieces.
                Ok(Some(ClientMessage::Fragment)) => {}
                Ok(Some(message @ ClientMessage::Close(_))) => {
                    decoded.push(format!("{message:?}"));
                    return decoded;
                }
                Ok(Some(message)) => decoded.push(format!("{message:?}")),
                Ok(None) => break,
                Err(violation) => {
                    decoded.push(format!("{violation:?}"));
                    return decoded;
                }
            }
        }
    }
    decoded
}

#[test]
fn paths() {
    let mut routes = HttpRoutes::default();
    for key in ["$default", "GET /items/{id}", "GET /files/{path+}"] {
        let key = RouteKey::parse(key).expect("a key");
        routes.push(HttpRoute { key, function: "f".to_owned(), authorizer: None });
    }
    check!().for_each(|input| {
        if let Ok(path) = str::from_utf8(input) {
            assert!(routes.select(&Method::GET, path).is_some());
            let _ = RouteKey::parse(path);
        }
    });
}

#[test]
fn templates() {
    check!().for_each(|input| {
        if let Ok(text) = str::from_utf8(input) {
            match template::parse(text, FunctionNames::default()) {
                Ok(apis) => drop(apis.to_string()),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    });
}
