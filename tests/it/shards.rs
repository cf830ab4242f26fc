//! A change of the number of shards, during which the functions and the poller have different settings.

use std::net::SocketAddr;

use harness::{Client, Event, ExchangeServer, Ports, Program, Rest};
use reqwest::Method;

const TOPIC: &str = "coinbase/matches/BTC-USD";

/// The number of clients. With 8 shards, many are in shards 4 to 7.
const CLIENTS: usize = 24;

/// The parts of Headwater as processes, with a setting of their own.
struct Parts<'a> {
    exchange: &'a ExchangeServer,
    ports: Ports,
    variables: Vec<(&'static str, String)>,
    /// They run until the test ends.
    programs: Vec<Program>,
    poller: Option<Program>,
}

impl<'a> Parts<'a> {
    /// Starts the database.
    async fn start(exchange: &'a ExchangeServer) -> Self {
        let ports = Ports::reserve(5);
        let at = |nth| ports.at(nth).to_string();
        let variables = vec![
            ("AWS_REGION", "local".to_owned()),
            ("AWS_ACCESS_KEY_ID", "local".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "local".to_owned()),
            ("AWS_ENDPOINT_URL_DYNAMODB", format!("http://{}", at(0))),
            ("AWS_ENDPOINT_URL_LAMBDA", format!("http://{}", at(1))),
            ("HEADWATER_CALLBACK_URL", "http://{domain}/{stage}".to_owned()),
            ("HEADWATER_CONNECTION_SECRET", "a secret of at least thirty-two bytes".to_owned()),
            ("HEADWATER_POLICY", "open".to_owned()),
            ("HEADWATER_COINBASE_URL", exchange.url()),
            ("HEADWATER_COINBASE_REST_URL", exchange.rest_url()),
            ("HEADWATER_MASTODON_SERVERS", String::new()),
        ];
        let mut parts = Self { exchange, ports, variables, programs: Vec::new(), poller: None };
        let database = parts.run("headwater", &["database", "--listen", &parts.at(0)], "");
        parts.programs.push(database);
        parts.answers(0, "/").await;
        parts
    }

    fn at(&self, nth: u16) -> String {
        self.ports.at(nth).to_string()
    }

    fn address(&self) -> SocketAddr {
        self.ports.at(2)
    }

    /// Starts the functions, and the gateway, with a setting of shards.
    async fn start_functions(&mut self, shards: &str) {
        let functions = self.run("headwater", &["functions", "--listen", &self.at(1)], shards);
        self.programs.push(functions);
        self.answers(1, "/healthz").await;
        let (listen, functions) = (self.at(2), format!("http://{}", self.at(1)));
        let gateway = ["gateway", "--listen", &listen, "--domain", &listen];
        let gateway = [&gateway[..], &["--invoke-url", &functions]].concat();
        let gateway = self.run("headwater", &gateway, "");
        self.programs.push(gateway);
        self.answers(2, "/healthz").await;
    }

    /// Starts a poller with a setting of shards, and then stops the one before it.
    async fn start_poller(&mut self, nth: u16, shards: &str) {
        let listen = self.at(3 + nth);
        let poller = self.run("headwater-poller", &["--health-listen", &listen], shards);
        self.answers(3 + nth, "/healthz").await;
        if let Some(before) = self.poller.replace(poller) {
            before.terminate().await;
        }
    }

    fn run(&self, program: &str, arguments: &[&str], shards: &str) -> Program {
        let variables = self.variables.iter().map(|(name, value)| (*name, value.as_str()));
        let shards = Some(("HEADWATER_SHARDS", shards)).filter(|(_, shards)| !shards.is_empty());
        let variables: Vec<(&str, &str)> = variables.chain(shards).collect();
        Program::start_other(program, arguments, &variables)
    }

    async fn answers(&self, nth: u16, path: &str) {
        let rest = Rest::new(self.ports.at(nth));
        harness::until("a part answers", async || {
            let answer = rest.try_ask(Method::GET, path).await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
    }

    /// Waits until the poller leads.
    async fn leads(&self, nth: u16) {
        let health = Rest::new(self.ports.at(3 + nth));
        harness::until("the poller leads", async || {
            let answer = health.try_ask(Method::GET, "/healthz").await.ok()?;
            let leads = answer.json()["leads"].as_array().is_some_and(|it| !it.is_empty());
            leads.then_some(())
        })
        .await;
    }

    /// Connects clients and subscribes them.
    async fn clients(&self) -> Vec<Client> {
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let mut client = Client::try_connect(self.address(), "/live", &[]).await.unwrap();
            client.subscribe(&[TOPIC]).await;
            clients.push(client);
        }
        self.exchange.subscribed("matches", "BTC-USD").await;
        clients
    }

    /// Makes trades, and checks that each client gets each of them once.
    async fn all_get_each_trade_once(&self, clients: &mut [Client]) {
        let ids: Vec<u64> = (0..5).map(|_| self.exchange.trade("BTC-USD")).collect();
        for client in &mut *clients {
            let events = client.events(TOPIC, ids.len()).await;
            assert_eq!(events.iter().map(Event::trade_id).collect::<Vec<_>>(), ids);
        }
        for client in clients {
            assert_eq!(client.drain(TOPIC), [], "nobody gets an event twice");
        }
    }
}

#[tokio::test]
async fn nobody_is_mute_when_the_functions_have_more_shards_than_the_poller() {
    let exchange = ExchangeServer::start().await.unwrap();
    let mut parts = Parts::start(&exchange).await;
    // The poller leads before anybody can know of the new shards.
    parts.start_poller(0, "4").await;
    parts.leads(0).await;
    parts.start_functions("8,4").await;
    let mut clients = parts.clients().await;
    parts.all_get_each_trade_once(&mut clients).await;
    // The poller is deployed last, and takes over.
    parts.start_poller(1, "8,4").await;
    parts.leads(1).await;
    parts.all_get_each_trade_once(&mut clients).await;
}

#[tokio::test]
async fn nobody_is_mute_when_the_poller_has_more_shards_than_the_functions() {
    let exchange = ExchangeServer::start().await.unwrap();
    let mut parts = Parts::start(&exchange).await;
    parts.start_poller(0, "8,4").await;
    parts.leads(0).await;
    parts.start_functions("4").await;
    let mut clients = parts.clients().await;
    parts.all_get_each_trade_once(&mut clients).await;
}
