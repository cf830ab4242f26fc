//! A client of the REST interface.

use std::net::SocketAddr;

use reqwest::{
    Method,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use serde_json::Value;

use crate::PATIENCE;

/// A client of the REST interface, that may name a connection.
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
    /// The body as JSON.
    pub fn json(&self) -> Value {
        let json = serde_json::from_str(&self.text);
        json.unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The value of a header; empty if it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The body, which must be an RFC 9457 problem with this status.
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
    /// Creates a client that names no connection.
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

    /// Returns the client with the connection of a welcome.
    #[must_use]
    pub fn of(&self, welcome: &Value) -> Self {
        self.with("x-connection-id", welcome["connectionId"].as_str().unwrap())
            .with("x-connection-token", welcome["connectionToken"].as_str().unwrap())
    }

    /// Sends a request.
    pub async fn ask(&self, method: Method, path: &str) -> RestResponse {
        self.try_ask(method, path).await.unwrap()
    }

    /// Sends a request that may find no server.
    ///
    /// # Errors
    ///
    /// When there is no response.
    pub async fn try_ask(&self, method: Method, path: &str) -> reqwest::Result<RestResponse> {
        let url = format!("{}{path}", self.base);
        let answer = self.http.request(method, url).headers(self.headers.clone()).send().await?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Ok(RestResponse { status, headers, text: answer.text().await? })
    }

    /// Sends a request with a JSON body.
    pub async fn send(&self, method: Method, path: &str, body: String) -> RestResponse {
        let url = format!("{}{path}", self.base);
        let request = self.http.request(method, url).headers(self.headers.clone());
        let request = request.header("content-type", "application/json").body(body);
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        RestResponse { status, headers, text: answer.text().await.unwrap() }
    }

    /// `GET`.
    pub async fn get(&self, path: &str) -> RestResponse {
        self.ask(Method::GET, path).await
    }

    /// `POST`.
    pub async fn post(&self, path: &str) -> RestResponse {
        self.ask(Method::POST, path).await
    }

    /// `DELETE`.
    pub async fn delete(&self, path: &str) -> RestResponse {
        self.ask(Method::DELETE, path).await
    }

    /// A page of a topic's history.
    pub async fn history(&self, topic_and_query: &str) -> Value {
        let answer = self.get(&format!("/api/v1/history/{topic_and_query}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }
}
