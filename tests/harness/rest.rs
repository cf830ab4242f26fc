//! A client of the REST interface.

use std::net::SocketAddr;

use reqwest::{
    Method,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use serde_json::Value;

use crate::PATIENCE;

/// A client of the REST interface, which can name a connection.
#[derive(Clone)]
pub struct Rest {
    http: reqwest::Client,
    base: String,
    headers: HeaderMap,
}

/// A response.
#[derive(Debug)]
pub struct RestResponse {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub text: String,
}

impl RestResponse {
    /// Returns the body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text)
            .unwrap_or_else(|error| panic!("invalid JSON ({error}): {self:?}"))
    }

    /// Returns the value of a header, or an empty text without it.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Returns the body, which must be an RFC 9457 problem with this status.
    pub fn problem(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], status, "{problem}");
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
        problem
    }
}

impl Rest {
    /// Creates a client without a connection.
    pub fn new(address: SocketAddr) -> Self {
        let http = reqwest::Client::builder().timeout(PATIENCE).build().unwrap();
        Self { http, base: format!("http://{address}"), headers: HeaderMap::new() }
    }

    /// Returns the client with one more header.
    #[must_use]
    pub fn with(&self, name: &'static str, value: &str) -> Self {
        let mut rest = self.clone();
        let name = HeaderName::from_static(name);
        rest.headers.insert(name, HeaderValue::try_from(value).unwrap());
        rest
    }

    /// Returns the client with the connection that received this welcome.
    #[must_use]
    pub fn of(&self, welcome: &Value) -> Self {
        self.with("x-connection-id", welcome["connectionId"].as_str().unwrap())
            .with("x-connection-token", welcome["connectionToken"].as_str().unwrap())
    }

    /// Sends a request.
    pub async fn ask(&self, method: Method, path: &str) -> RestResponse {
        self.try_ask(method, path).await.unwrap()
    }

    /// Sends a request to a server that may not be running.
    ///
    /// # Errors
    ///
    /// When there is no response.
    pub async fn try_ask(&self, method: Method, path: &str) -> reqwest::Result<RestResponse> {
        let url = format!("{}{path}", self.base);
        let answer = self.http.request(method, url).headers(self.headers.clone()).send().await?;
        let status = answer.status().as_u16();
        let headers = answer.headers().clone();
        Ok(RestResponse { status, headers, text: answer.text().await? })
    }

    /// Sends a request with a JSON body.
    pub async fn send(&self, method: Method, path: &str, body: String) -> RestResponse {
        let url = format!("{}{path}", self.base);
        let answer = self
            .http
            .request(method, url)
            .headers(self.headers.clone())
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await
            .unwrap();
        let status = answer.status().as_u16();
        let headers = answer.headers().clone();
        RestResponse { status, headers, text: answer.text().await.unwrap() }
    }

    /// Sends a `GET` request.
    pub async fn get(&self, path: &str) -> RestResponse {
        self.ask(Method::GET, path).await
    }

    /// Sends a `POST` request.
    pub async fn post(&self, path: &str) -> RestResponse {
        self.ask(Method::POST, path).await
    }

    /// Sends a `DELETE` request.
    pub async fn delete(&self, path: &str) -> RestResponse {
        self.ask(Method::DELETE, path).await
    }

    /// Returns a page of a topic's history.
    pub async fn history(&self, topic_and_query: &str) -> Value {
        let answer = self.get(&format!("/api/v1/history/{topic_and_query}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }
}
