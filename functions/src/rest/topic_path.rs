//! Topics in the paths of requests.

use axum::http::{StatusCode, Uri};
use domain::topic::{Topic, TopicError};

use super::problem::Problem;

/// Reads the topic that follows `prefix`, from the path as it was sent: topics contain percent-encoding
/// of their own.
pub(super) fn topic_in_path(uri: &Uri, prefix: &str) -> Result<Topic, Problem> {
    // API Gateway puts the stage in front of the path.
    let path = uri.path();
    let start = path.find(prefix).map_or(0, |at| at + prefix.len());
    let text = path[start..].replace("%2F", "/").replace("%2f", "/");
    Topic::parse(&text).map_err(|error| match error {
        TopicError::NoSuchChannel => Problem::new(StatusCode::NOT_FOUND, error.to_string()),
        TopicError::TooLong | TopicError::Malformed | TopicError::BadKey => {
            Problem::unprocessable(error.to_string())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_read_with_and_without_a_stage() {
        let cases = [
            ("/api/v1/history/mastodon/public", Ok("mastodon/public")),
            ("/live/api/v1/history/mastodon/public", Ok("mastodon/public")),
            ("/api/v1/history/coinbase%2Fticker%2fBTC-USD", Ok("coinbase/ticker/BTC-USD")),
            ("/api/v1/history/mastodon/tag/caf%C3%A9", Ok("mastodon/tag/caf%C3%A9")),
            ("/api/v1/history/coinbase/full/BTC-USD", Err(404)),
            ("/api/v1/history/coinbase/ticker/btc", Err(422)),
        ];
        for (path, expected) in cases {
            let uri: Uri = path.parse().expect("a path");
            let topic = topic_in_path(&uri, "/api/v1/history/");
            let actual = topic.as_ref().map(Topic::as_str).map_err(|problem| problem.status);
            assert_eq!(actual, expected, "case: {path}");
        }
    }
}
