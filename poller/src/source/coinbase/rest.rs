//! The REST interface of the exchange: the list of products, and missed trades.

use std::{borrow::Cow, ops::RangeInclusive, sync::Arc, time::Duration};

use aws::control::Product;
use bytes::Bytes;
use domain::{backoff::Backoff, chain::Chain, pace::TokenBucket, topic::Topic};
use parking_lot::Mutex;
use reqwest::{
    StatusCode, Url,
    header::{ACCEPT, HeaderMap, HeaderValue},
};
use serde::{Deserialize, Serialize};
use tokio::time::{self, Instant};
use tracing::warn;

use crate::{
    long_work,
    outside::{Get, GetError, Outside, Response},
    source::http::{below, retry_after},
};

/// Longest time that a request takes.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);

/// Most bytes of a response. The largest is the list of products, with about half a megabyte.
const MAX_BODY_BYTES: usize = 2 * 1024 * 1024;

/// Number of trades on a page.
const PAGE: u64 = 1_000;
/// Most pages that are fetched for one hole.
const MAX_PAGES: u32 = 20;
/// Attempts to fetch one page.
const ATTEMPTS: u32 = 3;
/// Longest time to fill a hole. Trades are held meanwhile.
const FILL_WITHIN: Duration = Duration::from_secs(30);

/// The REST interface of the exchange. Clones share the connections and the rate limit.
#[derive(Clone)]
pub(super) struct Rest {
    outside: Outside,
    base: Url,
    pace: Arc<Mutex<TokenBucket>>,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RestError {
    /// No response.
    #[error("no response from the exchange")]
    NoResponse(#[source] GetError),
    /// A response with an error status.
    #[error("the exchange answered with status {status}")]
    Status { status: StatusCode, retry_after: Option<Duration> },
    /// A response that is too large.
    #[error("response is larger than {MAX_BODY_BYTES} bytes")]
    TooLarge,
    /// A response in an unexpected format.
    #[error("response has an unexpected format")]
    Format(#[source] serde_json::Error),
}

impl RestError {
    /// Returns how long the exchange asks the client to wait.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::NoResponse(_) | Self::TooLarge | Self::Format(_) => None,
        }
    }

    /// Returns whether the same request may succeed later.
    fn is_retryable(&self) -> bool {
        match self {
            Self::Status { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::NoResponse(_) => true,
            Self::TooLarge | Self::Format(_) => false,
        }
    }
}

#[derive(Deserialize)]
struct Listed<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, default)]
    status: Cow<'a, str>,
    #[serde(default)]
    trading_disabled: bool,
}

#[derive(Deserialize)]
struct Trade<'a> {
    #[serde(rename = "trade_id")]
    id: u64,
    #[serde(borrow)]
    side: Cow<'a, str>,
    #[serde(borrow)]
    size: Cow<'a, str>,
    #[serde(borrow)]
    price: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
}

/// A trade from the REST interface in the format of a message.
#[derive(Serialize)]
struct Recovered<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    trade_id: u64,
    side: &'a str,
    size: &'a str,
    price: &'a str,
    product_id: &'a str,
    time: &'a str,
    backfilled: bool,
}

impl Rest {
    /// Makes the interface at `base`.
    pub(super) fn new(base: Url, outside: Outside) -> Self {
        // The exchange allows 10 requests a second from an address.
        let pace = TokenBucket::every(Duration::from_millis(125), 8);
        Self { outside, base, pace: Arc::new(Mutex::new(pace)) }
    }

    /// Fetches all products whose id is a pair.
    pub(super) async fn products(&self) -> Result<Vec<Product>, RestError> {
        let response = self.get(below(&self.base, &["products"])).await?;
        let body = &response.body;
        let listed = long_work::on_input(body.len(), || serde_json::from_slice(body));
        let listed: Vec<Listed<'_>> = listed.map_err(RestError::Format)?;
        let pairs = listed.into_iter().filter(|it| Topic::coinbase("ticker", &it.id).is_ok());
        Ok(pairs
            .map(|it| Product {
                online: it.status == "online" && !it.trading_disabled,
                id: it.id.into_owned(),
            })
            .collect())
    }

    /// Fetches trades of a product, newest first, each as a message.
    ///
    /// Stops after a time limit, and returns the trades found so far. If there are too many trades,
    /// returns the newest.
    pub(super) async fn trades(
        &self,
        product: &str,
        ids: &RangeInclusive<u64>,
    ) -> Vec<(u64, Bytes)> {
        let mut time_left = FILL_WITHIN;
        let mut found = Vec::new();
        let mut after = ids.end().saturating_add(1);
        for _ in 0..MAX_PAGES {
            if after <= *ids.start() || time_left.is_zero() {
                break;
            }
            let Some(page) = self.retried_page(product, after, &mut time_left).await else { break };
            found.extend(page.trades.into_iter().filter(|(id, _)| ids.contains(id)));
            match page.oldest {
                Some(oldest) if oldest < after => after = oldest,
                _ => break,
            }
        }
        found
    }

    /// Fetches the page of trades older than `after`, in several attempts while there is time left. Returns what
    /// came last.
    async fn retried_page(
        &self,
        product: &str,
        after: u64,
        time_left: &mut Duration,
    ) -> Option<Page> {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(4));
        let mut received = None;
        for attempt in 1..=ATTEMPTS {
            let started = Instant::now();
            let page = self.page(product, after).await;
            // A request that took longer was answered, but the process was frozen.
            *time_left = time_left.saturating_sub(started.elapsed().min(REQUEST_WITHIN));
            let retry_after = match page {
                Ok(page) => {
                    // The newest trades reach the REST interface a moment later than the WebSocket feed.
                    let is_behind = page.is_behind(after);
                    received = Some(page);
                    if !is_behind {
                        break;
                    }
                    None
                }
                Err(error) => {
                    warn!(product, error = %Chain(&error), "could not fetch missed trades");
                    if !error.is_retryable() {
                        break;
                    }
                    error.retry_after()
                }
            };
            let delay = backoff.next_delay().max(retry_after.unwrap_or_default());
            if attempt == ATTEMPTS || delay >= *time_left {
                break;
            }
            *time_left -= delay;
            time::sleep(delay).await;
        }
        received
    }

    /// Fetches the page of trades older than `after`.
    async fn page(&self, product: &str, after: u64) -> Result<Page, RestError> {
        let mut url = below(&self.base, &["products", product, "trades"]);
        url.set_query(Some(&format!("limit={PAGE}&after={after}")));
        let Response { headers, body, .. } = self.get(url).await?;
        let trades: Vec<Trade<'_>> = serde_json::from_slice(&body).map_err(RestError::Format)?;
        let next_page = headers.get("cb-after").and_then(|id| id.to_str().ok()?.parse().ok());
        let oldest = next_page.or_else(|| trades.iter().map(|trade| trade.id).min());
        let messages = trades.iter().map(|trade| Ok((trade.id, message(product, trade)?)));
        let trades = messages.collect::<Result<_, _>>().map_err(RestError::Format)?;
        Ok(Page { trades, oldest })
    }

    async fn get(&self, url: Url) -> Result<Response, RestError> {
        let wait = self.pace.lock().reserve(Instant::now().into_std());
        time::sleep(wait).await;
        let headers =
            HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
        let request = Get { url, headers, max_bytes: MAX_BODY_BYTES, within: REQUEST_WITHIN };
        let response = self.outside.network.get(request).await.map_err(|error| match error {
            GetError::TooLarge => RestError::TooLarge,
            GetError::NoResponse(_) => RestError::NoResponse(error),
        })?;
        let status = response.status;
        if !status.is_success() {
            let retry_after = retry_after(&response.headers, self.outside.clock.now());
            return Err(RestError::Status { status, retry_after });
        }
        Ok(response)
    }
}

/// A page of trades.
struct Page {
    trades: Vec<(u64, Bytes)>,
    /// Where the next page starts.
    oldest: Option<u64>,
}

impl Page {
    /// Returns whether the trade just before `after` is missing, although it exists.
    fn is_behind(&self, after: u64) -> bool {
        self.trades.iter().all(|(id, _)| *id != after - 1)
    }
}

fn message(product: &str, trade: &Trade<'_>) -> serde_json::Result<Bytes> {
    let Trade { id: trade_id, side, size, price, time } = trade;
    let recovered = Recovered {
        kind: "match",
        trade_id: *trade_id,
        side,
        size,
        price,
        product_id: product,
        time,
        backfilled: true,
    };
    serde_json::to_vec(&recovered).map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use axum::{Json, body::Body, http, http::request::Parts, response::IntoResponse as _};
    use domain::clock::Clock;
    use futures_util::future::BoxFuture;
    use jiff::Timestamp;
    use serde_json::{Value, json};
    use simulator::{ExchangeServer, script::ScriptedServer};
    use tokio_tungstenite::tungstenite::{Error, handshake::client::Request};

    use super::*;
    use crate::outside::{Network, Reach, Socket};

    fn client(base: &str) -> Rest {
        let outside = Outside::real("headwater/test", &[]).expect("a client");
        Rest::new(base.parse().expect("a URL"), outside)
    }

    /// Starts an exchange that answers each request by `respond`, which gets the number of earlier
    /// requests.
    async fn scripted<F>(respond: F) -> (ScriptedServer, Rest)
    where
        F: Fn(usize, &str) -> http::Response<Body> + Clone + Send + Sync + 'static,
    {
        let count = Arc::new(Mutex::new(0));
        let respond = move |request: &Parts| {
            let mut count = count.lock();
            *count += 1;
            respond(*count - 1, request.uri.path())
        };
        let server = ScriptedServer::start(respond).await.expect("a port");
        let rest = client(&format!("http://{}", server.address()));
        (server, rest)
    }

    /// Starts an exchange with this many trades. Returns the id of the first.
    async fn exchange_with(trades: u64) -> (ExchangeServer, Rest, u64) {
        let server = ExchangeServer::start().await.expect("a port");
        let first = server.newest_trade("BTC-USD") + 1;
        for _ in 0..trades {
            server.trade_unstreamed("BTC-USD");
        }
        let rest = client(&server.rest_url());
        (server, rest, first)
    }

    fn trade(id: u64) -> Value {
        json!({"trade_id": id, "side": "buy", "size": "1", "price": "2", "time": "t"})
    }

    fn ids(found: &[(u64, Bytes)]) -> Vec<u64> {
        found.iter().map(|(id, _)| *id).collect()
    }

    #[tokio::test]
    async fn a_hole_is_read_page_by_page() {
        let (server, rest, first) = exchange_with(4_000).await;
        let hole = first + 1_000..=first + 3_200;
        let found = rest.trades("BTC-USD", &hole).await;
        assert_eq!(ids(&found), hole.rev().collect::<Vec<_>>());
        assert_eq!(server.rest_requests(), 3);
    }

    #[tokio::test]
    async fn only_the_newest_of_too_many_trades_are_fetched_within_the_rate_limit() {
        let (server, rest, first) = exchange_with(30_000).await;
        let start = Instant::now();
        let found = rest.trades("BTC-USD", &(first..=first + 29_999)).await;
        assert_eq!(ids(&found), (first + 10_000..first + 30_000).rev().collect::<Vec<_>>());
        assert_eq!(server.rest_requests(), 20);
        assert!(start.elapsed() >= Duration::from_millis(1_400), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn failures_are_retried_and_rejections_are_not() {
        let cases = [
            (vec![StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE], 3, vec![7]),
            (vec![StatusCode::INTERNAL_SERVER_ERROR; 3], 3, vec![]),
            (vec![StatusCode::NOT_FOUND], 1, vec![]),
        ];
        for (failures, requests, expected) in cases {
            let (server, rest) = scripted(move |attempt, _| match failures.get(attempt) {
                Some(status) => (*status, [("retry-after", "0")]).into_response(),
                None => Json([trade(7)]).into_response(),
            })
            .await;
            let found = rest.trades("A-B", &(7..=7)).await;
            assert_eq!((ids(&found), server.requests().len()), (expected, requests));
        }
    }

    #[tokio::test]
    async fn a_retry_after_that_no_clock_can_show_is_harmless() {
        let headers = [("retry-after", "18446744073709551615")];
        let respond = move |_, _: &str| (StatusCode::TOO_MANY_REQUESTS, headers).into_response();
        let (_server, rest) = scripted(respond).await;
        assert_eq!(rest.trades("A-B", &(7..=7)).await, []);
        let error = rest.products().await.expect_err("limited");
        assert_eq!(error.retry_after(), Some(Duration::from_mins(10)));
    }

    #[tokio::test]
    async fn a_trade_that_reaches_the_rest_interface_late_is_retried() {
        let (_server, rest) = scripted(|attempt, _| {
            let newest = if attempt == 0 { 6 } else { 7 };
            Json((5..=newest).rev().map(trade).collect::<Vec<_>>()).into_response()
        })
        .await;
        let found = rest.trades("A-B", &(6..=7)).await;
        assert_eq!(ids(&found), [7, 6]);
    }

    #[tokio::test]
    async fn what_was_fetched_is_used_even_if_a_later_attempt_fails() {
        let (server, rest) = scripted(|attempt, _| match attempt {
            // The exchange does not have trade 7.
            0 | 1 => Json([trade(6), trade(5)]).into_response(),
            _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        })
        .await;
        let found = rest.trades("A-B", &(5..=7)).await;
        assert_eq!((ids(&found), server.requests().len()), (vec![6, 5], 3));
    }

    /// A network of a process that is frozen during its first request.
    struct Frozen(AtomicBool);

    impl Network for Frozen {
        fn get(&self, _: Get) -> BoxFuture<'_, Result<Response, GetError>> {
            Box::pin(async {
                if !self.0.swap(true, Ordering::Relaxed) {
                    time::sleep(Duration::from_mins(1)).await;
                    return Err(GetError::NoResponse("timed out".into()));
                }
                let body = json!([trade(7)]).to_string().into();
                Ok(Response { status: StatusCode::OK, headers: HeaderMap::new(), body })
            })
        }

        fn open(&self, _: Request, _: Reach, _: usize) -> BoxFuture<'_, Result<Socket, Error>> {
            unreachable!("only trades are fetched")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_was_frozen_still_fetches_trades() {
        let network = Arc::new(Frozen(AtomicBool::new(false)));
        let clock = Clock::new(Timestamp::now);
        let outside = Outside { network, clock, streaming_hosts: Arc::new([]) };
        let rest = Rest::new("https://exchange.invalid".parse().expect("a URL"), outside);
        assert_eq!(ids(&rest.trades("A-B", &(7..=7)).await), [7]);
    }

    #[tokio::test]
    async fn a_response_that_is_too_large_is_rejected() {
        let (_server, rest) = scripted(|_, path| match path {
            "/products" => " ".repeat(MAX_BODY_BYTES + 1).into_response(),
            _ => "[{}]".into_response(),
        })
        .await;
        let products = rest.products().await;
        assert!(matches!(products, Err(RestError::TooLarge)), "{products:?}");
        assert_eq!(rest.trades("A-B", &(1..=2)).await, []);
    }

    #[test]
    fn a_trade_is_converted_into_a_message() {
        let json = r#"{"trade_id":7,"side":"buy","size":"0.1","price":"2","time":"t","x":1}"#;
        let trade: Trade<'_> = serde_json::from_str(json).expect("a trade");
        let expected = br#"{"type":"match","trade_id":7,"side":"buy","size":"0.1","price":"2","product_id":"A-B","time":"t","backfilled":true}"#;
        assert_eq!(message("A-B", &trade).expect("JSON"), expected.as_slice());
    }
}
