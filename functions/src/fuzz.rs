//! Fuzz target: the tokens of clients.

use std::sync::LazyLock;

use bolero::check;
use clap::Parser as _;
use futures_util::FutureExt as _;
use jiff::Timestamp;

use crate::access::identity::{self, Tokens};

#[derive(clap::Parser)]
struct Options {
    #[command(flatten)]
    options: identity::Options,
}

static TOKENS: LazyLock<Tokens> = LazyLock::new(|| {
    let secret = "--jwt-secret=a secret of at least thirty-two bytes";
    Tokens::new(Options::try_parse_from(["test", secret]).expect("options").options)
});

#[test]
fn tokens() {
    check!().for_each(|input| {
        if let Ok(token) = str::from_utf8(input) {
            let checked = TOKENS.check(token, "address/192.0.2.7", Timestamp::UNIX_EPOCH);
            let checked = checked.now_or_never().expect("a secret is there at once");
            assert!(checked.is_err(), "a forged token was accepted");
        }
    });
}
