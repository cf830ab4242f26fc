//! Reads the WebSocket API and the HTTP API of a SAM or CloudFormation template.
//!
//! The reader knows `AWS::Serverless::WebSocketApi`, `AWS::Serverless::HttpApi` with the `HttpApi`
//! events of functions, and the plain `AWS::ApiGatewayV2` resources. It finds a function wherever a
//! property refers to it, by any intrinsic function. It does not evaluate conditions, and uses the
//! default of each parameter.

mod api_gateway_v2;
mod function_names;
mod http;
mod intrinsics;
mod resources;
mod web_socket;

use std::{fmt, path::Path};

use anyhow::{Context as _, bail};
use saphyr::{LoadableYamlNode as _, Yaml};
use serde_json::Value;

pub use self::function_names::FunctionNames;
use self::resources::Template;
use crate::{
    authorizer::Authorizer,
    http_api::routes::HttpRoutes,
    web_socket::routes::{Routes, Selection},
};

/// The APIs of a template.
#[derive(Debug)]
pub struct Apis {
    /// The stage of the WebSocket API.
    pub stage: Option<String>,
    /// The routes of the WebSocket API.
    pub routes: Routes,
    /// The expression that selects the route of a message.
    pub selection: Selection,
    /// The authorizer of handshakes.
    pub authorizer: Option<Authorizer>,
    /// The routes of the HTTP API.
    pub http: HttpRoutes,
    /// The parts of the template that the gateway does not support, with one description each.
    pub ignored: Vec<String>,
}

/// Reads the APIs of a template file.
///
/// # Errors
///
/// When the file cannot be read, is not a template, or has no API that the gateway can serve.
pub fn read(path: &Path, names: FunctionNames) -> anyhow::Result<Apis> {
    let text = text_of(path)?;
    parse(&text, names).with_context(|| format!("template {}", path.display()))
}

/// Reads a template file as JSON. Intrinsic functions have their full form: `!Ref X` becomes
/// `{"Ref": "X"}`, and `!GetAtt X.Arn` becomes `{"Fn::GetAtt": ["X", "Arn"]}`.
///
/// # Errors
///
/// When the file cannot be read or is not YAML.
pub fn read_document(path: &Path) -> anyhow::Result<Value> {
    document(&text_of(path)?).with_context(|| format!("template {}", path.display()))
}

fn text_of(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the template {}", path.display()))
}

fn document(text: &str) -> anyhow::Result<Value> {
    let documents = Yaml::load_from_str(text).context("it is not YAML")?;
    Ok(intrinsics::to_json(documents.first().context("it is empty")?))
}

pub(crate) fn parse(text: &str, names: FunctionNames) -> anyhow::Result<Apis> {
    let document = document(text)?;
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

impl fmt::Display for Apis {
    /// Writes one line for each route.
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
