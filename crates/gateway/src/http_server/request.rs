//! An HTTP request, with the fields that events need.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, Method, Version, header, request::Parts};
use serde::{Serialize, Serializer};
use url::form_urlencoded;

use crate::http_server::header_case::HeaderCase;

/// A request without its body.
#[derive(Debug)]
pub(crate) struct HttpRequest {
    pub(crate) version: Version,
    pub(crate) method: Method,
    /// The path as the client sent it, percent-encoded.
    pub(crate) path: String,
    /// The query string as the client sent it; empty if there is none.
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) header_case: HeaderCase,
    pub(crate) source_ip: IpAddr,
    /// The `Host` header, or the address to which the client connected.
    pub(crate) host: String,
    pub(crate) local_port: u16,
    /// The time of the request, in milliseconds since 1970.
    pub(crate) received_at: u64,
}

impl HttpRequest {
    pub(crate) fn new(
        parts: Parts,
        header_case: HeaderCase,
        peer: SocketAddr,
        local: SocketAddr,
        received_at: u64,
    ) -> Self {
        let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        Self {
            host: text(header::HOST).map_or_else(|| local.to_string(), str::to_owned),
            version: parts.version,
            method: parts.method,
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            headers: parts.headers,
            header_case,
            source_ip: peer.ip().to_canonical(),
            local_port: local.port(),
            received_at,
        }
    }

    /// Returns the size of the request line with the headers.
    pub(crate) fn head_bytes(&self) -> usize {
        let headers: usize =
            self.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        self.method.as_str().len() + self.path.len() + self.query.len() + 12 + headers
    }

    /// Returns the value of a header, if it is text.
    pub(crate) fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Whether one of a header's comma-separated values is `token`.
    pub(crate) fn header_has(&self, name: header::HeaderName, token: &str) -> bool {
        self.headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(token))
    }

    /// Returns the value of a query parameter, decoded.
    pub(crate) fn query_value(&self, name: &str) -> Option<String> {
        form_urlencoded::parse(self.query.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    }

    /// Returns the query parameters, decoded.
    pub(crate) fn query_fields(&self) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in form_urlencoded::parse(self.query.as_bytes()) {
            fields.push(name.into_owned(), value.into_owned());
        }
        fields
    }

    /// Returns the headers with the client's case, sorted by name as in API Gateway's events, and with
    /// the headers that API Gateway adds.
    pub(crate) fn forwarded_headers(&self) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in &self.headers {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            match name.as_str() {
                "x-forwarded-for" | "x-forwarded-port" | "x-forwarded-proto" => {}
                "x-amzn-trace-id" => fields.push("X-Amzn-Trace-Id".to_owned(), value),
                name => fields.push(self.header_case.of(name), value),
            }
        }
        if !self.headers.contains_key("x-amzn-trace-id") {
            fields.push("X-Amzn-Trace-Id".to_owned(), self.trace_id());
        }
        fields.push("X-Forwarded-For".to_owned(), self.forwarded_for());
        fields.push("X-Forwarded-Port".to_owned(), self.local_port.to_string());
        fields.push("X-Forwarded-Proto".to_owned(), "http".to_owned());
        fields.0.sort_by_cached_key(|(name, _)| name.to_ascii_lowercase());
        fields
    }

    /// Returns the addresses of the request's path: those in its header, and then the peer's.
    pub(crate) fn forwarded_for(&self) -> String {
        match self.header("x-forwarded-for") {
            Some(before) if !before.trim().is_empty() => format!("{before}, {}", self.source_ip),
            _ => self.source_ip.to_string(),
        }
    }

    /// Returns the source address that the nearest proxy reports.
    pub(crate) fn behind_proxy(&self) -> Option<IpAddr> {
        let last = self
            .headers
            .get_all("x-forwarded-for")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .next_back()?;
        let last = last.rsplit(',').next()?.trim();
        let with_port = || last.parse().map(|address: SocketAddr| address.ip());
        last.parse().or_else(|_| with_port()).ok().map(|address: IpAddr| address.to_canonical())
    }

    /// Generates a trace id in the format of X-Ray.
    pub(crate) fn trace_id(&self) -> String {
        let unique = rand::random::<u128>() >> 32;
        format!("Root=1-{:08x}-{unique:024x}", self.received_at / 1_000)
    }
}

/// Names with their values, in the order in which the names first occur.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields(Vec<(String, Vec<String>)>);

impl Fields {
    pub(crate) fn push(&mut self, name: String, value: String) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.push(value),
            None => self.0.push((name, vec![value])),
        }
    }

    pub(crate) fn without(mut self, names: &[&str]) -> Self {
        self.0.retain(|(name, _)| !names.iter().any(|other| name.eq_ignore_ascii_case(other)));
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns a JSON object with the last value of each name.
    pub(crate) fn single(&self) -> impl Serialize {
        AsMap(&self.0, |values: &Vec<String>| values.last().cloned().unwrap_or_default())
    }

    /// Returns a JSON object with an array of the values of each name.
    pub(crate) fn multi(&self) -> impl Serialize {
        AsMap(&self.0, Vec::clone)
    }

    /// Returns a JSON object with the values of each name joined by commas (payload format 2.0).
    pub(crate) fn joined(&self) -> impl Serialize {
        AsMap(&self.0, |values: &Vec<String>| values.join(","))
    }
}

struct AsMap<'a, F>(&'a [(String, Vec<String>)], F);

impl<V: Serialize, F: Fn(&Vec<String>) -> V> Serialize for AsMap<'_, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, values)| (name, (self.1)(values))))
    }
}
