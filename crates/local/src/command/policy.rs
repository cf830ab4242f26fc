//! `headwater policy`: checks, shows and replaces the rules.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use aws::clients::{Clients, TableOptions};
use domain::rules::{Defect, InvalidSet, Part, RuleSet, SetText};
use jiff::Timestamp;
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::output::print;

/// The longest wait for the response of a server.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Check, show and replace the rules: the Cedar policies and the limits of each class.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Command {
    /// Check policies, and report each error with its position.
    Check(Files),
    /// Replace the rules. They are in force everywhere within 5 seconds.
    Put {
        #[command(flatten)]
        files: Files,
        #[command(flatten)]
        location: Location,
    },
    /// Print the policies in force.
    Show {
        /// Print the limits in place of the policies.
        #[arg(long, conflicts_with = "json")]
        limits: bool,
        /// Print the policies, the limits, the version and its author as JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        location: Location,
    },
}

/// A rule set in files.
#[derive(Clone, Debug, clap::Args)]
struct Files {
    /// Read the policies, in Cedar, from this file.
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Read the limits of each class, in JSON, from this file. By default, the limits in force are
    /// kept.
    #[arg(long, value_name = "FILE")]
    limits: Option<PathBuf>,
}

/// Where the rules are stored: behind a server, or in the tables on AWS.
#[derive(Clone, Debug, clap::Args)]
struct Location {
    /// Connect to this server, such as `http://127.0.0.1:8080`. Its rules must permit `admin` to the
    /// class of the token. By default, access the tables with the settings of the AWS SDK.
    #[arg(long)]
    url: Option<Url>,

    /// Authenticate with this token, as created by `headwater token --class admin`.
    #[arg(long, env = "HEADWATER_TOKEN", hide_env_values = true, requires = "url")]
    token: Option<String>,

    #[command(flatten)]
    tables: TableOptions,
}

/// A rule set and its version, as a server returns it.
#[derive(Debug, Deserialize, Serialize)]
struct StoredRules {
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    policies: String,
    limits: String,
}

/// The error response of a server.
#[derive(Debug, Deserialize)]
struct ServerError {
    detail: String,
}

/// Runs the command and prints its result.
///
/// # Errors
///
/// When the rules are not valid, with each error and its position; or when they cannot be read or
/// written.
pub async fn run(options: Options) -> anyhow::Result<()> {
    print(&options.command.run().await?);
    Ok(())
}

impl Command {
    async fn run(self) -> anyhow::Result<String> {
        match self {
            Self::Check(files) => {
                files.check(files.read(SetText::preset().limits)?)?;
                Ok(format!("{} is valid\n", files.file.display()))
            }
            Self::Put { files, location } => {
                // Checked here as well as by the server, because only here the file names are known.
                let limits = location.read().await?.limits;
                let rules = files.check(files.read(limits)?)?;
                let version = location.write(rules.text()).await?;
                Ok(format!("{} is in force as version {version}\n", files.file.display()))
            }
            Self::Show { limits, json, location } => {
                let stored = location.read().await?;
                if json {
                    return Ok(format!("{}\n", serde_json::to_string_pretty(&stored)?));
                }
                Ok(if limits { stored.limits } else { stored.describe() })
            }
        }
    }
}

impl Files {
    /// Reads the files; `limits` are used if no file has any.
    fn read(&self, limits: String) -> anyhow::Result<SetText> {
        let limits = match &self.limits {
            Some(path) => read_file(path)?,
            None => limits,
        };
        Ok(SetText { policies: read_file(&self.file)?, limits })
    }

    fn check(&self, text: SetText) -> anyhow::Result<RuleSet> {
        match RuleSet::read(text) {
            Ok(set) => Ok(set),
            Err(InvalidSet(defects)) => {
                let mut lines = String::new();
                for Defect { part, line, column, message } in &defects {
                    let file = match (part, &self.limits) {
                        (Part::Policies, _) => self.file.display().to_string(),
                        (Part::Limits, Some(file)) => file.display().to_string(),
                        (Part::Limits, None) => "limits in force".to_owned(),
                    };
                    write!(lines, "\n{file}:{line}:{column}: {message}")?;
                }
                bail!("the rules are not valid{lines}")
            }
        }
    }
}

fn read_file(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

impl Location {
    async fn read(&self) -> anyhow::Result<StoredRules> {
        if let Some(url) = &self.url {
            return self.request(url, Method::GET, None).await;
        }
        let control = Clients::from_env().await?.tables(&self.tables).control;
        let current = control.current_rules().await.context("cannot read the control table")?;
        let text = match &current {
            Some(current) => {
                control.rules(current).await.context("cannot read the control table")?
            }
            None => SetText::preset(),
        };
        Ok(StoredRules {
            version: current.as_ref().map_or(0, |current| current.version),
            at: current.as_ref().map(|current| current.at),
            by: current.map(|current| current.by),
            policies: text.policies,
            limits: text.limits,
        })
    }

    /// Stores rules and returns their version.
    async fn write(&self, text: &SetText) -> anyhow::Result<u64> {
        if let Some(url) = &self.url {
            return Ok(self.request(url, Method::PUT, Some(text)).await?.version);
        }
        let control = Clients::from_env().await?.tables(&self.tables).control;
        let stored = control.put_rules(text, "headwater policy put", Timestamp::now()).await;
        Ok(stored.context("cannot write to the control table")?.version)
    }

    async fn request(
        &self,
        url: &Url,
        method: Method,
        body: Option<&SetText>,
    ) -> anyhow::Result<StoredRules> {
        let client = reqwest::Client::builder().timeout(TIMEOUT).build()?;
        let mut request = client.request(method, url.join("api/v1/policy")?);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.with_context(|| format!("no response from {url}"))?;
        let status = response.status();
        if status.is_success() {
            return response.json().await.context("cannot parse the response of the server");
        }
        let code = status.as_u16();
        match (status, response.json::<ServerError>().await) {
            (_, Ok(error)) => bail!("the server responded with {code}: {}", error.detail),
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, Err(_)) => {
                bail!("the server responded with {code}: it rejected the token")
            }
            (_, Err(_)) => bail!("the server responded with {status}"),
        }
    }
}

impl StoredRules {
    /// Returns the policies with a comment about their version. `headwater policy put` accepts it.
    fn describe(&self) -> String {
        let version = match (self.version, &self.at, &self.by) {
            (version, Some(at), Some(by)) => format!("version {version}, put at {at} by {by}"),
            _ => "the initial rules; no others have been put".to_owned(),
        };
        format!("// {version}\n{}", self.policies)
    }
}
