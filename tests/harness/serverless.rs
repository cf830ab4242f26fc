//! Headwater as `template.yaml` deploys it, on a stand-in for AWS that enforces the roles.
//!
//! The binaries of the functions run under a Runtime API of Lambda, behind the emulated API Gateway, and
//! the poller runs beside them. Each program signs its calls with its own name as access key. The stand-in
//! rejects what the role of the program does not grant. Dropping the deployment then fails the test.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    thread,
};

use aws::{
    clients::{Clients, TableOptions},
    tables::Tables,
};
use domain::clock::Clock;
use dynamo::{Engine, Storage};
use gateway::{
    Callbacks, Config, Gateway, GatewayLimits, Sockets,
    template::{self as apis, FunctionNames},
};
use reqwest::Method;
use serde_json::json;
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    task::JoinHandle,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::{
    lambda::Lambda,
    roles::{POLLER, Roles},
    services::{RUNTIME, Services},
};
use crate::{Client, Ports, Rest, program, until};

mod lambda;
pub(crate) mod roles;
mod services;
mod template;

const TABLE_PREFIX: &str = "headwater-";

/// Signs connection tokens.
const CONNECTION_SECRET: &str = "a connection secret of at least thirty-two bytes";

/// A deployment.
pub struct Serverless {
    /// The address for clients.
    pub address: SocketAddr,
    roles: Arc<Roles>,
    services: SocketAddr,
    settings: Vec<(String, String)>,
    database: Engine,
    pollers: Vec<(Child, Ports)>,
    serving: JoinHandle<()>,
    _shutdown: DropGuard,
}

impl Serverless {
    /// Starts the services and the functions, with these variables in the environment of every program.
    /// `jwt_secret` becomes a part of the secret of the functions.
    pub(crate) async fn start(settings: Vec<(String, String)>, jwt_secret: Option<&str>) -> Self {
        let roles = Arc::new(Roles::read());
        let storage = Storage::open(None).unwrap();
        let database = Engine::start(storage.clone()).unwrap();
        tables(&database, Clock::new(jiff::Timestamp::now)).create_missing().await.unwrap();

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let lambda = {
            let (roles, settings) = (roles.clone(), settings.clone());
            Lambda::new(move |binary| {
                let mut command = command(binary, binary, address, &roles, &settings);
                command
                    .env("AWS_LAMBDA_FUNCTION_NAME", roles.function_of(binary))
                    .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512")
                    .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
                    .env("AWS_LAMBDA_LOG_LEVEL", "WARN")
                    .env("AWS_LAMBDA_RUNTIME_API", format!("http://{address}{RUNTIME}/{binary}"));
                command
            })
        };
        let secret = json!({"connectionSecret": CONNECTION_SECRET, "jwtSecret": jwt_secret});
        let sockets = Arc::new(Sockets::new(GatewayLimits::default()));
        let services = Services {
            roles: roles.clone(),
            database: storage,
            lambda: lambda.clone(),
            secret: secret.to_string(),
            sockets: sockets.clone(),
        };
        let router = Arc::new(services).router();
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });

        let shutdown = CancellationToken::new();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../template.yaml");
        let apis = apis::read(&path, FunctionNames::Binary).unwrap();
        let config = Config {
            routes: apis.routes,
            selection: apis.selection,
            authorizer: apis.authorizer,
            http: apis.http,
            // The programs post through the services.
            callbacks: Callbacks::Off,
            ..Config::new((Ipv4Addr::LOCALHOST, 0).into())
        };
        let gateway = Gateway::start(config, sockets, Arc::new(lambda), shutdown.clone()).unwrap();
        let mut serverless = Self {
            address: gateway.address(),
            roles,
            services: address,
            settings,
            database,
            pollers: Vec::new(),
            serving,
            _shutdown: shutdown.drop_guard(),
        };
        serverless.start_poller().await;
        serverless
    }

    /// Starts a poller, and waits until it is healthy.
    pub async fn start_poller(&mut self) {
        let ports = Ports::reserve(1);
        let health = ports.at(0);
        let mut command =
            command("headwater-poller", POLLER, self.services, &self.roles, &self.settings);
        let child = command
            .env("HEADWATER_HEALTH_LISTEN", health.to_string())
            .env("HEADWATER_LOG", "warn")
            .spawn()
            .unwrap();
        self.pollers.push((child, ports));
        let rest = Rest::new(health);
        until("the poller is healthy", async || {
            let answer = rest.try_ask(Method::GET, "/healthz").await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
    }

    /// Kills the poller that was started first, as `kill -9` does.
    pub async fn kill_poller(&mut self) {
        let (mut child, _ports) = self.pollers.remove(0);
        child.kill().await.unwrap();
    }

    /// Returns the tables, without a role. They read the time from `clock`.
    pub fn tables(&self, clock: Clock) -> Tables {
        tables(&self.database, clock)
    }

    /// Connects a client.
    pub async fn client(&self) -> Client {
        Client::try_connect(self.address, "/live", &[]).await.unwrap()
    }

    /// Returns a client of the REST interface.
    pub fn rest(&self) -> Rest {
        Rest::new(self.address)
    }

    /// Returns what the roles grant and no program has used.
    pub fn unused(&self) -> Vec<String> {
        self.roles.unused()
    }
}

impl Drop for Serverless {
    fn drop(&mut self) {
        self.serving.abort();
        let denied = self.roles.denied();
        if denied.is_empty() {
            return;
        }
        let message = format!("calls that no role grants: {denied:#?}");
        // A second panic would abort the test that has failed already.
        assert!(thread::panicking(), "{message}");
        eprintln!("{message}");
    }
}

fn tables(database: &Engine, clock: Clock) -> Tables {
    let options = TableOptions {
        table_prefix: TABLE_PREFIX.to_owned(),
        retention: std::time::Duration::from_hours(24),
    };
    Clients::from_config(database.sdk_config()).tables_with_clock(&options, clock)
}

/// Returns a program of this repository as it runs in the stand-in.
fn command(
    binary: &str,
    access_key: &str,
    services: SocketAddr,
    roles: &Roles,
    settings: &[(String, String)],
) -> Command {
    let mut command = program::command(binary, &[], &[]);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AWS_") {
            command.env_remove(name);
        }
    }
    command
        .env("AWS_ENDPOINT_URL", format!("http://{services}"))
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", access_key)
        .env("AWS_SECRET_ACCESS_KEY", "not checked")
        .env("HEADWATER_TABLE_PREFIX", TABLE_PREFIX)
        .env("HEADWATER_SECRET_ID", roles.secret())
        .env("HEADWATER_CALLBACK_URL", format!("http://{services}/{{stage}}"))
        .env("HEADWATER_PUSH_FUNCTION", roles.function_of("push"))
        .envs(settings.iter().map(|(name, value)| (name, value)));
    command
}
