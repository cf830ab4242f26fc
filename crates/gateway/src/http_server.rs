//! The HTTP side of the listening address: connections, requests and the gateway's own responses.

pub(crate) mod admission;
pub(crate) mod header_case;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod server;
