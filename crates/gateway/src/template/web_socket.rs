//! The WebSocket API of a template.

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::{
    api_gateway_v2::{self, Authorization, PlainRoute},
    resources::Template,
};
use crate::{
    authorizer::Authorizer,
    web_socket::routes::{Route, Routes, Selection},
};

/// The definition of a WebSocket API in a template.
#[derive(Default)]
pub(crate) struct WebSocket {
    pub(crate) stage: Option<String>,
    pub(crate) routes: Routes,
    pub(crate) selection: Selection,
    pub(crate) authorizer: Option<Authorizer>,
}

pub(crate) fn read(
    template: &Template,
    ignored: &mut Vec<String>,
) -> anyhow::Result<Option<WebSocket>> {
    let serverless = template.of_type("AWS::Serverless::WebSocketApi");
    let plain = template
        .of_type("AWS::ApiGatewayV2::Api")
        .filter(|(_, api)| api["ProtocolType"] == "WEBSOCKET");
    let found: Vec<_> =
        serverless.map(|it| (true, it)).chain(plain.map(|it| (false, it))).collect();
    let (is_serverless, (id, api)) = match found[..] {
        [] => return Ok(None),
        [one] => one,
        [..] => bail!("it has {} WebSocket APIs; the gateway serves one", found.len()),
    };
    let expression = template
        .text(&api["RouteSelectionExpression"])
        .context("the WebSocket API has no RouteSelectionExpression")?;
    let selection = Selection::parse(&expression)?;
    let web_socket = if is_serverless {
        read_serverless(template, api, ignored)?
    } else {
        read_plain(template, id, ignored)?
    };
    Ok(Some(WebSocket { selection, ..web_socket }))
}

fn read_serverless(
    template: &Template,
    api: &Value,
    ignored: &mut Vec<String>,
) -> anyhow::Result<WebSocket> {
    let mut routes = Routes::default();
    for (key, route) in api["Routes"].as_object().into_iter().flatten() {
        let function = template
            .function(&route["FunctionArn"])
            .with_context(|| format!("route {key} has no function of the template"))?;
        let is_two_way = !route["RouteResponseSelectionExpression"].is_null();
        routes.insert(key, Route { function, is_two_way });
    }
    let auth = &api["Auth"];
    let authorizer = match auth["AuthType"].as_str() {
        None | Some("NONE") => None,
        Some("CUSTOM") => {
            let function = template
                .function(&auth["AuthArn"])
                .context("the authorizer is not a function of the template")?;
            Some(api_gateway_v2::authorizer(function, &auth["IdentitySource"])?)
        }
        Some(other) => {
            ignored.push(format!(
                "authorization {other} of the WebSocket API: every client may connect"
            ));
            None
        }
    };
    let stage = template.text(&api["StageName"]).or_else(|| Some("default".to_owned()));
    Ok(WebSocket { stage, routes, authorizer, selection: Selection::default() })
}

fn read_plain(
    template: &Template,
    id: &str,
    ignored: &mut Vec<String>,
) -> anyhow::Result<WebSocket> {
    let mut routes = Routes::default();
    let mut authorizer = None;
    for PlainRoute { name, key, function, properties, authorization } in
        api_gateway_v2::routes(template, id, ignored)?
    {
        let is_two_way = !properties["RouteResponseSelectionExpression"].is_null();
        routes.insert(key, Route { function, is_two_way });
        match authorization {
            Authorization::Open => {}
            Authorization::Lambda { function, properties } => {
                let sources = &properties["IdentitySource"];
                authorizer = Some(api_gateway_v2::authorizer(function, sources)?);
            }
            Authorization::Missing => bail!("{name} has no authorizer"),
            Authorization::Unsupported(other) => {
                ignored.push(format!("authorization {other} of route {key}"));
            }
        }
    }
    let stage = api_gateway_v2::resources(template, id, "AWS::ApiGatewayV2::Stage")
        .next()
        .and_then(|(_, it)| template.text(&it["StageName"]));
    Ok(WebSocket { stage, routes, authorizer, selection: Selection::default() })
}
