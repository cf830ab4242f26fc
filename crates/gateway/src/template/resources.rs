//! The resources of a template, and the references between them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{function_names::FunctionNames, intrinsics};

/// A template's resources, the defaults of its parameters, and the names of its functions.
pub(crate) struct Template {
    pub(crate) resources: Map<String, Value>,
    parameters: BTreeMap<String, String>,
    pub(crate) functions: BTreeMap<String, String>,
}

impl Template {
    pub(crate) fn new(
        resources: Map<String, Value>,
        parameters: &Value,
        names: FunctionNames,
    ) -> Self {
        let parameters =
            parameters.as_object().into_iter().flatten().filter_map(|(name, parameter)| {
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
    pub(crate) fn of_type<'a>(
        &'a self,
        kind: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.resources
            .iter()
            .filter(move |(_, resource)| resource["Type"] == kind)
            .map(|(id, resource)| (id.as_str(), &resource["Properties"]))
    }

    /// Returns the name of the function that a property refers to.
    pub(crate) fn function(&self, property: &Value) -> Option<String> {
        intrinsics::references(property).iter().find_map(|id| self.functions.get(id)).cloned()
    }

    /// Whether a property refers to the resource `id`.
    pub(crate) fn refers(property: &Value, id: &str) -> bool {
        intrinsics::references(property).iter().any(|found| found == id)
    }

    /// Returns a property that is a string or refers to a parameter with a default.
    pub(crate) fn text(&self, property: &Value) -> Option<String> {
        match property {
            Value::String(text) => Some(text.clone()),
            Value::Object(_) => self.parameters.get(property["Ref"].as_str()?).cloned(),
            _ => None,
        }
    }
}
