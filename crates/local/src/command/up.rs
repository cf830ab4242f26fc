//! `headwater up`: everything on this machine.

use std::path::PathBuf;

use ::functions::settings::Options as FunctionOptions;
use ::poller::config::Options as PollerOptions;
use aws::clients::TableOptions;
use dynamo::Durability;
use tokio_util::sync::CancellationToken;

use super::{hosts::Hosts, listen::Listen};
use crate::{
    in_process::{Server, Settings},
    output::print,
};

/// Run everything on this machine, with the live upstreams or with simulated ones.
///
/// Serves the page, the REST API and the WebSocket API on one port. Needs no AWS account.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    #[expect(missing_docs, reason = "a doc comment would replace the help text of the command")]
    #[command(flatten)]
    pub listen: Listen,

    #[expect(missing_docs, reason = "as above")]
    #[command(flatten)]
    pub hosts: Hosts,

    /// Keep the database in this folder. By default, the data is lost when the program ends.
    #[arg(long, env = "HEADWATER_DATA_DIR", value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,

    /// When a write to the database in the folder counts as done: `full` waits for the disk, so it
    /// survives a power failure; `fast` does not wait, and a power failure can lose the last writes.
    #[arg(long, env = "HEADWATER_DURABILITY", value_name = "WHEN", default_value = "full")]
    pub durability: Durability,

    /// Run simulated upstreams, and read them in place of the live ones.
    #[arg(long)]
    pub simulated: bool,

    /// With `--simulated`: generate the data from this seed.
    #[arg(long, default_value_t = 1, requires = "simulated")]
    pub seed: u64,

    /// With `--simulated`: make this many trades per second on average, and a tenth as many posts.
    #[arg(long, default_value_t = 20.0, requires = "simulated")]
    pub rate: f64,

    #[expect(missing_docs, reason = "as above")]
    #[command(flatten)]
    pub tables: TableOptions,

    #[expect(missing_docs, reason = "as above")]
    #[command(flatten)]
    pub functions: FunctionOptions,

    #[expect(missing_docs, reason = "as above")]
    #[command(flatten)]
    pub poller: PollerOptions,
}

impl Options {
    /// Starts the server that these options describe. It runs until `shutdown`.
    ///
    /// # Errors
    ///
    /// When the address cannot be bound, the data folder cannot be used, or a setting is not valid.
    pub async fn start(self, shutdown: CancellationToken) -> anyhow::Result<Server> {
        let simulation = self.simulated.then(|| simulator::Options {
            seed: self.seed,
            rate: self.rate,
            ..simulator::Options::default()
        });
        let settings = Settings {
            listen: self.listen.address,
            hosts: self.hosts.hosts,
            data_dir: self.data_dir,
            durability: self.durability,
            simulation,
            tables: self.tables,
            functions: self.functions,
            poller: self.poller,
        };
        Server::start(settings, shutdown).await
    }
}

/// Runs everything until `shutdown`.
///
/// # Errors
///
/// When it cannot start, or when it has to stop before `shutdown`.
pub async fn run(options: Options, shutdown: CancellationToken) -> anyhow::Result<()> {
    let server = options.start(shutdown).await?;
    print(&welcome(&server));
    server.stopped().await
}

fn welcome(server: &Server) -> String {
    let address = server.address();
    let data = if server.simulator().is_some() { "SIMULATED data" } else { "live data" };
    let access = if server.is_open() {
        "Access control is off: no tokens are accepted, and everybody can read everything. Set\n\
         HEADWATER_JWT_SECRET to enforce the rules of policies/default.cedar, and create a token with\n\
         `headwater token --class trader`."
    } else {
        "Access control is on. See `headwater policy --help` for the rules and `headwater token --help`\n\
         for tokens."
    };
    format!(
        "Headwater is up with {data}.\n\n  \
         page       http://{address}/\n  \
         status     http://{address}/api/v1/status\n  \
         WebSocket  ws://{address}/live\n  \
         REST       http://{address}/api/v1/openapi.json\n\n\
         In another terminal:\n  \
         headwater tail --url ws://{address}/live coinbase/ticker/BTC-USD mastodon/public\n\n\
         {access}\n\n"
    )
}
