//! The web page: the files that `make web` builds, embedded in the program.

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use rust_embed::{EmbeddedFile, RustEmbed};

use super::{problem::Problem, state::RestState};

/// The document at every path of the page. Its script reads the path.
const INDEX: &str = "index.html";

/// Folder of the files with hashed names.
const ASSETS: &str = "assets/";

/// The response at the paths of the page when the page was not built.
const NOT_BUILT: &str = "This program was built without the web page; `make web` builds the page. \
                         /api/v1/openapi.json describes the REST interface.\n";

/// The content security policy of the page. Images and media of posts come from any server.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; \
                      img-src 'self' https: data:; media-src https:; manifest-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types dompurify";

/// Browser features that the page does not use.
const PERMISSIONS: &str = "accelerometer=(), camera=(), geolocation=(), gyroscope=(), \
                           magnetometer=(), microphone=(), payment=(), usb=()";

/// Returns the router of the page, at all paths that no other router has.
pub(super) fn router(websocket_url: Option<&str>) -> Router<RestState> {
    let page = Page::new(websocket_url);
    Router::new().fallback(async move |method: Method, uri: Uri, headers: HeaderMap| {
        page.respond(&method, &uri, &headers)
    })
}

#[derive(RustEmbed)]
#[folder = "../web/app/dist"]
#[exclude = "*.map"]
#[allow_missing = true]
struct Files;

/// The page and its content security policy.
#[derive(Clone, Debug)]
struct Page {
    policy: HeaderValue,
}

impl Page {
    /// Returns the page of a service whose WebSocket is at `websocket_url`, or on the page's own host.
    fn new(websocket_url: Option<&str>) -> Self {
        let origin = websocket_url.and_then(|url| {
            let url: Uri = url.parse().ok()?;
            Some(format!(" {}://{}", url.scheme_str()?, url.authority()?))
        });
        let text = format!("{POLICY}; connect-src 'self'{}", origin.unwrap_or_default());
        let policy = HeaderValue::from_str(&text).expect("an origin is a valid header value");
        Self { policy }
    }

    /// Returns the response to a request that is not for the REST interface.
    fn respond(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Response {
        let path = uri.path().trim_start_matches('/');
        if path == "api" || path.starts_with("api/") {
            return not_found(uri);
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Problem::method_not_allowed(Some(HeaderValue::from_static("GET, HEAD")));
        }
        let is_file =
            path.starts_with(ASSETS) || path.rsplit('/').next().is_some_and(has_extension);
        let name = if is_file { path } else { INDEX };
        let mut response = match Files::get(name) {
            Some(file) => send(name, &file, headers),
            None if is_file => return not_found(uri),
            None => NOT_BUILT.into_response(),
        };
        let fields = [
            (header::CONTENT_SECURITY_POLICY, self.policy.clone()),
            (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
            (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            (HeaderName::from_static("permissions-policy"), HeaderValue::from_static(PERMISSIONS)),
            (
                HeaderName::from_static("cross-origin-opener-policy"),
                HeaderValue::from_static("same-origin"),
            ),
        ];
        response.headers_mut().extend(fields);
        if *method == Method::HEAD {
            *response.body_mut() = Body::empty();
        }
        response
    }
}

/// Returns a file, compressed if the client accepts that, or 304 if the client already has it.
fn send(name: &str, file: &EmbeddedFile, headers: &HeaderMap) -> Response {
    let etag = etag(file);
    let hashed = name.starts_with(ASSETS);
    let cache = if hashed { "public, max-age=31536000, immutable" } else { "no-cache" };
    let common = [
        (header::CACHE_CONTROL, HeaderValue::from_static(cache)),
        (header::ETAG, etag.clone()),
        (header::VARY, HeaderValue::from_static("accept-encoding")),
    ];
    let cached = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    if cached.is_some_and(|cached| cached.split(',').any(|tag| is_same(tag, &etag))) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static(content_type(name)));
    for (coding, suffix) in [("br", "br"), ("gzip", "gz")] {
        if accepts(headers, coding)
            && let Some(compressed) = Files::get(&format!("{name}.{suffix}"))
        {
            let coding = (header::CONTENT_ENCODING, HeaderValue::from_static(coding));
            return (common, [kind, coding], compressed.data).into_response();
        }
    }
    (common, [kind], file.data.clone()).into_response()
}

fn not_found(uri: &Uri) -> Response {
    let detail = format!("nothing found at {}; see /api/v1/openapi.json", uri.path());
    Problem::new(StatusCode::NOT_FOUND, detail).into_response()
}

fn has_extension(name: &str) -> bool {
    // The path of the page itself can end in a pair or the name of a server, with a dot.
    let known =
        ["br", "gz", "html", "ico", "js", "json", "map", "png", "svg", "txt", "webmanifest"];
    name.rsplit_once('.').is_some_and(|(_, extension)| known.contains(&extension))
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        Some("txt") => "text/plain; charset=utf-8",
        Some("webmanifest") => "application/manifest+json",
        _ => "application/octet-stream",
    }
}

/// Returns a weak tag, because the same content is sent in several codings.
fn etag(file: &EmbeddedFile) -> HeaderValue {
    let hash = file.metadata.sha256_hash();
    let text: String = hash[..12].iter().map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::try_from(format!("W/\"{text}\"")).expect("hexadecimal digits")
}

/// Compares tags weakly (RFC 9110, section 13.1.2).
fn is_same(given: &str, etag: &HeaderValue) -> bool {
    let given = given.trim();
    let opaque = |tag: &[u8]| tag.strip_prefix(b"W/").unwrap_or(tag).to_vec();
    given == "*" || opaque(given.as_bytes()) == opaque(etag.as_bytes())
}

/// Returns whether the client accepts a content coding (RFC 9110, section 12.5.3).
fn accepts(headers: &HeaderMap, coding: &str) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter();
    let mut entries = values.filter_map(|value| value.to_str().ok()).flat_map(|it| it.split(','));
    entries.any(|entry| {
        let mut parts = entry.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(coding));
        let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
        named && weight.is_none_or(|weight| weight > 0.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().expect("a header"))])
    }

    #[test]
    fn a_coding_is_accepted_if_it_is_listed_with_a_weight() {
        let cases = [
            ("gzip, deflate, br", true),
            ("BR;q=0.5", true),
            ("br;q=0", false),
            ("gzip", false),
            ("brotli", false),
            ("", false),
        ];
        for (value, expected) in cases {
            let headers = with(header::ACCEPT_ENCODING, value);
            assert_eq!(accepts(&headers, "br"), expected, "case: {value}");
        }
    }

    #[test]
    fn tags_are_compared_weakly() {
        let etag = HeaderValue::from_static("W/\"abc\"");
        for (given, expected) in
            [("\"abc\"", true), (" W/\"abc\"", true), ("*", true), ("W/\"abd\"", false)]
        {
            assert_eq!(is_same(given, &etag), expected, "case: {given}");
        }
    }

    #[test]
    fn the_policy_allows_the_pages_own_websocket_and_nothing_else() {
        let policy = |url: Option<&str>| {
            let page = Page::new(url);
            page.policy.to_str().expect("text").to_owned()
        };
        let elsewhere = policy(Some("wss://abc.execute-api.eu-north-1.amazonaws.com/live"));
        assert!(
            elsewhere
                .ends_with("connect-src 'self' wss://abc.execute-api.eu-north-1.amazonaws.com"),
            "{elsewhere}"
        );
        assert!(policy(None).ends_with("connect-src 'self'"));
        assert!(!policy(None).contains("unsafe"));
    }

    #[test]
    fn the_page_is_returned_only_at_its_own_paths() {
        let page = Page::new(None);
        let status = |method: Method, path: &str| {
            let uri: Uri = path.parse().expect("a path");
            page.respond(&method, &uri, &HeaderMap::new()).status().as_u16()
        };
        for path in ["/", "/market/BTC-USD", "/posts", "/posts/server/mastodon.social", "/status"] {
            assert_eq!(status(Method::GET, path), 200, "case: {path}");
        }
        for path in ["/api/v1/nothing", "/api", "/assets/gone.js", "/favicon.png", "/x/y.map"] {
            assert_eq!(status(Method::GET, path), 404, "case: {path}");
        }
        assert_eq!(status(Method::POST, "/"), 405);
    }
}
