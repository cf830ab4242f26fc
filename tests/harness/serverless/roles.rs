//! The permissions of the programs, as the templates grant them, and their use.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use gateway::iam;
use parking_lot::Mutex;
use serde_json::Value;

use super::template::{self, Template};

/// The name of the poller as a program. The functions have the names of their binaries.
pub(super) const POLLER: &str = "poller";

/// The only condition that the policies have: all partition keys of a request are in a list.
const LEADING_KEYS: (&str, &str) = ("ForAllValues:StringEquals", "dynamodb:LeadingKeys");

/// A call of a program to AWS.
#[derive(Clone, Debug)]
pub struct Call {
    /// The permission that it needs, such as `dynamodb:PutItem`.
    pub action: String,
    /// The ARN of the table, index, function, secret or connection.
    pub resource: String,
    /// The partition key, if the call has exactly one.
    pub partition: Option<String>,
}

impl Call {
    /// Describes a request to `DynamoDB` about one table or one of its indexes.
    ///
    /// A request about several has no table here, so no role grants it: then this has to learn which
    /// permissions it needs.
    pub fn of_dynamodb(operation: &str, request: &Value) -> Self {
        let table = request["TableName"].as_str().unwrap_or_default();
        let index = request["IndexName"].as_str().map(|index| format!("/index/{index}"));
        let keys = if request["Item"].is_object() { &request["Item"] } else { &request["Key"] };
        Self {
            action: format!("dynamodb:{operation}"),
            resource: template::table(table) + &index.unwrap_or_default(),
            // Only the partitions of the table `control` are named in a condition.
            partition: keys["pk"]["S"].as_str().map(str::to_owned),
        }
    }
}

/// The roles of all programs.
///
/// Each grant is one action on one resource, so that a statement with several of both is unused if one
/// of them is.
pub struct Roles {
    grants: BTreeMap<String, Vec<Grant>>,
    denied: Mutex<BTreeSet<String>>,
    functions: BTreeMap<String, String>,
    secret: String,
}

struct Grant {
    action: String,
    resource: String,
    /// The partition keys that it is limited to.
    partitions: Option<Vec<String>>,
    is_used: AtomicBool,
}

impl Roles {
    /// Reads `template.yaml` and the template of the poller.
    ///
    /// # Panics
    ///
    /// When a policy has something that this does not understand, because it could grant more.
    pub fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let main = Template::read(&root.join("template.yaml"), BTreeMap::new());
        let mut grants = BTreeMap::new();
        let mut functions = BTreeMap::new();
        for (id, function) in main.of_type("AWS::Serverless::Function") {
            let binary = function["Metadata"]["BuildProperties"]["Binary"].as_str().unwrap();
            functions.insert(main.reference(id), binary.to_owned());
            let policies = &function["Properties"]["Policies"];
            grants.insert(binary.to_owned(), read_policies(&main, policies, |policy| policy));
        }
        let stack = &main.resource("Poller")["Properties"];
        let parameters = stack["Parameters"].as_object().unwrap().iter();
        let parameters = parameters.map(|(name, value)| (name.clone(), main.text(value)));
        let path = root.join(stack["TemplateURL"].as_str().unwrap());
        let poller = Template::read(&path, parameters.collect());
        let role = &poller.resource("TaskRole")["Properties"]["Policies"];
        let of_poller = read_policies(&poller, role, |policy| &policy["PolicyDocument"]);
        grants.insert(POLLER.to_owned(), of_poller);
        let secret = main.reference("Secret");
        Self { grants, denied: Mutex::default(), functions, secret }
    }

    /// Returns the ARN of the secret of the functions.
    pub(super) fn secret(&self) -> &str {
        &self.secret
    }

    /// Returns the binary of the function with this name.
    pub(super) fn binary_of(&self, function: &str) -> Option<&str> {
        self.functions.get(function).map(String::as_str)
    }

    /// Returns the name of the function with this binary.
    pub(super) fn function_of(&self, binary: &str) -> &str {
        let found = self.functions.iter().find(|(_, it)| *it == binary);
        found.map(|(name, _)| name.as_str()).unwrap()
    }

    /// Returns whether the role of a program grants a call, and remembers the answer.
    pub fn admit(&self, program: &str, call: &Call) -> bool {
        let mut is_granted = false;
        for grant in self.grants.get(program).into_iter().flatten() {
            if grant.covers(call) {
                grant.is_used.store(true, Ordering::Relaxed);
                is_granted = true;
            }
        }
        if !is_granted {
            self.denied.lock().insert(format!("{program}: {call}"));
        }
        is_granted
    }

    /// Returns the calls that were not admitted.
    pub fn denied(&self) -> Vec<String> {
        self.denied.lock().iter().cloned().collect()
    }

    /// Returns the grants that no call has used.
    pub fn unused(&self) -> Vec<String> {
        let mut unused = Vec::new();
        for (program, grants) in &self.grants {
            let never_used = grants.iter().filter(|grant| !grant.is_used.load(Ordering::Relaxed));
            unused.extend(never_used.map(|grant| format!("{program}: {grant}")));
        }
        unused
    }
}

impl Grant {
    fn covers(&self, call: &Call) -> bool {
        let is_within = |allowed: &Vec<String>| {
            call.partition.as_ref().is_some_and(|partition| allowed.contains(partition))
        };
        self.action == call.action
            && iam::matches(&self.resource, &call.resource)
            && self.partitions.as_ref().is_none_or(is_within)
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.action, short(&self.resource))?;
        match &self.partition {
            Some(partition) => write!(f, ", partition {partition:?}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.action, short(&self.resource))
    }
}

/// Returns the part of an ARN after service, region and account.
fn short(arn: &str) -> &str {
    arn.splitn(6, ':').last().unwrap_or(arn)
}

/// Reads the grants of a list of policies; `document` finds the document in each.
fn read_policies(
    template: &Template,
    policies: &Value,
    document: fn(&Value) -> &Value,
) -> Vec<Grant> {
    let policies = policies.as_array().unwrap().iter();
    let statements = policies.flat_map(|it| document(it)["Statement"].as_array().unwrap());
    statements.flat_map(|statement| read_statement(template, statement)).collect()
}

fn read_statement(template: &Template, statement: &Value) -> Vec<Grant> {
    for (name, value) in statement.as_object().unwrap() {
        let is_known = match name.as_str() {
            "Sid" | "Action" | "Resource" | "Condition" => true,
            "Effect" => value == "Allow",
            _ => false,
        };
        assert!(is_known, "the test does not understand {name} of {statement}");
    }
    let partitions = statement.get("Condition").map(|condition| {
        let (operator, key) = LEADING_KEYS;
        let is_it = condition.as_object().is_some_and(|it| it.len() == 1)
            && condition[operator].as_object().is_some_and(|it| it.len() == 1);
        assert!(is_it, "the test does not understand the condition of {statement}");
        one_or_many(&condition[operator][key]).into_iter().map(|it| template.text(it)).collect()
    });
    let mut grants = Vec::new();
    for action in one_or_many(&statement["Action"]) {
        let action = template.text(action);
        assert!(!action.contains(['*', '?']), "{action} must be written as single actions");
        for resource in one_or_many(&statement["Resource"]) {
            let resource = template.text(resource);
            let partitions: Option<Vec<String>> = partitions.clone();
            let is_used = AtomicBool::new(false);
            grants.push(Grant { action: action.clone(), resource, partitions, is_used });
        }
    }
    grants
}

fn one_or_many(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(values) => values.iter().collect(),
        value => vec![value],
    }
}
