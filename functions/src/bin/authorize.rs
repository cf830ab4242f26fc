//! `AuthorizeFunction` in `template.yaml`.

use functions::{access::authorize, app::App, failure::Failure};
use jiff::Timestamp;
use lambda_runtime::{Error, LambdaEvent, run, service_fn, tracing};

#[tokio::main]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    let app = &App::from_env().await?;
    run(service_fn(async |event: LambdaEvent<_>| {
        authorize::handle(app, Timestamp::now(), event.payload).await.map_err(Failure::from)
    }))
    .await
}
