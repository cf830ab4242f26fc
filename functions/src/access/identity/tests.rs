//! Tokens of every kind, with a local issuer and generated keys.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use aws_lc_rs::{
    encoding::AsDer as _,
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use axum::{Router, http::StatusCode, routing::get};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::Parser as _;
use jsonwebtoken::jwk::Jwk;
use proptest::prelude::*;
use tokio::{net::TcpListener, task::JoinHandle};

use super::*;

const SECRET: &str = "a secret of at least thirty-two bytes";

/// Who sends the tokens.
const SENDER: &str = "address/192.0.2.7";

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn tokens(arguments: &[&str]) -> Tokens {
    let arguments = ["test"].iter().chain(arguments);
    Tokens::new(Cli::try_parse_from(arguments).expect("options").options)
}

fn now() -> Timestamp {
    "2026-11-22T10:00:00Z".parse().expect("a time")
}

fn hs256(secret: &str, claims: &Value) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key).expect("a token")
}

#[expect(clippy::needless_pass_by_value, reason = "it is made where it is passed")]
fn claims(more: Value) -> Value {
    let mut claims = json!({"sub": "ann", "exp": 9_999_999_999_u64, "classes": ["trader"]});
    for (name, value) in more.as_object().into_iter().flatten() {
        match value {
            Value::Null => claims.as_object_mut().and_then(|it| it.remove(name)),
            value => claims.as_object_mut().and_then(|it| it.insert(name.clone(), value.clone())),
        };
    }
    claims
}

/// An issuer's key.
struct Signer {
    id: String,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl Signer {
    fn rsa(id: &str) -> Self {
        let pair = KeyPair::generate(KeySize::Rsa2048).expect("a key");
        let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().expect("a key");
        // A PKCS #8 document with an RSA key of this size has 26 bytes in front of the key.
        let key = EncodingKey::from_rsa_der(&der.as_ref()[26..]);
        Self { id: id.to_owned(), algorithm: Algorithm::RS256, key }
    }

    fn ec(id: &str) -> Self {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let der = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).expect("a key");
        let key = EncodingKey::from_ec_der(der.as_ref());
        Self { id: id.to_owned(), algorithm: Algorithm::ES256, key }
    }

    fn published(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).expect("a key");
        jwk.common.key_id = Some(self.id.clone());
        serde_json::to_value(jwk).expect("JSON")
    }

    fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.id.clone()), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, claims, &self.key).expect("a token")
    }
}

/// An issuer that publishes keys and counts the requests it gets.
struct Issuer {
    url: String,
    keys: Arc<Mutex<Option<Value>>>,
    requests: Arc<AtomicUsize>,
    /// Whether it does not answer.
    hangs: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Issuer {
    async fn start(keys: &[&Signer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/keys", listener.local_addr().expect("an address"));
        let published: Arc<Mutex<Option<Value>>> = Arc::default();
        let requests: Arc<AtomicUsize> = Arc::default();
        let of_handler = published.clone();
        let count = requests.clone();
        let hangs: Arc<AtomicBool> = Arc::default();
        let is_hanging = hangs.clone();
        let handler = get(async move || {
            count.fetch_add(1, Ordering::SeqCst);
            if is_hanging.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            match of_handler.lock().expect("no panic").clone() {
                Some(keys) => (StatusCode::OK, json!({ "keys": keys }).to_string()),
                None => (StatusCode::BAD_GATEWAY, String::new()),
            }
        });
        let router = Router::new().route("/keys", handler);
        let task = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("a server");
        });
        let issuer = Self { url, keys: published, requests, hangs, task };
        issuer.publish(keys);
        issuer
    }

    fn publish(&self, keys: &[&Signer]) {
        let keys = keys.iter().map(|key| key.published()).collect();
        *self.keys.lock().expect("no panic") = Some(Value::Array(keys));
    }

    fn break_down(&self) {
        *self.keys.lock().expect("no panic") = None;
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn tokens(&self, more: &[&str]) -> Tokens {
        let ours =
            ["--jwks-url", &self.url, "--jwt-issuer", "https://issuer", "--jwt-audience", "us,you"];
        tokens(&[&ours[..], more].concat())
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is made where it is passed")]
fn ours(more: Value) -> Value {
    let mut all = claims(json!({"iss": "https://issuer", "aud": "us"}));
    for (name, value) in more.as_object().into_iter().flatten() {
        all[name] = value.clone();
    }
    all
}

#[tokio::test]
async fn a_token_is_valid_until_it_expires_and_under_each_secret() {
    let secret = |list: &str| SecretString::from(list);
    let ann = Principal::named("ann", ["trader", "member"]).expect("a principal");
    let term = Duration::from_mins(1);
    let token = make(&secret("old"), &ann, term, now(), None, None).expect("a token");
    for list in ["old", "new,old", "old,new"] {
        let tokens = tokens(&["--jwt-secret", list]);
        let identity = tokens.check(&token, SENDER, now()).await.expect("a valid token");
        assert_eq!(identity, Identity { principal: ann.clone(), expires_at: now() + term });
        let late = tokens.check(&token, SENDER, now() + term).await;
        assert!(matches!(late, Err(TokenError::Expired)), "{late:?}");
    }
    let other = tokens(&["--jwt-secret", "new"]).check(&token, SENDER, now()).await;
    assert!(matches!(other, Err(TokenError::Invalid(_))), "{other:?}");
    let none = tokens(&[]).check(&token, SENDER, now()).await;
    assert!(matches!(none, Err(TokenError::NotConfigured)), "{none:?}");
    let newest = make(&secret("new,old"), &ann, term, now(), None, None).expect("a token");
    assert!(tokens(&["--jwt-secret", "new"]).check(&newest, SENDER, now()).await.is_ok());
}

#[tokio::test]
async fn the_class_is_read_from_the_configured_claim() {
    let nested =
        ["--jwt-secret", SECRET, "--jwt-class-claim", "https://a.example/roles,realm.roles"];
    let cases: [(&[&str], Value, Option<&str>); 12] = [
        (&[], json!({"classes": null, "class": "trader"}), Some("trader")),
        (&[], json!({"classes": ["trader", "member"]}), Some("trader,member")),
        (
            &[],
            json!({"classes": null, "cognito:groups": ["blocked", "trader"]}),
            Some("blocked,trader"),
        ),
        (&[], json!({"classes": []}), Some("member")),
        (&[], json!({"classes": null}), Some("member")),
        (&["--jwt-default-class", "guest"], json!({"classes": null}), Some("guest")),
        (&[], json!({"classes": 7}), None),
        (&[], json!({"classes": ["trader", 7]}), None),
        (&[], json!({"classes": ["a,b"]}), None),
        (&[], json!({"classes": [""]}), None),
        (&nested[2..], json!({"classes": null, "realm": {"roles": ["trader"]}}), Some("trader")),
        (&nested[2..], json!({"https://a.example/roles": "admin"}), Some("admin")),
    ];
    for (options, more, expected) in cases {
        let options = [&["--jwt-secret", SECRET], options].concat();
        let identity =
            tokens(&options).check(&hs256(SECRET, &claims(more.clone())), SENDER, now()).await;
        let class = identity.ok().map(|identity| identity.principal.class);
        assert_eq!(class.as_deref(), expected, "case: {more}");
    }
}

#[tokio::test]
async fn claims_are_checked() {
    let second = now().as_second();
    let plain: &[&str] = &[];
    let strict: &[&str] = &["--jwt-issuer", "https://issuer", "--jwt-audience", "us,you"];
    let cases: [(&[&str], Value, bool); 22] = [
        (plain, json!({}), true),
        (plain, json!({"exp": null}), false),
        (plain, json!({"exp": "9999999999"}), false),
        (plain, json!({"exp": 1e300}), false),
        (plain, json!({"exp": second}), false),
        (plain, json!({"exp": second + 1}), true),
        (plain, json!({"exp": 9_999_999_999.5}), true),
        (plain, json!({"nbf": second + 5}), true),
        (plain, json!({"nbf": second + 60}), false),
        (plain, json!({"nbf": "soon"}), false),
        (plain, json!({"sub": null}), false),
        (plain, json!({"sub": 7}), false),
        (plain, json!({"sub": "anonymous"}), false),
        (plain, json!({"iss": "anybody"}), true),
        (plain, json!({"aud": "somebody else"}), false),
        (strict, json!({}), false),
        (strict, json!({"iss": "https://issuer", "aud": "you"}), true),
        (strict, json!({"iss": "https://issuer", "aud": ["x", "us"]}), true),
        (strict, json!({"iss": "https://issuer", "aud": ["x"], "client_id": "us"}), false),
        (strict, json!({"iss": "https://issuer", "client_id": "us"}), true),
        (strict, json!({"iss": "https://issuer"}), false),
        (strict, json!({"iss": ["https://issuer"], "aud": "us"}), false),
    ];
    for (options, more, expected) in cases {
        let options = [&["--jwt-secret", SECRET], options].concat();
        let checked =
            tokens(&options).check(&hs256(SECRET, &claims(more.clone())), SENDER, now()).await;
        assert_eq!(checked.is_ok(), expected, "case: {more}: {checked:?}");
    }
}

#[tokio::test]
async fn a_token_without_a_valid_signature_is_rejected() {
    let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
    let body = part(&claims(json!({})).to_string());
    let good = hs256(SECRET, &claims(json!({})));
    let (_, signature) = good.rsplit_once('.').expect("three parts");
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let sign = |header: &Header| jsonwebtoken::encode(header, &claims(json!({})), &key);
    let critical = Header { crit: Some(vec!["x".to_owned()]), ..Header::new(Algorithm::HS256) };
    let cases = [
        String::new(),
        "a.b.c".to_owned(),
        format!("{}.{body}.", part(r#"{"alg":"none"}"#)),
        format!("{}.{body}.", part(r#"{"alg":"None","typ":"JWT"}"#)),
        format!("{}.{body}.{signature}", part(r#"{"alg":"none"}"#)),
        format!("{}.{body}.", part(r#"{"alg":"HS256"}"#)),
        format!("{}.{}.{signature}", part(r#"{"alg":"HS256"}"#), part(r#"{"sub":"eve"}"#)),
        format!("{good}x"),
        format!("{good}.{signature}"),
        format!("{good}{}", "x".repeat(MAX_TOKEN_BYTES)),
        sign(&Header::new(Algorithm::HS512)).expect("a token"),
        sign(&critical).expect("a token"),
    ];
    let tokens = tokens(&["--jwt-secret", SECRET]);
    assert!(tokens.check(&good, SENDER, now()).await.is_ok());
    for token in cases {
        assert!(tokens.check(&token, SENDER, now()).await.is_err(), "case: {token}");
    }
}

#[tokio::test]
async fn an_issuers_tokens_are_valid_only_under_its_own_keys() {
    let rsa = Signer::rsa("r");
    let ec = Signer::ec("e");
    let stranger = Signer::ec("e");
    let issuer = Issuer::start(&[&rsa, &ec]).await;
    let tokens = issuer.tokens(&[]);
    for signer in [&rsa, &ec] {
        let identity = tokens
            .check(&signer.sign(&ours(json!({}))), SENDER, now())
            .await
            .expect("a valid token");
        assert_eq!(identity.principal.class, "trader");
    }
    let cases = [
        ("another's key", stranger.sign(&ours(json!({})))),
        ("for another audience", rsa.sign(&ours(json!({"aud": "them"})))),
        ("of another issuer", rsa.sign(&ours(json!({"iss": "https://evil"})))),
        ("expired", rsa.sign(&ours(json!({"exp": 1})))),
        ("signed with a secret where none is configured", hs256(SECRET, &ours(json!({})))),
    ];
    for (name, token) in cases {
        assert!(tokens.check(&token, SENDER, now()).await.is_err(), "case: {name}");
    }
    // The tokens of both keys needed one request.
    assert_eq!(issuer.requests(), 1);
}

#[tokio::test]
async fn a_public_key_is_not_a_shared_secret() {
    let rsa = Signer::rsa("r");
    let issuer = Issuer::start(&[&rsa]).await;
    let published = rsa.published();
    let modulus = published["n"].as_str().expect("a modulus").to_owned();
    let raw = URL_SAFE_NO_PAD.decode(&modulus).expect("base64");
    for tokens in [issuer.tokens(&[]), issuer.tokens(&["--jwt-secret", SECRET])] {
        for secret in [modulus.as_bytes(), &raw, published.to_string().as_bytes()] {
            for kid in [None, Some("r".to_owned())] {
                let header = Header { kid, ..Header::new(Algorithm::HS256) };
                let key = EncodingKey::from_secret(secret);
                let token = jsonwebtoken::encode(&header, &ours(json!({})), &key).expect("a token");
                assert!(tokens.check(&token, SENDER, now()).await.is_err());
            }
        }
    }
    // With both configured, tokens under the secret are valid too.
    let both = issuer.tokens(&["--jwt-secret", SECRET]);
    assert!(both.check(&hs256(SECRET, &ours(json!({}))), SENDER, now()).await.is_ok());
    assert!(both.check(&rsa.sign(&ours(json!({}))), SENDER, now()).await.is_ok());
}

#[tokio::test]
async fn keys_can_change_and_the_issuer_can_be_unavailable() {
    let old = Signer::ec("old");
    let new = Signer::rsa("new");
    let issuer = Issuer::start(&[&old]).await;
    let tokens = issuer.tokens(&[]);
    let by_old = old.sign(&ours(json!({})));
    let by_new = new.sign(&ours(json!({})));
    assert!(tokens.check(&by_old, SENDER, now()).await.is_ok());
    assert!(matches!(tokens.check(&by_new, SENDER, now()).await, Err(TokenError::UnknownKey)));
    issuer.break_down();
    assert!(matches!(tokens.check(&by_new, SENDER, now()).await, Err(TokenError::UnknownKey)));
    assert!(tokens.check(&by_old, SENDER, now()).await.is_ok(), "cached keys stay valid");
    issuer.publish(&[&new]);
    assert!(tokens.check(&by_new, SENDER, now()).await.is_ok(), "an unknown key is loaded");
    assert!(
        tokens.check(&by_old, SENDER, now()).await.is_err(),
        "the old key is no longer published"
    );

    let silent = Issuer::start(&[&old]).await;
    silent.break_down();
    let unavailable = silent.tokens(&[]).check(&by_old, SENDER, now()).await;
    assert!(matches!(unavailable, Err(TokenError::IssuerUnavailable(_))), "{unavailable:?}");
}

#[tokio::test]
async fn an_issuer_that_does_not_answer_delays_only_tokens_with_unknown_keys() {
    let key = Signer::ec("key");
    let issuer = Issuer::start(&[&key]).await;
    let tokens = Arc::new(issuer.tokens(&[]));
    let known = key.sign(&ours(json!({})));
    assert!(tokens.check(&known, SENDER, now()).await.is_ok());
    issuer.hangs.store(true, Ordering::SeqCst);
    // The keys are so old that they are loaded again.
    tokio::time::pause();
    tokio::time::advance(Duration::from_mins(11)).await;
    tokio::time::resume();

    let made_up = Signer { id: "made-up".to_owned(), ..Signer::ec("") }.sign(&ours(json!({})));
    let waiting = {
        let tokens = tokens.clone();
        tokio::spawn(async move { tokens.check(&made_up, SENDER, now()).await })
    };
    while issuer.requests() < 2 {
        tokio::task::yield_now().await;
    }
    assert!(tokens.check(&known, SENDER, now()).await.is_ok());
    assert!(!waiting.is_finished(), "it waits for the issuer");
    assert!(waiting.await.expect("no panic").is_err());
    assert!(tokens.check(&known, SENDER, now()).await.is_ok());
}

/// Sends tokens with made-up keys.
async fn make_noise(tokens: &Tokens, sender: impl Fn(u32) -> String) {
    for n in 0..50 {
        let made_up = Signer { id: n.to_string(), ..Signer::ec("") }.sign(&ours(json!({})));
        assert!(tokens.check(&made_up, &sender(n), now()).await.is_err());
    }
}

#[tokio::test]
async fn unknown_keys_do_not_flood_the_issuer() {
    let key = Signer::ec("key");
    let issuer = Issuer::start(&[&key]).await;
    let tokens = issuer.tokens(&[]);
    assert!(tokens.check(&key.sign(&ours(json!({}))), SENDER, now()).await.is_ok());
    make_noise(&tokens, |_| SENDER.to_owned()).await;
    assert!(issuer.requests() <= 5, "{} requests", issuer.requests());
    assert!(tokens.check(&key.sign(&ours(json!({}))), SENDER, now()).await.is_ok());
}

#[tokio::test]
async fn noise_of_one_sender_delays_no_new_key_of_another() {
    let (old, new) = (Signer::ec("old"), Signer::ec("new"));
    let issuer = Issuer::start(&[&old]).await;
    let tokens = issuer.tokens(&[]);
    let noisy = "address/198.51.100.1";
    make_noise(&tokens, |_| noisy.to_owned()).await;
    issuer.publish(&[&old, &new]);
    let token = new.sign(&ours(json!({})));
    assert!(tokens.check(&token, noisy, now()).await.is_err(), "it made noise");
    assert!(tokens.check(&token, SENDER, now()).await.is_ok());
}

#[tokio::test]
async fn the_noise_of_many_senders_is_bounded() {
    let key = Signer::ec("key");
    let issuer = Issuer::start(&[&key]).await;
    let tokens = issuer.tokens(&[]);
    make_noise(&tokens, |n| format!("address/{n}")).await;
    assert!(issuer.requests() <= 20, "{} requests", issuer.requests());
    assert!(tokens.check(&key.sign(&ours(json!({}))), SENDER, now()).await.is_ok());
}

#[test]
fn an_issuer_requires_its_name_and_an_audience() {
    let url = ["test", "--jwks-url", "https://issuer.example/keys"];
    assert!(Cli::try_parse_from(url).is_err());
    let more = ["--jwt-issuer", "i", "--jwt-audience", "a"];
    assert!(Cli::try_parse_from(url.iter().chain(&more)).is_ok());
}

proptest! {
    #[test]
    fn no_token_makes_the_check_panic(
        header in "\\{\"alg\":\"(HS256|none|RS256)\"(,\"kid\":\"[a-z]{0,3}\")?\\}|\\PC{0,20}",
        body in "\\{(\"(sub|exp|nbf|aud|classes)\":(1|\"x\"|\\[1\\]|null|-1e999),?){0,3}\\}|\\PC{0,20}",
        rest in "[A-Za-z0-9_.-]{0,20}",
    ) {
        let tokens = tokens(&["--jwt-secret", SECRET]);
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let token = format!("{}.{}.{rest}", part(&header), part(&body));
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        prop_assert!(runtime.block_on(tokens.check(&token, SENDER, now())).is_err());
        prop_assert!(runtime.block_on(tokens.check(&rest, SENDER, now())).is_err());
        // A signed token can still have bad claims.
        if let Ok(claims) = serde_json::from_str::<Value>(&body) && claims.is_object() {
            let _ = runtime.block_on(tokens.check(&hs256(SECRET, &claims), SENDER, now()));
        }
    }
}
