//! An update of a connection's item.

use aws_sdk_dynamodb::{
    operation::update_item::builders::UpdateItemFluentBuilder,
    types::{AttributeValue, ReturnValue},
};
use domain::topic::Topic;
use jiff::Timestamp;

use crate::item::number;

/// Builds the expression of one update: what it sets, adds, removes and deletes, and its condition.
///
/// Every change sets `changed_at`, which the index is sorted by, and increments `version`.
#[derive(Debug)]
pub(super) struct Change {
    request: UpdateItemFluentBuilder,
    set: Vec<String>,
    add: Vec<String>,
    remove: Vec<String>,
    delete: Vec<String>,
}

impl Change {
    /// Starts a change at `now` from a request that names the table and the key.
    pub(super) fn new(request: UpdateItemFluentBuilder, now: Timestamp) -> Self {
        let request = request
            .expression_attribute_values(":now", number(now.as_millisecond()))
            .expression_attribute_values(":one", number(1));
        Self {
            request,
            set: vec!["changed_at = :now".to_owned()],
            add: vec!["version :one".to_owned()],
            remove: Vec::new(),
            delete: Vec::new(),
        }
    }

    /// Sets an attribute or a part of one, such as `gone = :true`.
    pub(super) fn set(mut self, action: impl Into<String>) -> Self {
        self.set.push(action.into());
        self
    }

    /// Adds to a set, such as `topics :topics`.
    pub(super) fn add(mut self, action: impl Into<String>) -> Self {
        self.add.push(action.into());
        self
    }

    /// Removes an attribute or a part of one, such as `joining.#t0`.
    pub(super) fn remove(mut self, action: impl Into<String>) -> Self {
        self.remove.push(action.into());
        self
    }

    /// Deletes from a set, such as `topics :topics`.
    pub(super) fn delete(mut self, action: impl Into<String>) -> Self {
        self.delete.push(action.into());
        self
    }

    /// Makes the change only if the condition is met.
    pub(super) fn only_if(mut self, condition: &str) -> Self {
        self.request = self.request.condition_expression(condition);
        self
    }

    /// Gives a placeholder of the expressions its value.
    pub(super) fn value(mut self, placeholder: impl Into<String>, value: AttributeValue) -> Self {
        self.request = self.request.expression_attribute_values(placeholder, value);
        self
    }

    /// Gives a placeholder of the expressions the name of an attribute.
    pub(super) fn name(mut self, placeholder: impl Into<String>, name: &str) -> Self {
        self.request = self.request.expression_attribute_names(placeholder, name);
        self
    }

    /// Gives the placeholders `#t0`, `#t1` and so on the names of topics, and applies `change` to the
    /// number and the value of each.
    pub(super) fn each<'a, T>(
        self,
        topics: impl IntoIterator<Item = (&'a Topic, T)>,
        change: impl Fn(Self, usize, T) -> Self,
    ) -> Self {
        topics.into_iter().enumerate().fold(self, |all, (n, (topic, value))| {
            change(all.name(format!("#t{n}"), topic.as_str()), n, value)
        })
    }

    /// Returns the request. Its response has the item as it was before.
    pub(super) fn returning_old(self) -> UpdateItemFluentBuilder {
        self.request().return_values(ReturnValue::AllOld)
    }

    /// Returns the request.
    pub(super) fn request(self) -> UpdateItemFluentBuilder {
        let actions = [
            ("SET", self.set),
            ("ADD", self.add),
            ("REMOVE", self.remove),
            ("DELETE", self.delete),
        ];
        let clauses: Vec<String> = actions
            .iter()
            .filter(|(_, actions)| !actions.is_empty())
            .map(|(verb, actions)| format!("{verb} {}", actions.join(", ")))
            .collect();
        self.request.update_expression(clauses.join(" "))
    }
}
