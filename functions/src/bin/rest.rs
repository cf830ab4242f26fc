//! `RestFunction` in `template.yaml`.

use std::sync::Arc;

use domain::clock::Clock;
use functions::{app::App, rest};
use jiff::Timestamp;
use lambda_http::{Error, lambda_runtime::tracing, run};

#[tokio::main]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    let app = Arc::new(App::from_env().await?);
    run(rest::router(app, Clock::new(Timestamp::now))).await
}
