//! The id of a WebSocket connection.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// The id that API Gateway gave a WebSocket connection.
///
/// Opaque: on AWS it is 16 characters of URL-safe base64 that end in `=`; other gateways differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConnectionId(Arc<str>);

impl ConnectionId {
    /// Wraps an id as it came from the gateway.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(id.into())
    }

    /// Returns the id as the gateway wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_shown_as_the_gateway_wrote_it() {
        let id = ConnectionId::new("TXzPWdnOjoECGjA=");
        assert_eq!(id.as_str(), "TXzPWdnOjoECGjA=");
        assert_eq!(id.to_string(), "TXzPWdnOjoECGjA=");
    }
}
