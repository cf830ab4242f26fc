//! Signed calls to AWS services of which Headwater uses only one operation.
//!
//! An SDK crate contains all operations of its service, and each adds to the time of a build. These calls use
//! the runtime under those crates, so credentials, signatures, timeouts and retries work as in the SDK.

use std::fmt;

use aws_config::{BehaviorVersion, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_runtime::auth::{SigV4OperationSigningConfig, sigv4};
use aws_smithy_runtime::client::{
    orchestrator::operation::Operation,
    retries::classifiers::{HttpStatusCodeClassifier, TransientErrorClassifier},
};
use aws_smithy_runtime_api::client::{
    auth::{
        AuthSchemeOptionResolverParams, SharedAuthScheme, SharedAuthSchemeOptionResolver,
        static_resolver::StaticAuthSchemeOptionResolver,
    },
    interceptors::context::Error as AnyError,
    orchestrator::{HttpRequest, HttpResponse, OrchestratorError, SensitiveOutput},
    result::SdkError,
    runtime_components::RuntimeComponentsBuilder,
    runtime_plugin::StaticRuntimePlugin,
};
use aws_smithy_types::{body::SdkBody, config_bag::Layer};
use aws_types::{SigningName, region::SigningRegion, service_config::ServiceConfigKey};
use bytes::Bytes;
use domain::chain::BoxError;
use serde::Deserialize;

/// An operation of a service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// The name under which configuration files and the environment set the service's endpoint, such as
    /// `Secrets Manager`.
    pub(crate) service: &'static str,
    /// The first label of the service's host names, which is also its name in signatures.
    pub(crate) host: &'static str,
    /// The operation, such as `Invoke`.
    pub(crate) operation: &'static str,
}

/// The request of an operation.
pub(crate) struct Input {
    /// The path of the request, percent-encoded.
    pub(crate) path: String,
    /// Headers of the request.
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    /// The body of the request.
    pub(crate) body: Vec<u8>,
}

/// The response of a successful operation.
pub(crate) struct Output {
    response_headers: Vec<(String, String)>,
    /// The body of the response.
    pub(crate) body: Bytes,
}

/// The error response of a service.
#[derive(Debug, thiserror::Error)]
#[error("HTTP {status}{}{}", code.as_deref().map(|code| format!(", {code}")).unwrap_or_default(),
        message.as_deref().map(|message| format!(": {message}")).unwrap_or_default())]
pub(crate) struct ServiceError {
    /// The status of the response.
    pub(crate) status: u16,
    /// The name of the error, such as `ResourceNotFoundException`.
    pub(crate) code: Option<String>,
    message: Option<String>,
    /// The body of the response.
    pub(crate) body: Bytes,
}

/// Why a call failed.
pub(crate) type CallError = SdkError<ServiceError, HttpResponse>;

/// One operation, ready to be called.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    operation: Operation<Input, Output, ServiceError>,
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("path", &self.path).finish_non_exhaustive()
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("size_bytes", &self.body.len()).finish_non_exhaustive()
    }
}

impl Output {
    /// Returns a header of the response by its lower-case name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.response_headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

impl Call {
    /// Prepares `target` with the region, credentials and endpoint of `config`. Without `retries`, a
    /// call is attempted once.
    pub(crate) fn new(
        config: &SdkConfig,
        target: Target,
        timeouts: TimeoutConfig,
        retries: Option<&RetryConfig>,
    ) -> Self {
        let region = config.region().map_or("us-east-1", |region| region.as_ref());
        let mut signing = Layer::new("signing");
        signing.store_put(AuthSchemeOptionResolverParams::new(()));
        signing.store_put(SensitiveOutput);
        signing.store_put(SigV4OperationSigningConfig {
            region: Some(SigningRegion::from(aws_types::region::Region::new(region.to_owned()))),
            name: Some(SigningName::from_static(target.host)),
            ..SigV4OperationSigningConfig::default()
        });
        let mut components = RuntimeComponentsBuilder::new("call")
            .with_auth_scheme(SharedAuthScheme::new(sigv4::SigV4AuthScheme::new()))
            .with_auth_scheme_option_resolver(Some(SharedAuthSchemeOptionResolver::new(
                StaticAuthSchemeOptionResolver::new(vec![sigv4::SCHEME_ID]),
            )))
            .with_identity_cache(config.identity_cache())
            .with_http_client(config.http_client())
            .with_sleep_impl(config.sleep_impl())
            .with_time_source(config.time_source());
        if let Some(credentials) = config.credentials_provider() {
            components.set_identity_resolver(sigv4::SCHEME_ID, credentials);
        }
        let builder = Operation::builder()
            .service_name(target.service)
            .operation_name(target.operation)
            .behavior_version(config.behavior_version().unwrap_or_else(BehaviorVersion::latest))
            .endpoint_url(&endpoint(config, target, region))
            .timeout_config(timeouts)
            .with_connection_poisoning()
            .runtime_plugin(
                StaticRuntimePlugin::new()
                    .with_config(signing.freeze())
                    .with_runtime_components(components),
            );
        let builder = match retries {
            Some(retries) => builder
                .standard_retry(retries)
                .retry_classifier(TransientErrorClassifier::<AnyError>::new())
                .retry_classifier(HttpStatusCodeClassifier::default()),
            None => builder.no_retry(),
        };
        Self { operation: builder.serializer(request).deserializer(output).build() }
    }

    /// Calls the operation.
    ///
    /// # Errors
    ///
    /// [`CallError`] when the service rejects the call or does not respond.
    pub(crate) async fn send(&self, input: Input) -> Result<Output, CallError> {
        self.operation.invoke(input).await
    }
}

/// Returns the base URL of a service, as the SDK finds it: `AWS_ENDPOINT_URL_LAMBDA` before
/// `AWS_ENDPOINT_URL` (or their settings in the profile), before the public one of the region.
fn endpoint(config: &SdkConfig, target: Target, region: &str) -> String {
    let key = ServiceConfigKey::builder()
        .service_id(target.service)
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build()
        .expect("all parts of the key are set");
    let of_service = config.service_config().and_then(|settings| settings.load_config(key));
    of_service.or_else(|| config.endpoint_url().map(str::to_owned)).unwrap_or_else(|| {
        let fips = if config.use_fips() == Some(true) { "-fips" } else { "" };
        format!("https://{}{fips}.{region}.{}", target.host, dns_suffix(region))
    })
}

/// Returns the domain of the partition that a region is in (AWS General Reference, "Partitions").
fn dns_suffix(region: &str) -> &'static str {
    match region.split('-').next() {
        Some("cn") => "amazonaws.com.cn",
        Some("eusc") => "amazonaws.eu",
        _ => "amazonaws.com",
    }
}

fn request(input: Input) -> Result<HttpRequest, BoxError> {
    let mut request = HttpRequest::new(SdkBody::from(input.body));
    request.set_method("POST")?;
    request.set_uri(input.path)?;
    for (name, value) in input.headers {
        request.headers_mut().try_insert(name, value)?;
    }
    Ok(request)
}

fn output(response: &HttpResponse) -> Result<Output, OrchestratorError<ServiceError>> {
    let body = Bytes::copy_from_slice(response.body().bytes().unwrap_or_default());
    if response.status().is_success() {
        let headers = response.headers().iter();
        let response_headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        return Ok(Output { response_headers: response_headers.collect(), body });
    }
    let named = response.headers().get("x-amzn-errortype");
    Err(OrchestratorError::operation(service_error(response.status().as_u16(), named, body)))
}

/// Reads an error of the protocols AWS JSON and REST JSON: its name is in a header or in the body, there
/// with a namespace before `#` or a URL after `:` (Smithy, "Operation error serialization").
fn service_error(status: u16, named: Option<&str>, body: Bytes) -> ServiceError {
    #[derive(Default, Deserialize)]
    struct Body {
        #[serde(rename = "__type")]
        kind: Option<String>,
        code: Option<String>,
        #[serde(alias = "Message")]
        message: Option<String>,
    }
    let read: Body = serde_json::from_slice(&body).unwrap_or_default();
    let name = named.map(str::to_owned).or(read.kind).or(read.code);
    let code = name.map(|name| {
        let name = name.split(':').next().unwrap_or_default();
        name.rsplit('#').next().unwrap_or_default().to_owned()
    });
    ServiceError { status, code, message: read.message, body }
}

/// A service for tests that returns prepared responses in order.
#[cfg(test)]
pub(crate) mod canned {
    use std::sync::Arc;

    use aws_config::{Region, retry::RetryConfig};
    use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
    use aws_smithy_async::rt::sleep::TokioSleep;
    use aws_smithy_runtime_api::client::{
        http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn},
        result::ConnectorError,
    };
    use parking_lot::Mutex;

    use super::*;

    /// A request that was received.
    #[derive(Clone, Debug)]
    pub(crate) struct Received {
        pub(crate) uri: String,
        pub(crate) authorization: String,
        pub(crate) body: String,
    }

    type Response = (u16, &'static [(&'static str, &'static str)], &'static str);

    #[derive(Clone, Debug)]
    pub(crate) struct Canned {
        responses: Arc<Mutex<Vec<Response>>>,
        received: Arc<Mutex<Vec<Received>>>,
    }

    impl Canned {
        pub(crate) fn new<const N: usize>(mut responses: [Response; N]) -> Self {
            responses.reverse();
            let responses = Arc::new(Mutex::new(responses.to_vec()));
            Self { responses, received: Arc::default() }
        }

        /// Returns a configuration whose calls go to this service.
        pub(crate) fn config(&self) -> SdkConfig {
            let connector = SharedHttpConnector::new(self.clone());
            let credentials = Credentials::new("id", "key", None, None, "test");
            SdkConfig::builder()
                .behavior_version(BehaviorVersion::latest())
                .region(Region::from_static("eu-central-1"))
                .endpoint_url("http://aws.test")
                .credentials_provider(SharedCredentialsProvider::new(credentials))
                .retry_config(
                    RetryConfig::standard().with_initial_backoff(std::time::Duration::ZERO),
                )
                .sleep_impl(TokioSleep::new())
                .http_client(http_client_fn(move |_, _| connector.clone()))
                .build()
        }

        pub(crate) fn requests(&self) -> Vec<Received> {
            self.received.lock().clone()
        }
    }

    impl HttpConnector for Canned {
        fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
            let header = |name| request.headers().get(name).unwrap_or_default().to_owned();
            self.received.lock().push(Received {
                uri: request.uri().to_owned(),
                authorization: header("authorization"),
                body: String::from_utf8_lossy(request.body().bytes().unwrap_or_default()).into(),
            });
            let Some((status, headers, body)) = self.responses.lock().pop() else {
                let error = ConnectorError::io("no response is left".into());
                return HttpConnectorFuture::ready(Err(error));
            };
            let status = status.try_into().expect("a status");
            let mut response = HttpResponse::new(status, SdkBody::from(body));
            for (name, value) in headers {
                response.headers_mut().insert(*name, *value);
            }
            HttpConnectorFuture::ready(Ok(response))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAMBDA: Target = Target { service: "Lambda", host: "lambda", operation: "Invoke" };

    #[test]
    fn the_endpoint_follows_region_and_configuration() {
        let plain = SdkConfig::builder().build();
        let set = SdkConfig::builder().endpoint_url("http://127.0.0.1:9000").build();
        let fips = SdkConfig::builder().use_fips(true).build();
        let cases = [
            (&plain, "eu-central-1", "https://lambda.eu-central-1.amazonaws.com"),
            (&plain, "cn-north-1", "https://lambda.cn-north-1.amazonaws.com.cn"),
            (&plain, "us-gov-west-1", "https://lambda.us-gov-west-1.amazonaws.com"),
            (&plain, "eusc-de-east-1", "https://lambda.eusc-de-east-1.amazonaws.eu"),
            (&fips, "us-gov-west-1", "https://lambda-fips.us-gov-west-1.amazonaws.com"),
            (&set, "eu-central-1", "http://127.0.0.1:9000"),
        ];
        for (config, region, expected) in cases {
            assert_eq!(endpoint(config, LAMBDA, region), expected, "case: {region}");
        }
    }

    #[test]
    fn errors_have_the_names_that_the_service_gives() {
        let cases = [
            (None, r#"{"__type":"ResourceNotFoundException","Message":"no"}"#, Some("no")),
            (
                None,
                r#"{"__type":"com.amazonaws#ResourceNotFoundException","message":"no"}"#,
                Some("no"),
            ),
            (Some("ResourceNotFoundException:http://internal.amazon.com/"), "{}", None),
        ];
        for (named, body, message) in cases {
            let error = service_error(400, named, Bytes::from_static(body.as_bytes()));
            assert_eq!(error.code.as_deref(), Some("ResourceNotFoundException"), "case: {body}");
            assert_eq!(error.message.as_deref(), message, "case: {body}");
        }
        let error = service_error(502, None, Bytes::from_static(b"<html>"));
        assert_eq!((error.code.as_deref(), error.to_string().as_str()), (None, "HTTP 502"));
    }
}
