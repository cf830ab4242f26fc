//! The name of a server, derived from its address.

/// Returns the name of a server in tokens and topics: its host, with the port if that is not the
/// default of the scheme.
pub fn host_of(url: &url::Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}
