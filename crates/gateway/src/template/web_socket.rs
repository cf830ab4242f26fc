//! The WebSocket API of a template.

use anyhow::{Context as _, bail};

use super::{
    Authorizer, IdentitySource, Route, Routes, Selection, Template, Value, identity_source,
};

/// What a template says about its WebSocket API.
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
    let plain = template.of_type("AWS::ApiGatewayV2::Api");
    let plain = plain.filter(|(_, api)| api["ProtocolType"] == "WEBSOCKET");
    let found: Vec<_> =
        serverless.map(|it| (true, it)).chain(plain.map(|it| (false, it))).collect();
    let (is_serverless, (id, api)) = match found[..] {
        [] => return Ok(None),
        [one] => one,
        [..] => bail!("it has {} WebSocket APIs, and one can be served", found.len()),
    };
    let expression = template.text(&api["RouteSelectionExpression"]);
    let expression = expression.context("the WebSocket API has no RouteSelectionExpression")?;
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
        let function = template.function(&route["FunctionArn"]);
        let function =
            function.with_context(|| format!("route {key} has no function of the template"))?;
        let is_two_way = !route["RouteResponseSelectionExpression"].is_null();
        routes.insert(key, Route { function, is_two_way });
    }
    let auth = &api["Auth"];
    let authorizer = match auth["AuthType"].as_str() {
        None | Some("NONE") => None,
        Some("CUSTOM") => {
            let function = template.function(&auth["AuthArn"]);
            let function = function.context("the authorizer is no function of the template")?;
            Some(Authorizer {
                function,
                identity_sources: identity_sources(&auth["IdentitySource"])?,
            })
        }
        Some(other) => {
            ignored.push(format!("authorization {other} of the WebSocket API: all may connect"));
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
    let of_api = |kind| {
        let all = template.of_type(kind);
        all.filter(|(_, it)| Template::refers(&it["ApiId"], id))
    };
    for (name, route) in of_api("AWS::ApiGatewayV2::Route") {
        let key = route["RouteKey"].as_str().with_context(|| format!("{name} has no RouteKey"))?;
        let integration = of_api("AWS::ApiGatewayV2::Integration")
            .find(|(id, _)| Template::refers(&route["Target"], id));
        let function = integration.and_then(|(_, it)| template.function(&it["IntegrationUri"]));
        let Some(function) = function else {
            ignored.push(format!("route {key}: it has no function of the template"));
            continue;
        };
        let is_two_way = !route["RouteResponseSelectionExpression"].is_null();
        routes.insert(key, Route { function, is_two_way });
        match route["AuthorizationType"].as_str() {
            None | Some("NONE") => {}
            Some("CUSTOM") => {
                let named = of_api("AWS::ApiGatewayV2::Authorizer")
                    .find(|(id, _)| Template::refers(&route["AuthorizerId"], id));
                let (_, it) = named.with_context(|| format!("{name} has no authorizer"))?;
                let function = template.function(&it["AuthorizerUri"]);
                let function = function.context("the authorizer is no function of the template")?;
                let identity_sources = identity_sources(&it["IdentitySource"])?;
                authorizer = Some(Authorizer { function, identity_sources });
            }
            Some(other) => ignored.push(format!("authorization {other} of route {key}")),
        }
    }
    let stage = of_api("AWS::ApiGatewayV2::Stage").next();
    let stage = stage.and_then(|(_, it)| template.text(&it["StageName"]));
    Ok(WebSocket { stage, routes, authorizer, selection: Selection::default() })
}

fn identity_sources(value: &Value) -> anyhow::Result<Vec<IdentitySource>> {
    let texts = value.as_array().into_iter().flatten().filter_map(Value::as_str);
    let sources = texts.map(|text| {
        identity_source(text).with_context(|| format!("identity source {text:?} is not known"))
    });
    sources.collect()
}
