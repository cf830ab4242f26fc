//! The HTTP API of a template.

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::{
    api_gateway_v2::{self, Authorization, PlainRoute},
    resources::Template,
};
use crate::{
    authorizer::{Authorizer, IdentitySource},
    http_api::routes::{HttpRoute, HttpRoutes, RouteKey},
};

/// What happens to a route whose authorization is not supported.
const OPEN: &str = "every client may call it";

pub(crate) fn read(template: &Template, ignored: &mut Vec<String>) -> anyhow::Result<HttpRoutes> {
    let mut routes = HttpRoutes::default();
    read_events(template, &mut routes, ignored)?;
    read_plain(template, &mut routes, ignored)?;
    Ok(routes)
}

/// Reads the `HttpApi` events of functions.
fn read_events(
    template: &Template,
    routes: &mut HttpRoutes,
    ignored: &mut Vec<String>,
) -> anyhow::Result<()> {
    let mut used: Option<Option<String>> = None;
    for (id, function) in template.of_type("AWS::Serverless::Function") {
        for (name, event) in function["Events"].as_object().into_iter().flatten() {
            if event["Type"] != "HttpApi" {
                continue;
            }
            let event = &event["Properties"];
            let api = event["ApiId"]["Ref"].as_str().map(str::to_owned);
            if used.get_or_insert_with(|| api.clone()) != &api {
                bail!("it has several HTTP APIs; the gateway serves one");
            }
            let method = event["Method"].as_str().unwrap_or("ANY").to_uppercase();
            let method = if method == "X-AMAZON-APIGATEWAY-ANY-METHOD" { "ANY" } else { &method };
            let key = match event["Path"].as_str() {
                None | Some("$default") => RouteKey::default_route(),
                Some(path) => RouteKey::parse(&format!("{method} {path}"))
                    .with_context(|| format!("event {name} of {id}"))?,
            };
            let function = template.functions.get(id).cloned().unwrap_or_default();
            let api = api.and_then(|api| template.resources.get(&api));
            let auth = api.map_or(&Value::Null, |api| &api["Properties"]["Auth"]);
            let name =
                event["Auth"]["Authorizer"].as_str().or_else(|| auth["DefaultAuthorizer"].as_str());
            let authorizer = match name {
                None | Some("NONE") => None,
                Some(name) => {
                    serverless_authorizer(template, name, &auth["Authorizers"][name], ignored)?
                }
            };
            routes.push(HttpRoute { key, function, authorizer });
        }
    }
    Ok(())
}

fn serverless_authorizer(
    template: &Template,
    name: &str,
    authorizer: &Value,
    ignored: &mut Vec<String>,
) -> anyhow::Result<Option<Authorizer>> {
    let Some(function) = template.function(&authorizer["FunctionArn"]) else {
        ignored.push(format!(
            "authorizer {name} of the HTTP API, which is not a function of the template: {OPEN}"
        ));
        return Ok(None);
    };
    if authorizer["AuthorizerPayloadFormatVersion"].as_str().is_some_and(|it| it != "2.0") {
        bail!("authorizer {name}: the gateway supports payload format version 2.0 only");
    }
    let texts = |name| {
        authorizer["Identity"][name]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let headers = texts("Headers").into_iter().map(IdentitySource::Header);
    let queries = texts("QueryStrings").into_iter().map(IdentitySource::Query);
    Ok(Some(Authorizer { function, identity_sources: headers.chain(queries).collect() }))
}

/// Reads the plain resources.
fn read_plain(
    template: &Template,
    routes: &mut HttpRoutes,
    ignored: &mut Vec<String>,
) -> anyhow::Result<()> {
    let apis: Vec<_> = template
        .of_type("AWS::ApiGatewayV2::Api")
        .filter(|(_, api)| api["ProtocolType"] == "HTTP")
        .collect();
    if apis.len() > 1 || (!apis.is_empty() && !routes.is_empty()) {
        bail!("it has several HTTP APIs; the gateway serves one");
    }
    let Some((id, _)) = apis.first() else { return Ok(()) };
    for PlainRoute { key, function, authorization, .. } in
        api_gateway_v2::routes(template, id, ignored)?
    {
        let authorizer = match authorization {
            Authorization::Open => None,
            Authorization::Lambda { function, properties } => {
                let identity_sources = properties["IdentitySource"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .filter_map(IdentitySource::parse)
                    .collect();
                Some(Authorizer { function, identity_sources })
            }
            Authorization::Missing => {
                ignored.push(format!("authorization CUSTOM of route {key}: {OPEN}"));
                None
            }
            Authorization::Unsupported(other) => {
                ignored.push(format!("authorization {other} of route {key}: {OPEN}"));
                None
            }
        };
        routes.push(HttpRoute { key: RouteKey::parse(key)?, function, authorizer });
    }
    Ok(())
}
