//! The rules in force: a set of Cedar policies with limits for each class.
//!
//! A set is checked against the schema when it is read. Its decisions depend on nothing but the
//! classes, the right, the topic, and the subject where a policy names it; so they are kept.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::{LazyLock, PoisonError, RwLock},
};

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid,
    PolicySet, Request, RestrictedExpression, Schema, ValidationMode, Validator,
};
use miette::Diagnostic;
use serde::{Deserialize, Serialize};

use crate::{
    access::{ANONYMOUS, Limits, Principal, Right},
    topic::Topic,
};

/// Most bytes of a set, with its limits: it is one item of the database, which takes 400 KB.
pub const MAX_SET_BYTES: usize = 256 * 1024;

/// Decisions that are kept, in each of two generations.
const KEPT: usize = 8_192;

/// What everything that can be permitted on Headwater as a whole is permitted on.
const SERVICE: &str = "headwater";

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let text = include_str!("../../../policies/headwater.cedarschema");
    Schema::from_cedarschema_str(text).expect("the schema is sound").0
});

static TYPES: LazyLock<Types> = LazyLock::new(|| {
    let name = |name: &str| name.parse().expect("a type of the schema");
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

/// A set as it is written and stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetText {
    /// The policies, in Cedar.
    pub policies: String,
    /// Limits by class, in JSON.
    pub limits: String,
}

impl SetText {
    /// What holds unless an operator says otherwise.
    pub fn preset() -> Self {
        Self {
            policies: include_str!("../../../policies/default.cedar").to_owned(),
            limits: include_str!("../../../policies/limits.json").to_owned(),
        }
    }

    /// What holds where no tokens are accepted, and nobody can be told from anybody else.
    pub fn open() -> Self {
        Self {
            policies: include_str!("../../../policies/open.cedar").to_owned(),
            limits: include_str!("../../../policies/open.json").to_owned(),
        }
    }
}

/// A set that is sound.
#[derive(Debug)]
pub struct Policies {
    text: SetText,
    set: PolicySet,
    limits: BTreeMap<String, Limits>,
    /// The subjects that a policy names: what holds for them may not hold for others of their class.
    named: HashSet<String>,
    kept: RwLock<Kept>,
}

/// Decisions. When the newer ones are many, they become the older ones, and those go.
#[derive(Debug, Default)]
struct Kept {
    newer: HashMap<Box<str>, bool>,
    older: HashMap<Box<str>, bool>,
}

/// Which part of a set a fault is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The policies.
    Policies,
    /// The limits.
    Limits,
}

/// What is wrong with a set, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// In which part.
    pub part: Part,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

/// All that is wrong with a set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(Fault::to_string).collect::<Vec<_>>().join("; "))]
pub struct Unsound(pub Vec<Fault>);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = match self.part {
            Part::Policies => "policies",
            Part::Limits => "limits",
        };
        write!(f, "{part}:{}:{}: {}", self.line, self.column, self.message)
    }
}

impl Policies {
    /// Reads a set and checks it.
    ///
    /// # Errors
    ///
    /// [`Unsound`] with each fault and its place.
    pub fn read(text: SetText) -> Result<Self, Unsound> {
        let mut faults = Vec::new();
        if text.policies.len() + text.limits.len() > MAX_SET_BYTES {
            let message = format!("a set has at most {MAX_SET_BYTES} bytes");
            faults.push(Fault { part: Part::Policies, line: 1, column: 1, message });
            return Err(Unsound(faults));
        }
        let limits = read_limits(&text.limits).map_err(|fault| faults.push(fault));
        let set = read_policies(&text.policies).map_err(|more| faults.extend(more));
        match (set, limits) {
            (Ok(set), Ok(limits)) => {
                let literals = set.policies().flat_map(cedar_policy::Policy::entity_literals);
                let users = literals.filter(|it| *it.type_name() == TYPES.user);
                let named = users.map(|user| user.id().unescaped().to_owned()).collect();
                Ok(Self { text, set, limits, named, kept: RwLock::default() })
            }
            _ => Err(Unsound(faults)),
        }
    }

    /// The text of it.
    pub fn text(&self) -> &SetText {
        &self.text
    }

    /// Whether somebody has a right.
    pub fn allows(&self, principal: &Principal, right: Right<'_>) -> bool {
        let (verb, topic) = match right {
            Right::Connect => ("connect", None),
            Right::Admin => ("admin", None),
            Right::Subscribe(topic) => ("subscribe", Some(topic)),
            Right::History(topic) => ("history", Some(topic)),
        };
        let named = self.named.contains(&principal.id);
        // Neither verbs, topics nor classes have the character between.
        let key = format!(
            "{verb}\0{}\0{}\0{}",
            topic.map_or("", Topic::as_str),
            principal.class,
            if named { &principal.id } else { "" },
        );
        if let Some(decision) = self.kept.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return decision;
        }
        let decision = self.decide(principal, verb, topic).unwrap_or(false);
        self.kept.write().unwrap_or_else(PoisonError::into_inner).keep(key, decision);
        decision
    }

    /// The limits of somebody: of several classes, the larger of each.
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
        let answer = Authorizer::new().is_authorized(&request, &self.set, &entities);
        Ok(answer.decision() == Decision::Allow)
    }
}

impl Kept {
    fn get(&self, key: &str) -> Option<bool> {
        self.newer.get(key).or_else(|| self.older.get(key)).copied()
    }

    fn keep(&mut self, key: String, decision: bool) {
        if self.newer.len() >= KEPT {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(key.into(), decision);
    }
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

/// A topic, its channel and its source.
fn topic_entities(topic: &Topic) -> Result<Vec<Entity>, Box<dyn std::error::Error>> {
    let (source, channel) = (topic.source(), format!("{}/{}", topic.source(), topic.channel()));
    let attributes = |channel: &str, key: Option<&str>| -> HashMap<String, RestrictedExpression> {
        let text = |value: &str| RestrictedExpression::new_string(value.to_owned());
        [("source", Some(text(source))), ("channel", Some(text(channel))), ("key", key.map(text))]
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect()
    };
    let (of_source, of_channel) = (uid(&TYPES.topic, source), uid(&TYPES.topic, &channel));
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

fn read_limits(text: &str) -> Result<BTreeMap<String, Limits>, Fault> {
    let fault = |line, column, message| Fault { part: Part::Limits, line, column, message };
    let limits: BTreeMap<String, Limits> = serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        // The place is told beside.
        let message = message.split(" at line ").next().unwrap_or_default().to_owned();
        fault(error.line().max(1), error.column().max(1), message)
    })?;
    if !limits.contains_key(ANONYMOUS) {
        let message =
            format!("there are no limits for {ANONYMOUS}, which hold where a class has none");
        return Err(fault(1, 1, message));
    }
    for (class, limits) in &limits {
        let most = Limits::MAX_CONNECTIONS;
        if limits.connections.is_some_and(|connections| connections > most) {
            let message = format!("{class} has over {most} connections; null is no limit");
            let (line, column) = find(text, &format!("\"{class}\""));
            return Err(fault(line, column, message));
        }
    }
    Ok(limits)
}

fn read_policies(text: &str) -> Result<PolicySet, Vec<Fault>> {
    let set: PolicySet = text.parse().map_err(|errors: cedar_policy::ParseErrors| {
        errors.iter().map(|error| diagnosed(text, error)).collect::<Vec<_>>()
    })?;
    if let Some(template) = set.templates().next() {
        let slot =
            if template.to_string().contains("?principal") { "?principal" } else { "?resource" };
        let (line, column) = find(text, slot);
        let message = "templates are not linked here: write the policy out".to_owned();
        return Err(vec![Fault { part: Part::Policies, line, column, message }]);
    }
    let checked = Validator::new(SCHEMA.clone()).validate(&set, ValidationMode::Strict);
    let mut faults: Vec<Fault> =
        checked.validation_errors().map(|error| diagnosed(text, error)).collect();
    // What is wrong is often warned of, too.
    if faults.is_empty() {
        faults.extend(checked.validation_warnings().map(|warning| diagnosed(text, warning)));
    }
    let literals = set.policies().flat_map(cedar_policy::Policy::entity_literals);
    let unknown: HashSet<String> = literals
        .filter(|it| *it.type_name() == TYPES.topic && !is_topic_or_part(it.id().unescaped()))
        .map(|it| it.id().unescaped().to_owned())
        .collect();
    for topic in unknown {
        let (line, column) = find(text, &format!("\"{topic}\""));
        let message = format!("there is no topic {topic:?}, and no channel or source of that name");
        faults.push(Fault { part: Part::Policies, line, column, message });
    }
    if faults.is_empty() {
        return Ok(set);
    }
    faults.sort_by_key(|fault| (fault.line, fault.column));
    Err(faults)
}

/// Whether policies can speak of it: a topic in canonical spelling, or what topics are in.
fn is_topic_or_part(text: &str) -> bool {
    const PARTS: [&str; 9] = [
        "coinbase",
        "coinbase/ticker",
        "coinbase/matches",
        "coinbase/level2",
        "mastodon",
        "mastodon/server",
        "mastodon/tag",
        "mastodon/lang",
        "system",
    ];
    PARTS.contains(&text) || Topic::parse(text).is_ok_and(|topic| topic.as_str() == text)
}

fn diagnosed(text: &str, diagnostic: &dyn Diagnostic) -> Fault {
    let label = diagnostic.labels().and_then(|mut labels| labels.next());
    let (line, column) = place(text, label.as_ref().map_or(0, miette::LabeledSpan::offset));
    let mut message = diagnostic.to_string();
    if let Some(label) = label.as_ref().and_then(miette::LabeledSpan::label) {
        message = format!("{message}: {label}");
    }
    if let Some(help) = diagnostic.help() {
        message = format!("{message} ({help})");
    }
    Fault { part: Part::Policies, line, column, message }
}

fn find(text: &str, what: &str) -> (usize, usize) {
    place(text, text.find(what).unwrap_or(0))
}

/// Line and column of an offset in bytes.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(offset)];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests;
