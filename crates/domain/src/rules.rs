//! The access rules: a set of Cedar policies, and limits for each class.
//!
//! A set is validated against the schema when it is parsed. A decision depends only on the classes, the
//! right, the topic, and on the subject if a policy names it, so decisions are cached.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::LazyLock,
    thread,
};

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid,
    PolicySet, Request, RestrictedExpression, Schema, ValidationMode, Validator,
};
use miette::Diagnostic;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use crate::{
    access::{ANONYMOUS, Limits, Principal, Right},
    source::{CHANNELS, Family},
    topic::Topic,
};

mod shape;

/// Maximum size of a set in bytes, limits included. A set is one item of the database, which is
/// limited to 400 KB.
pub const MAX_SET_BYTES: usize = 256 * 1024;

/// Stack on which policies are parsed and validated, in bytes. Only what is used takes memory.
const STACK_BYTES: usize = 256 * 1024 * 1024;

/// Number of cached decisions in each of the two generations.
const GENERATION: usize = 8_192;

/// The resource of the rights that concern Headwater as a whole.
const SERVICE: &str = "headwater";

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let text = include_str!("../../../policies/headwater.cedarschema");
    Schema::from_cedarschema_str(text).expect("the schema is valid").0
});

static TYPES: LazyLock<Types> = LazyLock::new(|| {
    let name = |name: &str| name.parse().expect("the schema has the type");
    Types {
        user: name("User"),
        class: name("Class"),
        topic: name("Topic"),
        service: name("Service"),
        action: name("Action"),
    }
});

struct Types {
    user: EntityTypeName,
    class: EntityTypeName,
    topic: EntityTypeName,
    service: EntityTypeName,
    action: EntityTypeName,
}

/// The text of a set, as written and stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetText {
    /// The policies, in Cedar.
    pub policies: String,
    /// Limits by class, in JSON.
    pub limits: String,
}

impl SetText {
    /// Returns the set that applies unless the operator configures another.
    pub fn preset() -> Self {
        Self {
            policies: include_str!("../../../policies/default.cedar").to_owned(),
            limits: include_str!("../../../policies/limits.json").to_owned(),
        }
    }

    /// Returns the set that applies when no tokens are accepted, so that all clients are anonymous.
    pub fn open() -> Self {
        Self {
            policies: include_str!("../../../policies/open.cedar").to_owned(),
            limits: include_str!("../../../policies/open.json").to_owned(),
        }
    }
}

/// A valid set.
#[derive(Debug)]
pub struct RuleSet {
    text: SetText,
    set: PolicySet,
    limits: BTreeMap<String, Limits>,
    /// The subjects that a policy names. Decisions about them may differ from those about their class.
    named: HashSet<String>,
    decisions: RwLock<Decisions>,
}

/// A cache of decisions in two generations. When the newer one is full, it replaces the older one.
#[derive(Debug, Default)]
struct Decisions {
    newer: HashMap<Box<str>, bool>,
    older: HashMap<Box<str>, bool>,
}

/// The part of a set that has a defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The policies.
    Policies,
    /// The limits.
    Limits,
}

/// An error in a set, and its position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Defect {
    /// The part of the set.
    pub part: Part,
    /// The line, counted from 1.
    pub line: usize,
    /// The column in characters, counted from 1.
    pub column: usize,
    /// What is wrong there.
    pub message: String,
}

/// The defects that make a set invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(Defect::to_string).collect::<Vec<_>>().join("; "))]
pub struct InvalidSet(pub Vec<Defect>);

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = match self.part {
            Part::Policies => "policies",
            Part::Limits => "limits",
        };
        write!(f, "{part}:{}:{}: {}", self.line, self.column, self.message)
    }
}

impl RuleSet {
    /// Parses and validates a set.
    ///
    /// # Errors
    ///
    /// [`InvalidSet`] with each defect and its position.
    pub fn read(text: SetText) -> Result<Self, InvalidSet> {
        let mut defects = Vec::new();
        if text.policies.len() + text.limits.len() > MAX_SET_BYTES {
            let message =
                format!("policies and limits together are larger than {MAX_SET_BYTES} bytes");
            defects.push(Defect { part: Part::Policies, line: 1, column: 1, message });
            return Err(InvalidSet(defects));
        }
        let limits = read_limits(&text.limits).map_err(|defect| defects.push(defect));
        let set = with_stack(|| read_policies(&text.policies));
        let set = set.map_err(|more| defects.extend(more));
        match (set, limits) {
            (Ok(set), Ok(limits)) => {
                let literals = set.policies().flat_map(cedar_policy::Policy::entity_literals);
                let users = literals.filter(|it| *it.type_name() == TYPES.user);
                let named = users.map(|user| user.id().unescaped().to_owned()).collect();
                Ok(Self { text, set, limits, named, decisions: RwLock::default() })
            }
            _ => Err(InvalidSet(defects)),
        }
    }

    /// Returns the text of the set.
    pub fn text(&self) -> &SetText {
        &self.text
    }

    /// Returns whether the principal has the right.
    pub fn allows(&self, principal: &Principal, right: Right<'_>) -> bool {
        let (verb, topic) = match right {
            Right::Connect => ("connect", None),
            Right::Admin => ("admin", None),
            Right::Subscribe(topic) => ("subscribe", Some(topic)),
            Right::History(topic) => ("history", Some(topic)),
        };
        let named = self.named.contains(&principal.id);
        // The separator occurs in no verb, topic or class.
        let key = format!(
            "{verb}\0{}\0{}\0{}",
            topic.map_or("", Topic::as_str),
            principal.class,
            if named { &principal.id } else { "" },
        );
        if let Some(decision) = self.decisions.read().get(&key) {
            return decision;
        }
        let decision = self.decide(principal, verb, topic).unwrap_or(false);
        self.decisions.write().insert(key, decision);
        decision
    }

    /// Returns the limits of a principal. With several classes, the larger value of each limit applies.
    pub fn limits_of(&self, principal: &Principal) -> Limits {
        let of = |class| self.limits.get(class).copied();
        let all = principal.classes().filter_map(of).reduce(Limits::or);
        all.unwrap_or_else(|| self.limits[ANONYMOUS])
    }

    fn decide(
        &self,
        principal: &Principal,
        verb: &str,
        topic: Option<&Topic>,
    ) -> Result<bool, Box<dyn std::error::Error>> {
        let user = uid(&TYPES.user, &principal.id);
        let classes: Vec<EntityUid> =
            principal.classes().map(|class| uid(&TYPES.class, class)).collect();
        let mut entities: Vec<Entity> =
            classes.iter().map(|class| Entity::with_uid(class.clone())).collect();
        entities.push(Entity::new_no_attrs(user.clone(), classes.into_iter().collect()));
        let resource = match topic {
            None => uid(&TYPES.service, SERVICE),
            Some(topic) => {
                let resource = uid(&TYPES.topic, topic.as_str());
                entities.extend(topic_entities(topic)?);
                resource
            }
        };
        let action = uid(&TYPES.action, verb);
        let entities = Entities::from_entities(entities, Some(&SCHEMA))?;
        let request = Request::new(user, action, resource, Context::empty(), Some(&SCHEMA))?;
        let response = Authorizer::new().is_authorized(&request, &self.set, &entities);
        Ok(response.decision() == Decision::Allow)
    }
}

impl Decisions {
    fn get(&self, key: &str) -> Option<bool> {
        self.newer.get(key).or_else(|| self.older.get(key)).copied()
    }

    fn insert(&mut self, key: String, decision: bool) {
        if self.newer.len() >= GENERATION {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(key.into(), decision);
    }
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

/// Returns the entities of a topic, its channel and its source.
fn topic_entities(topic: &Topic) -> Result<Vec<Entity>, Box<dyn std::error::Error>> {
    let source = topic.source();
    let channel = format!("{source}/{}", topic.channel());
    let attributes = |channel: &str, key: Option<&str>| -> HashMap<String, RestrictedExpression> {
        let text = |value: &str| RestrictedExpression::new_string(value.to_owned());
        [("source", Some(text(source))), ("channel", Some(text(channel))), ("key", key.map(text))]
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect()
    };
    let of_source = uid(&TYPES.topic, source);
    let of_channel = uid(&TYPES.topic, &channel);
    let mut entities = vec![Entity::new(of_source.clone(), attributes("", None), HashSet::new())?];
    let of_source = HashSet::from([of_source]);
    entities.push(Entity::new(of_channel.clone(), attributes(topic.channel(), None), of_source)?);
    if topic.key().is_some() {
        let it = uid(&TYPES.topic, topic.as_str());
        let of_channel = HashSet::from([of_channel]);
        entities.push(Entity::new(it, attributes(topic.channel(), topic.key()), of_channel)?);
    }
    Ok(entities)
}

fn read_limits(text: &str) -> Result<BTreeMap<String, Limits>, Defect> {
    let defect = |line, column, message| Defect { part: Part::Limits, line, column, message };
    let limits: BTreeMap<String, Limits> = serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        // The defect has fields for the position.
        let message = message.split(" at line ").next().unwrap_or_default().to_owned();
        defect(error.line().max(1), error.column().max(1), message)
    })?;
    if !limits.contains_key(ANONYMOUS) {
        let message = format!(
            "limits for {ANONYMOUS} are missing; they apply to every class without its own"
        );
        return Err(defect(1, 1, message));
    }
    for (class, limits) in &limits {
        let most = Limits::MAX_CONNECTIONS;
        if limits.connections.is_some_and(|connections| connections > most) {
            let message =
                format!("{class} has more than {most} connections; use null for no limit");
            let (line, column) = find(text, &format!("\"{class}\""));
            return Err(defect(line, column, message));
        }
    }
    Ok(limits)
}

/// Runs something that recurses on a stack of its own.
fn with_stack<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, run);
        match thread.expect("a thread can be started").join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn read_policies(text: &str) -> Result<PolicySet, Vec<Defect>> {
    if let Err((offset, message)) = shape::check(text) {
        let (line, column) = place(text, offset);
        return Err(vec![Defect { part: Part::Policies, line, column, message }]);
    }
    let set: PolicySet = text.parse().map_err(|errors: cedar_policy::ParseErrors| {
        errors.iter().map(|error| diagnosed(text, error)).collect::<Vec<_>>()
    })?;
    if let Some(template) = set.templates().next() {
        let slot =
            if template.to_string().contains("?principal") { "?principal" } else { "?resource" };
        let (line, column) = find(text, slot);
        let message =
            "policy templates are not supported; write the policy without a slot".to_owned();
        return Err(vec![Defect { part: Part::Policies, line, column, message }]);
    }
    let checked = Validator::new(SCHEMA.clone()).validate(&set, ValidationMode::Strict);
    let mut defects: Vec<Defect> =
        checked.validation_errors().map(|error| diagnosed(text, error)).collect();
    // An error often causes a warning, too.
    if defects.is_empty() {
        defects.extend(checked.validation_warnings().map(|warning| diagnosed(text, warning)));
    }
    let literals = set.policies().flat_map(cedar_policy::Policy::entity_literals);
    let unknown: HashSet<String> = literals
        .filter(|it| *it.type_name() == TYPES.topic && !is_topic_or_part(it.id().unescaped()))
        .map(|it| it.id().unescaped().to_owned())
        .collect();
    for topic in unknown {
        let (line, column) = find(text, &format!("\"{topic}\""));
        let message = format!("there is no topic, channel or source {topic:?}");
        defects.push(Defect { part: Part::Policies, line, column, message });
    }
    if defects.is_empty() {
        return Ok(set);
    }
    defects.sort_by_key(|defect| (defect.line, defect.column));
    Err(defects)
}

/// Returns whether a policy can name this text: a topic in canonical spelling, a channel or a source.
fn is_topic_or_part(text: &str) -> bool {
    Family::named(text).is_some()
        || CHANNELS.iter().any(|channel| channel.path() == text)
        || Topic::parse(text).is_ok_and(|topic| topic.as_str() == text)
}

fn diagnosed(text: &str, diagnostic: &dyn Diagnostic) -> Defect {
    let label = diagnostic.labels().and_then(|mut labels| labels.next());
    let (line, column) = place(text, label.as_ref().map_or(0, miette::LabeledSpan::offset));
    let mut message = diagnostic.to_string();
    if let Some(label) = label.as_ref().and_then(miette::LabeledSpan::label) {
        message = format!("{message}: {label}");
    }
    if let Some(help) = diagnostic.help() {
        message = format!("{message} ({help})");
    }
    Defect { part: Part::Policies, line, column, message }
}

fn find(text: &str, what: &str) -> (usize, usize) {
    place(text, text.find(what).unwrap_or(0))
}

/// Returns the line and the column of an offset in bytes.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(offset)];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests;
