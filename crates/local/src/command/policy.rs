//! `headwater policy`: checks, shows and replaces the rules.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use aws::clients::{Clients, TableOptions};
use domain::policy::{Fault, Part, Policies, SetText, Unsound};
use jiff::Timestamp;
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::output::print;

/// How long a server may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// The settings of `headwater policy`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Command {
    /// Say what is wrong with policies, and where.
    Check(Files),
    /// Put policies in force; within five seconds they are so everywhere.
    Put {
        #[command(flatten)]
        files: Files,
        #[command(flatten)]
        place: Place,
    },
    /// Print the policies in force.
    Show {
        /// Print the limits, and not the policies.
        #[arg(long, conflicts_with = "json")]
        limits: bool,
        /// Print all of it as JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
}

/// A set in files.
#[derive(Clone, Debug, clap::Args)]
struct Files {
    /// The policies, in Cedar.
    file: PathBuf,

    /// The limits of each class, in JSON. Without it, those in force stay.
    #[arg(long)]
    limits: Option<PathBuf>,
}

/// Where the rules are: in the tables on AWS, or with a server.
#[derive(Clone, Debug, clap::Args)]
struct Place {
    /// Address of a server, such as `http://127.0.0.1:8080`, where the token's class may `admin`.
    /// Without it, the tables that the environment of the AWS SDK leads to.
    #[arg(long)]
    url: Option<Url>,

    /// Token to show to the server, as `headwater token --class admin` makes it.
    #[arg(long, env = "HEADWATER_TOKEN", hide_env_values = true, requires = "url")]
    token: Option<String>,

    #[command(flatten)]
    tables: TableOptions,
}

/// Rules as a server shows them.
#[derive(Debug, Deserialize, Serialize)]
struct Shown {
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    policies: String,
    limits: String,
}

/// What a server says went wrong.
#[derive(Debug, Deserialize)]
struct Refusal {
    detail: String,
}

/// Does it, and returns what is to be printed.
///
/// # Errors
///
/// When the rules are not sound, with each fault and its place; or when they cannot be had.
pub async fn run(options: Options) -> anyhow::Result<()> {
    print(&options.command.run().await?);
    Ok(())
}

impl Command {
    async fn run(self) -> anyhow::Result<String> {
        match self {
            Self::Check(files) => {
                let text = files.read(SetText::preset().limits)?;
                files.check(text)?;
                Ok(format!("{} is sound\n", files.file.display()))
            }
            Self::Put { files, place } => {
                // A set that is not sound is refused here, where its file is known.
                let limits = place.show().await?.limits;
                let text = files.read(limits)?;
                let version = place.put(files.check(text)?.text()).await?;
                Ok(format!("{} is in force, as version {version}\n", files.file.display()))
            }
            Self::Show { limits, json, place } => {
                let shown = place.show().await?;
                if json {
                    return Ok(format!("{}\n", serde_json::to_string_pretty(&shown)?));
                }
                Ok(if limits { shown.limits } else { shown.describe() })
            }
        }
    }
}

impl Files {
    fn read(&self, limits: String) -> anyhow::Result<SetText> {
        let read = |path: &Path| {
            let text = std::fs::read_to_string(path);
            text.with_context(|| format!("cannot read {}", path.display()))
        };
        let limits = self.limits.as_deref().map_or(Ok(limits), read)?;
        Ok(SetText { policies: read(&self.file)?, limits })
    }

    fn check(&self, text: SetText) -> anyhow::Result<Policies> {
        match Policies::read(text) {
            Ok(policies) => Ok(policies),
            Err(Unsound(faults)) => {
                let mut lines = String::new();
                for Fault { part, line, column, message } in &faults {
                    let file = match (part, &self.limits) {
                        (Part::Policies, _) => self.file.display().to_string(),
                        (Part::Limits, Some(file)) => file.display().to_string(),
                        (Part::Limits, None) => "limits in force".to_owned(),
                    };
                    write!(lines, "\n{file}:{line}:{column}: {message}")?;
                }
                bail!("the rules are not sound{lines}")
            }
        }
    }
}

impl Place {
    async fn show(&self) -> anyhow::Result<Shown> {
        if let Some(url) = &self.url {
            return self.ask(url, Method::GET, None).await;
        }
        let control = Clients::from_env().await?.tables(&self.tables).control;
        let current = control.current_rules().await.context("cannot read the table")?;
        let text = match &current {
            Some(current) => control.rules(current).await.context("cannot read the table")?,
            None => SetText::preset(),
        };
        Ok(Shown {
            version: current.as_ref().map_or(0, |current| current.version),
            at: current.as_ref().map(|current| current.at),
            by: current.map(|current| current.by),
            policies: text.policies,
            limits: text.limits,
        })
    }

    async fn put(&self, text: &SetText) -> anyhow::Result<u64> {
        if let Some(url) = &self.url {
            return Ok(self.ask(url, Method::PUT, Some(text)).await?.version);
        }
        let control = Clients::from_env().await?.tables(&self.tables).control;
        let put = control.put_rules(text, "headwater policy put", Timestamp::now()).await;
        Ok(put.context("cannot write to the table")?.version)
    }

    async fn ask(
        &self,
        url: &Url,
        method: Method,
        body: Option<&SetText>,
    ) -> anyhow::Result<Shown> {
        let address = url.join("api/v1/policy")?;
        let http = reqwest::Client::builder().timeout(PATIENCE).build()?;
        let mut request = http.request(method, address);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.with_context(|| format!("no answer from {url}"))?;
        let status = answer.status();
        if status.is_success() {
            return answer.json().await.context("the server's answer cannot be read");
        }
        let detail = answer.json::<Refusal>().await.map(|refusal| refusal.detail);
        match (status, detail) {
            (_, Ok(detail)) => bail!("the server says {}: {detail}", status.as_u16()),
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, Err(_)) => {
                bail!("the server says {}: the token is not good", status.as_u16())
            }
            (_, Err(_)) => bail!("the server says {status}"),
        }
    }
}

impl Shown {
    /// The policies, which can be put again as they are printed.
    fn describe(&self) -> String {
        let origin = match (self.version, &self.at, &self.by) {
            (version, Some(at), Some(by)) => format!("version {version}, put {at} by {by}"),
            _ => "those to begin with: none were put in force".to_owned(),
        };
        format!("// {origin}\n{}", self.policies)
    }
}
