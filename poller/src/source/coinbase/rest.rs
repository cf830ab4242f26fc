//! The exchange's REST interface: which products there are, and trades that were missed.

use std::{borrow::Cow, ops::RangeInclusive, sync::Arc, time::Duration};

use aws::{control::Product, error::Chain};
use bytes::{Bytes, BytesMut};
use domain::topic::Topic;
use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};
use reqwest::{
    Client, StatusCode,
    header::{ACCEPT, HeaderMap, HeaderValue, RETRY_AFTER},
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::Mutex,
    time::{self, Instant},
};
use tracing::warn;

use super::pace::Pace;
use crate::backoff::Backoff;

/// How long one request may take.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);

/// Most bytes of an answer. The largest, all products, has about half a megabyte.
const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;

/// Trades in a page.
const PAGE: u64 = 1_000;
/// Most pages that are read for one hole.
const MAX_PAGES: u32 = 20;
/// Tries to get one page.
const ATTEMPTS: u32 = 3;
/// How long a hole may take to be filled. Trades wait meanwhile.
const FILL_WITHIN: Duration = Duration::from_secs(30);

/// The exchange's REST interface. Clones share the connections and the pace.
#[derive(Clone, Debug)]
pub(super) struct Rest {
    client: Client,
    base: Arc<str>,
    pace: Arc<Mutex<Pace>>,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RestError {
    /// No answer.
    #[error("no answer")]
    Unanswered(#[source] reqwest::Error),
    /// An answer that says no.
    #[error("the exchange answered {status}")]
    Refused { status: StatusCode, retry_after: Option<Duration> },
    /// An answer that is too large.
    #[error("answer is over {MAX_BODY_BYTES} bytes")]
    TooLarge,
    /// An answer of another shape.
    #[error("answer cannot be read")]
    Shape(#[source] serde_json::Error),
}

impl RestError {
    /// How long the exchange wants to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Unanswered(_) | Self::TooLarge | Self::Shape(_) => None,
        }
    }

    /// Whether the same request may succeed later.
    fn is_retryable(&self) -> bool {
        match self {
            Self::Refused { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::Unanswered(_) => true,
            Self::TooLarge | Self::Shape(_) => false,
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

/// A trade from the REST interface in the shape of a message.
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
    /// Asks at `base`, without a slash at its end.
    ///
    /// # Errors
    ///
    /// [`reqwest::Error`] when this machine cannot do HTTP.
    pub(super) fn new(base: &str, user_agent: HeaderValue) -> Result<Self, reqwest::Error> {
        let accept = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
        let client = Client::builder()
            .user_agent(user_agent)
            .default_headers(accept)
            .connect_timeout(REQUEST_WITHIN / 2)
            .timeout(REQUEST_WITHIN)
            .build()?;
        // The exchange takes 10 requests a second from an address.
        let pace = Pace::new(Duration::from_millis(125), 8);
        Ok(Self { client, base: base.into(), pace: Arc::new(Mutex::new(pace)) })
    }

    /// Returns all products whose id is a pair.
    pub(super) async fn products(&self) -> Result<Vec<Product>, RestError> {
        let (_, body) = self.get(&format!("{}/products", self.base)).await?;
        let listed: Vec<Listed<'_>> = serde_json::from_slice(&body).map_err(RestError::Shape)?;
        let pairs = listed.into_iter().filter(|it| Topic::coinbase("ticker", &it.id).is_ok());
        Ok(pairs
            .map(|it| Product {
                online: it.status == "online" && !it.trading_disabled,
                id: it.id.into_owned(),
            })
            .collect())
    }

    /// Returns what can be had of a product's trades, newest first, each as a message.
    ///
    /// Tries for a while, then returns what it has: of too many trades the newest.
    pub(super) async fn trades(
        &self,
        product: &str,
        ids: &RangeInclusive<u64>,
    ) -> Vec<(u64, Bytes)> {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(4));
        let deadline = Instant::now() + FILL_WITHIN;
        let mut found = Vec::new();
        let mut after = ids.end().saturating_add(1);
        let mut attempts = ATTEMPTS;
        let mut pages = 0;
        while pages < MAX_PAGES && after > *ids.start() {
            let retry_after = match time::timeout_at(deadline, self.page(product, after)).await {
                Err(_) => break,
                // The newest trades come to the REST interface a moment later than over the socket.
                Ok(Ok(page)) if page.is_behind(after) && attempts > 1 => None,
                Ok(Ok(page)) => {
                    let Some(oldest) = page.oldest else { break };
                    found.extend(page.trades.into_iter().filter(|(id, _)| ids.contains(id)));
                    if oldest >= after {
                        break;
                    }
                    (after, attempts, pages) = (oldest, ATTEMPTS, pages + 1);
                    continue;
                }
                Ok(Err(error)) => {
                    warn!(product, error = %Chain(&error), "trades not fetched");
                    if !error.is_retryable() {
                        break;
                    }
                    error.retry_after()
                }
            };
            attempts -= 1;
            if attempts == 0 {
                break;
            }
            let delay = backoff.next_delay(&mut rand::rng()).max(retry_after.unwrap_or_default());
            if Instant::now() + delay > deadline {
                break;
            }
            time::sleep(delay).await;
        }
        found
    }

    /// Returns the page of trades older than `after`.
    async fn page(&self, product: &str, after: u64) -> Result<Page, RestError> {
        let url = format!("{}/products/{product}/trades?limit={PAGE}&after={after}", self.base);
        let (headers, body) = self.get(&url).await?;
        let trades: Vec<Trade<'_>> = serde_json::from_slice(&body).map_err(RestError::Shape)?;
        let cursor = headers.get("cb-after").and_then(|id| id.to_str().ok()?.parse().ok());
        let oldest = cursor.or_else(|| trades.iter().map(|trade| trade.id).min());
        let trades = trades.iter().map(|trade| Ok((trade.id, message(product, trade)?)));
        let trades = trades.collect::<Result<_, _>>().map_err(RestError::Shape)?;
        Ok(Page { trades, oldest })
    }

    async fn get(&self, url: &str) -> Result<(HeaderMap, Bytes), RestError> {
        let wait = self.pace.lock().await.reserve(Instant::now());
        time::sleep(wait).await;
        let mut answer = self.client.get(url).send().await.map_err(RestError::Unanswered)?;
        let status = answer.status();
        if !status.is_success() {
            let retry_after = retry_after(answer.headers(), Timestamp::now());
            return Err(RestError::Refused { status, retry_after });
        }
        let headers = std::mem::take(answer.headers_mut());
        let mut body = BytesMut::new();
        while let Some(chunk) = answer.chunk().await.map_err(RestError::Unanswered)? {
            if body.len() + chunk.len() > MAX_BODY_BYTES {
                return Err(RestError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok((headers, body.freeze()))
    }
}

/// A page of trades.
struct Page {
    trades: Vec<(u64, Bytes)>,
    /// Where the next page begins.
    oldest: Option<u64>,
}

impl Page {
    /// Whether the trade just before `after`, which is known to exist, is not in it.
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

/// Returns how long an answer asks to be left alone, in seconds or up to a date.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Duration::try_from(date.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use axum::{Json, Router, http, response::IntoResponse as _, routing::get};

    use super::*;
    use crate::source::coinbase::stand_in::{rest_trade, serve, trades_up_to};

    fn ids(found: &[(u64, Bytes)]) -> Vec<u64> {
        found.iter().map(|(id, _)| *id).collect()
    }

    #[tokio::test]
    async fn a_hole_is_read_page_by_page() {
        let (router, mut asks) = trades_up_to(10_000);
        let rest = serve(router).await;
        let found = rest.trades("A-B", &(7_000..=9_200)).await;
        assert_eq!(ids(&found), (7_000..=9_200).rev().collect::<Vec<_>>());
        asks.close();
        assert_eq!(asks.recv().await, Some(9_201));
        assert_eq!(asks.recv().await, Some(8_201));
        assert_eq!(asks.recv().await, Some(7_201));
        assert_eq!(asks.recv().await, None);
    }

    #[tokio::test]
    async fn of_too_many_trades_the_newest_are_fetched_at_a_pace() {
        let (router, mut asks) = trades_up_to(30_000);
        let rest = serve(router).await;
        let start = Instant::now();
        let found = rest.trades("A-B", &(1..=30_000)).await;
        assert_eq!(ids(&found), (10_001..=30_000).rev().collect::<Vec<_>>());
        assert_eq!((asks.len(), asks.recv().await), (20, Some(30_001)));
        assert!(start.elapsed() >= Duration::from_millis(1_400), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn failures_are_tried_again_and_refusals_are_not() {
        use http::StatusCode;

        let cases = [
            (vec![StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE], 3, vec![7]),
            (vec![StatusCode::INTERNAL_SERVER_ERROR; 3], 3, vec![]),
            (vec![StatusCode::NOT_FOUND], 1, vec![]),
        ];
        for (failures, requests, expected) in cases {
            let count = Arc::new(AtomicU32::new(0));
            let counted = Arc::clone(&count);
            let page = async move || {
                let attempt = counted.fetch_add(1, Ordering::Relaxed);
                match failures.get(usize::try_from(attempt).expect("small")) {
                    Some(status) => (*status, [("retry-after", "0")]).into_response(),
                    None => Json([rest_trade(7)]).into_response(),
                }
            };
            let router = Router::new().route("/products/A-B/trades", get(page));
            let found = serve(router).await.trades("A-B", &(7..=7)).await;
            assert_eq!((ids(&found), count.load(Ordering::Relaxed)), (expected, requests));
        }
    }

    #[tokio::test]
    async fn a_trade_that_comes_late_to_rest_is_waited_for() {
        let count = Arc::new(AtomicU32::new(0));
        let page = async move || {
            let newest = if count.fetch_add(1, Ordering::Relaxed) == 0 { 6 } else { 7 };
            Json((5..=newest).rev().map(rest_trade).collect::<Vec<_>>())
        };
        let router = Router::new().route("/products/A-B/trades", get(page));
        let found = serve(router).await.trades("A-B", &(6..=7)).await;
        assert_eq!(ids(&found), [7, 6]);
    }

    #[tokio::test]
    async fn an_answer_without_end_is_not_taken() {
        let router = Router::new()
            .route("/products", get(async || " ".repeat(MAX_BODY_BYTES + 1)))
            .route("/products/A-B/trades", get(async || "[{}]"));
        let rest = serve(router).await;
        let products = rest.products().await;
        assert!(matches!(products, Err(RestError::TooLarge)), "{products:?}");
        assert_eq!(rest.trades("A-B", &(1..=2)).await, []);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = "2015-10-21T07:27:00Z".parse().expect("a time");
        let cases = [
            (Some("7"), Some(7)),
            (Some("Wed, 21 Oct 2015 07:28:00 GMT"), Some(60)),
            (Some("Wed, 21 Oct 2015 07:00:00 GMT"), Some(0)),
            (Some("soon"), None),
            (Some("-1"), None),
            (None, None),
        ];
        for (value, expected) in cases {
            let header = value.map(|value| (RETRY_AFTER, HeaderValue::from_static(value)));
            let headers = HeaderMap::from_iter(header);
            let expected = expected.map(Duration::from_secs);
            assert_eq!(retry_after(&headers, now), expected, "case: {value:?}");
        }
    }

    #[test]
    fn a_trade_takes_the_shape_of_a_message() {
        let trade = r#"{"trade_id":7,"side":"buy","size":"0.1","price":"2","time":"t","x":1}"#;
        let trade: Trade<'_> = serde_json::from_str(trade).expect("a trade");
        let expected = br#"{"type":"match","trade_id":7,"side":"buy","size":"0.1","price":"2","product_id":"A-B","time":"t","backfilled":true}"#;
        assert_eq!(message("A-B", &trade).expect("JSON"), expected.as_slice());
    }
}
