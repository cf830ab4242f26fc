//! The embedded database, which can be away and counts its requests.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use aws::{
    clients::{Clients, TableOptions},
    tables::Tables,
};
use aws_smithy_runtime_api::client::{
    http::{
        HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
    },
    orchestrator::HttpRequest,
    result::ConnectorError,
    runtime_components::RuntimeComponents,
};
use dynamo::Engine;
use futures_util::FutureExt as _;
use tokio::{task, time::Duration};

/// The embedded database and the way to it.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    engine: Engine,
    away: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Way {
    database: Database,
    connector: SharedHttpConnector,
}

impl Database {
    pub(crate) fn new() -> Self {
        let engine = Engine::open(None).unwrap();
        Self { engine, away: Arc::default(), requests: Arc::default() }
    }

    pub(crate) fn tables(&self) -> Tables {
        let config = self.engine.sdk_config().to_builder().http_client(self.clone()).build();
        let options =
            TableOptions { table_prefix: "t-".into(), retention: Duration::from_hours(1) };
        Clients::from_config(config).tables(&options)
    }

    /// Whether requests fail.
    pub(crate) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// Returns the number of requests since the last call.
    pub(crate) fn take_requests(&self) -> usize {
        self.requests.swap(0, Ordering::SeqCst)
    }
}

impl HttpClient for Database {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let connector = self.engine.http_connector(settings, components);
        SharedHttpConnector::new(Way { database: self.clone(), connector })
    }
}

impl HttpConnector for Way {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        self.database.requests.fetch_add(1, Ordering::SeqCst);
        if self.database.away.load(Ordering::SeqCst) {
            let error = ConnectorError::io("the database is away".into());
            return HttpConnectorFuture::ready(Err(error));
        }
        // Waits for the thread of the engine, so that simulated time does not pass meanwhile.
        let mut call = Box::pin(task::unconstrained(self.connector.call(request)));
        loop {
            if let Some(response) = call.as_mut().now_or_never() {
                return HttpConnectorFuture::ready(response);
            }
            thread::yield_now();
        }
    }
}
