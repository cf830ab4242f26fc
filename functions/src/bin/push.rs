//! `PushFunction` in `template.yaml`.

use aws::clients::Clients;
use domain::clock::Clock;
use functions::{failure::Failure, settings::Environment};
use jiff::Timestamp;
use lambda_runtime::{Error, LambdaEvent, run, service_fn, tracing};

#[tokio::main]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    let clients = Clients::from_env().await?;
    let clock = Clock::new(Timestamp::now);
    let pusher = &Environment::read()?.pusher(&clients, clock)?;
    run(service_fn(async |event: LambdaEvent<_>| {
        pusher.handle(event.payload).await.map_err(Failure::from)
    }))
    .await
}
