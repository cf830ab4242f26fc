//! Fuzz targets: the parsers of what clients and operators send.

use bolero::check;
use http::Method;

use crate::{
    frames::decode::tests::decode_all,
    http_api::{HttpRoute, HttpRoutes, RouteKey},
    template::{self, FunctionNames},
};

#[test]
fn frames_of_clients() {
    check!().for_each(|input| {
        // The first byte is the size of the pieces in which the others arrive.
        let Some((size, bytes)) = input.split_first() else { return };
        let size = usize::from(*size).max(1);
        assert_eq!(decode_all(bytes, size), decode_all(bytes, bytes.len().max(1)));
    });
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
