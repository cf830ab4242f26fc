//! The plain `AWS::ApiGatewayV2` resources of a template, which both kinds of API have.

use anyhow::Context as _;
use serde_json::Value;

use super::resources::Template;
use crate::authorizer::{Authorizer, IdentitySource};

/// A route with an integration that is a function of the template.
pub(crate) struct PlainRoute<'a> {
    /// The logical id of the route.
    pub(crate) name: &'a str,
    pub(crate) key: &'a str,
    pub(crate) function: String,
    pub(crate) properties: &'a Value,
    pub(crate) authorization: Authorization<'a>,
}

/// Who may use a route.
pub(crate) enum Authorization<'a> {
    /// Every client.
    Open,
    /// Clients that a Lambda authorizer with these properties permits.
    Lambda { function: String, properties: &'a Value },
    /// Clients that an authorizer outside the template permits.
    Missing,
    /// An authorization type that the gateway does not support.
    Unsupported(&'a str),
}

/// Returns the resources of a type that belong to the API `api`, with their ids.
pub(crate) fn resources<'a>(
    template: &'a Template,
    api: &'a str,
    kind: &'a str,
) -> impl Iterator<Item = (&'a str, &'a Value)> {
    template.of_type(kind).filter(move |(_, it)| Template::refers(&it["ApiId"], api))
}

/// Reads the routes of the API `api`. Routes without a function of the template are added to
/// `ignored`.
pub(crate) fn routes<'a>(
    template: &'a Template,
    api: &'a str,
    ignored: &mut Vec<String>,
) -> anyhow::Result<Vec<PlainRoute<'a>>> {
    let mut routes = Vec::new();
    for (name, properties) in resources(template, api, "AWS::ApiGatewayV2::Route") {
        let key =
            properties["RouteKey"].as_str().with_context(|| format!("{name} has no RouteKey"))?;
        let function = resources(template, api, "AWS::ApiGatewayV2::Integration")
            .find(|(id, _)| Template::refers(&properties["Target"], id))
            .and_then(|(_, it)| template.function(&it["IntegrationUri"]));
        let Some(function) = function else {
            ignored.push(format!("route {key}: its target is not a function of the template"));
            continue;
        };
        let authorization = authorization(template, api, properties)?;
        routes.push(PlainRoute { name, key, function, properties, authorization });
    }
    Ok(routes)
}

fn authorization<'a>(
    template: &'a Template,
    api: &'a str,
    route: &'a Value,
) -> anyhow::Result<Authorization<'a>> {
    match route["AuthorizationType"].as_str() {
        None | Some("NONE") => Ok(Authorization::Open),
        Some("CUSTOM") => {
            let authorizer = resources(template, api, "AWS::ApiGatewayV2::Authorizer")
                .find(|(id, _)| Template::refers(&route["AuthorizerId"], id));
            let Some((name, properties)) = authorizer else { return Ok(Authorization::Missing) };
            let function = template
                .function(&properties["AuthorizerUri"])
                .with_context(|| format!("authorizer {name} is not a function of the template"))?;
            Ok(Authorization::Lambda { function, properties })
        }
        Some(other) => Ok(Authorization::Unsupported(other)),
    }
}

/// Creates an authorizer that requires each identity source of a list.
///
/// # Errors
///
/// When the gateway does not support an identity source.
pub(crate) fn authorizer(function: String, sources: &Value) -> anyhow::Result<Authorizer> {
    let identity_sources = sources
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(|text| {
            IdentitySource::parse(text)
                .with_context(|| format!("identity source {text:?} is not supported"))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Authorizer { function, identity_sources })
}
