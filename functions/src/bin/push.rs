//! `PushFunction` in `template.yaml`.

use std::sync::Arc;

use functions::{app::App, failure::Failure, push::Pusher};
use jiff::Timestamp;
use lambda_runtime::{Error, LambdaEvent, run, service_fn, tracing};

#[tokio::main]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    let app = App::from_env().await?;
    let pusher = &Pusher::new(&app.tables, app.post.clone(), Arc::new(Timestamp::now));
    run(service_fn(async |event: LambdaEvent<_>| {
        pusher.handle(event.payload).await.map_err(Failure::from)
    }))
    .await
}
