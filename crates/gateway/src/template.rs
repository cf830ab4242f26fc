//! Reads the WebSocket API and the HTTP API of a SAM or CloudFormation template.
//!
//! The reader knows `AWS::Serverless::WebSocketApi`, `AWS::Serverless::HttpApi` with the `HttpApi`
//! events of functions, and the plain `AWS::ApiGatewayV2` resources. It finds a function wherever a
//! property refers to it, by any intrinsic function. It does not evaluate conditions, and uses the
//! default of each parameter.

use std::{collections::BTreeMap, fmt, path::Path};

use anyhow::{Context as _, bail};
use saphyr::{LoadableYamlNode as _, Scalar, Yaml};
use serde_json::{Map, Value, json};

use crate::{
    Authorizer, HttpRoute, HttpRoutes, IdentitySource, Route, RouteKey, Routes, Selection,
};

mod api_gateway_v2;
mod http;
mod intrinsics;
mod web_socket;

/// The name by which a function is invoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum FunctionNames {
    /// The binary (`Metadata`, `BuildProperties`, `Binary`), as `cargo lambda watch` does.
    #[default]
    Binary,
    /// The logical id in the template, as `sam local start-lambda` does.
    LogicalId,
    /// `FunctionName`, as AWS does.
    FunctionName,
}

/// The APIs of a template.
#[derive(Debug)]
pub struct Apis {
    /// The stage of the WebSocket API.
    pub stage: Option<String>,
    /// Its routes.
    pub routes: Routes,
    /// The expression that selects the route of a message.
    pub selection: Selection,
    /// The authorizer of handshakes.
    pub authorizer: Option<Authorizer>,
    /// The routes of the HTTP API.
    pub http: HttpRoutes,
    /// What the template asks for and the gateway does not support, one sentence each.
    pub ignored: Vec<String>,
}

/// A template's resources, the defaults of its parameters, and the names of its functions.
struct Template {
    resources: Map<String, Value>,
    parameters: BTreeMap<String, String>,
    functions: BTreeMap<String, String>,
}

/// Reads the APIs of a template file.
///
/// # Errors
///
/// When the file cannot be read, is not a template, or has no API that the gateway can serve.
pub fn read(path: &Path, names: FunctionNames) -> anyhow::Result<Apis> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the template {}", path.display()))?;
    parse(&text, names).with_context(|| format!("template {}", path.display()))
}

fn parse(text: &str, names: FunctionNames) -> anyhow::Result<Apis> {
    let documents = Yaml::load_from_str(text).context("it is not YAML")?;
    let document = documents.first().context("it is empty")?;
    let document = intrinsics::to_json(document);
    let Some(resources) = document["Resources"].as_object() else {
        bail!("it has no Resources");
    };
    let template = Template::new(resources.clone(), &document["Parameters"], names);
    let mut ignored = Vec::new();
    let web_socket = web_socket::read(&template, &mut ignored)?;
    let http = http::read(&template, &mut ignored)?;
    if web_socket.is_none() && http.is_empty() {
        bail!("it has neither a WebSocket API nor an HTTP API with routes to functions");
    }
    let web_socket = web_socket.unwrap_or_default();
    Ok(Apis {
        stage: web_socket.stage,
        routes: web_socket.routes,
        selection: web_socket.selection,
        authorizer: web_socket.authorizer,
        http,
        ignored,
    })
}

impl Template {
    fn new(resources: Map<String, Value>, parameters: &Value, names: FunctionNames) -> Self {
        let parameters = parameters.as_object().into_iter().flatten();
        let parameters = parameters.filter_map(|(name, parameter)| {
            let default = match &parameter["Default"] {
                Value::Null => return None,
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            Some((name.clone(), default))
        });
        let functions = resources.iter().filter_map(|(id, resource)| {
            let kind = resource["Type"].as_str()?;
            if !matches!(kind, "AWS::Serverless::Function" | "AWS::Lambda::Function") {
                return None;
            }
            let named = match names {
                FunctionNames::LogicalId => None,
                FunctionNames::FunctionName => resource["Properties"]["FunctionName"].as_str(),
                FunctionNames::Binary => resource["Metadata"]["BuildProperties"]["Binary"].as_str(),
            };
            Some((id.clone(), named.unwrap_or(id).to_owned()))
        });
        Self { functions: functions.collect(), parameters: parameters.collect(), resources }
    }

    /// Returns the resources of a type, with their ids.
    fn of_type<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let resources = self.resources.iter();
        let of_type = resources.filter(move |(_, resource)| resource["Type"] == kind);
        of_type.map(|(id, resource)| (id.as_str(), &resource["Properties"]))
    }

    /// Returns the name of the function that a property refers to.
    fn function(&self, property: &Value) -> Option<String> {
        let ids = intrinsics::references(property);
        ids.iter().find_map(|id| self.functions.get(id)).cloned()
    }

    /// Whether a property refers to the resource `id`.
    fn refers(property: &Value, id: &str) -> bool {
        intrinsics::references(property).iter().any(|found| found == id)
    }

    /// Returns a property that is a string or refers to a parameter with a default.
    fn text(&self, property: &Value) -> Option<String> {
        match property {
            Value::String(text) => Some(text.clone()),
            Value::Object(_) => self.parameters.get(property["Ref"].as_str()?).cloned(),
            _ => None,
        }
    }
}

/// Parses an identity source: `route.request.header.Auth`, `$request.querystring.token`.
fn identity_source(text: &str) -> Option<IdentitySource> {
    let path = text.strip_prefix("route.").or_else(|| text.strip_prefix('$'))?;
    let (place, name) = path.strip_prefix("request.")?.split_once('.')?;
    match place {
        "header" => Some(IdentitySource::Header(name.to_owned())),
        "querystring" => Some(IdentitySource::Query(name.to_owned())),
        _ => None,
    }
}

impl fmt::Display for Apis {
    /// One line for each route.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, route) in self.routes.iter() {
            writeln!(f, "  {key} -> {}", route.function)?;
        }
        for route in self.http.as_slice() {
            writeln!(f, "  {} -> {}", route.key.as_str(), route.function)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
