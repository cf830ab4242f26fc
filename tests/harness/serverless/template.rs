//! The values of a template's expressions, for a deployment in the stand-in.

use std::{collections::BTreeMap, path::Path};

use gateway::template::read_document;
use serde_json::Value;

/// The name of the stack.
const STACK: &str = "headwater";
/// The region and the account, which the gateway has in its events as well.
const REGION: &str = "us-east-1";
const ACCOUNT: &str = "123456789012";
/// The id of the WebSocket API, which is that of the gateway.
pub(super) const API: &str = "local";

/// A template, and the values of its parameters.
pub(super) struct Template {
    document: Value,
    parameters: BTreeMap<String, String>,
}

impl Template {
    /// Reads a template. A parameter without a value has its default.
    pub(super) fn read(path: &Path, mut parameters: BTreeMap<String, String>) -> Self {
        let document = read_document(path).unwrap();
        for (name, parameter) in document["Parameters"].as_object().into_iter().flatten() {
            if let Some(default) = parameter.get("Default") {
                let text = default.as_str().map_or_else(|| default.to_string(), str::to_owned);
                parameters.entry(name.clone()).or_insert(text);
            }
        }
        Self { document, parameters }
    }

    /// Returns the resources of a type, with their ids.
    pub(super) fn of_type<'a>(
        &'a self,
        kind: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let resources = self.document["Resources"].as_object().into_iter().flatten();
        resources
            .filter(move |(_, resource)| resource["Type"] == kind)
            .map(|(id, resource)| (id.as_str(), resource))
    }

    /// Returns a resource.
    pub(super) fn resource(&self, id: &str) -> &Value {
        let resource = &self.document["Resources"][id];
        assert!(resource.is_object(), "the template has no resource {id}");
        resource
    }

    /// Evaluates an expression whose value is a text.
    ///
    /// # Panics
    ///
    /// For an intrinsic function that the policies do not use so far.
    pub(super) fn text(&self, value: &Value) -> String {
        if let Value::String(text) = value {
            return text.clone();
        }
        let name_and_value = value.as_object().and_then(|function| function.iter().next());
        match name_and_value.map(|(name, value)| (name.as_str(), value)) {
            Some(("Ref", Value::String(id))) => self.reference(id),
            Some(("Fn::GetAtt", Value::Array(parts))) => {
                self.attribute(parts[0].as_str().unwrap(), parts[1].as_str().unwrap())
            }
            Some(("Fn::Sub", Value::String(text))) => self.substitute(text),
            _ => panic!("the test cannot evaluate {value}"),
        }
    }

    fn substitute(&self, text: &str) -> String {
        let mut parts = text.split("${");
        let mut result = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (name, rest) = part.split_once('}').unwrap();
            result += &match name.split_once('.') {
                Some((id, attribute)) => self.attribute(id, attribute),
                None => self.reference(name),
            };
            result += rest;
        }
        result
    }

    /// Returns the value of `!Ref`.
    pub(super) fn reference(&self, id: &str) -> String {
        if let Some(value) = self.parameters.get(id) {
            return value.clone();
        }
        match id {
            "AWS::StackName" => return STACK.to_owned(),
            "AWS::Region" => return REGION.to_owned(),
            "AWS::AccountId" => return ACCOUNT.to_owned(),
            "AWS::Partition" => return "aws".to_owned(),
            _ => {}
        }
        let resource = self.resource(id);
        let name = |property: &str| match &resource["Properties"][property] {
            Value::Null => id.to_owned(),
            name => self.text(name),
        };
        match resource["Type"].as_str().unwrap() {
            "AWS::DynamoDB::Table" => name("TableName"),
            "AWS::Serverless::Function" => name("FunctionName"),
            "AWS::Serverless::WebSocketApi" => API.to_owned(),
            "AWS::SecretsManager::Secret" => arn("secretsmanager", &format!("secret:{id}")),
            other => panic!("the test does not know what !Ref of a {other} returns"),
        }
    }

    fn attribute(&self, id: &str, attribute: &str) -> String {
        let name = self.reference(id);
        match (self.resource(id)["Type"].as_str().unwrap(), attribute) {
            ("AWS::DynamoDB::Table", "Arn") => table(&name),
            ("AWS::Serverless::Function", "Arn") => function(&name),
            (kind, _) => panic!("the test does not know {attribute} of a {kind}"),
        }
    }
}

/// Returns the ARN of a table.
pub(super) fn table(name: &str) -> String {
    arn("dynamodb", &format!("table/{name}"))
}

/// Returns the ARN of a function.
pub(super) fn function(name: &str) -> String {
    arn("lambda", &format!("function:{name}"))
}

/// Returns the ARN of a resource.
pub(super) fn arn(service: &str, resource: &str) -> String {
    format!("arn:aws:{service}:{REGION}:{ACCOUNT}:{resource}")
}
