//! The IAM policies that authorizers return, and the patterns in IAM policies.

use serde::Deserialize;

/// A policy document. A field that this gateway does not evaluate, such as `Condition`, is an error,
/// because the policy could allow more without it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(crate) struct Policy {
    #[serde(rename = "Version")]
    _version: Option<String>,
    #[serde(rename = "Id")]
    _id: Option<String>,
    statement: OneOrMany<Statement>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Statement {
    #[serde(rename = "Sid")]
    _sid: Option<String>,
    effect: Effect,
    action: OneOrMany<String>,
    resource: OneOrMany<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Effect {
    Allow,
    Deny,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

impl Policy {
    /// Whether the policy allows `execute-api:Invoke` on `arn`: a statement allows it, and none denies
    /// it.
    pub(crate) fn allows(&self, arn: &str) -> bool {
        let has = |effect| {
            self.statement
                .as_slice()
                .iter()
                .any(|statement| statement.effect == effect && statement.applies_to(arn))
        };
        has(Effect::Allow) && !has(Effect::Deny)
    }
}

impl Statement {
    fn applies_to(&self, arn: &str) -> bool {
        let mut actions = self.action.as_slice().iter();
        let mut resources = self.resource.as_slice().iter();
        actions.any(|action| matches(&action.to_ascii_lowercase(), "execute-api:invoke"))
            && resources.any(|resource| matches(resource, arn))
    }
}

/// Whether `text` matches `pattern`, in which `*` stands for any characters and `?` for one.
pub fn matches(pattern: &str, text: &str) -> bool {
    let pattern = pattern.as_bytes();
    let text = text.as_bytes();
    let mut p = 0;
    let mut t = 0;
    // The position of the last star, and the end of the text that it matches.
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, reach)) = star else { return false };
                star = Some((at, reach + 1));
                p = at + 1;
                t = reach + 1;
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:execute-api:us-east-1:123456789012:abcdef123/prod/$connect";

    fn statement(effect: &str, action: &str, resource: &str) -> String {
        format!(r#"{{"Effect":"{effect}","Action":{action},"Resource":{resource}}}"#)
    }

    #[test]
    fn evaluates_policies() {
        let exact = format!("\"{ARN}\"");
        let invoke = "\"execute-api:Invoke\"";
        let allow_all = statement("Allow", "\"*\"", "\"*\"");
        let cases = [
            ("exact", statement("Allow", invoke, &exact), true),
            (
                "wildcard in the path",
                statement(
                    "Allow",
                    invoke,
                    "\"arn:aws:execute-api:us-east-1:123456789012:abcdef123/prod/*\"",
                ),
                true,
            ),
            (
                "wildcard across parts",
                statement("Allow", invoke, "\"arn:aws:execute-api:*/$connect\""),
                true,
            ),
            ("question mark", statement("Allow", invoke, &exact.replace("prod", "pr?d")), true),
            ("star", allow_all.clone(), true),
            ("action in other case", statement("Allow", "\"EXECUTE-API:invoke\"", "\"*\""), true),
            ("lists", statement("Allow", "[\"a:b\",\"execute-api:*\"]", "[\"x\",\"*\"]"), true),
            ("other stage", statement("Allow", invoke, &exact.replace("prod", "test")), false),
            ("other action", statement("Allow", "\"s3:GetObject\"", "\"*\""), false),
            ("prefix only", statement("Allow", invoke, "\"arn:aws\""), false),
            ("deny", statement("Deny", invoke, "\"*\""), false),
            (
                "deny beats allow",
                format!("{allow_all},{}", statement("Deny", invoke, &exact)),
                false,
            ),
            (
                "deny beats allow before it",
                format!("{},{allow_all}", statement("Deny", invoke, &exact)),
                false,
            ),
            (
                "deny of something else",
                format!("{allow_all},{}", statement("Deny", invoke, "\"x\"")),
                true,
            ),
            ("nothing", String::new(), false),
        ];
        for (name, statements, expected) in cases {
            let json = format!(r#"{{"Version":"2012-10-17","Statement":[{statements}]}}"#);
            let policy: Policy = serde_json::from_str(&json).expect(name);
            assert_eq!(policy.allows(ARN), expected, "case: {name}");
        }
    }

    #[test]
    fn rejects_unsupported_policies() {
        let cases = [
            r#"{"Statement":[{"Effect":"Allow","Action":"*","Resource":"*","Condition":{}}]}"#,
            r#"{"Statement":[{"Effect":"Allow","Action":"*","NotResource":"*"}]}"#,
            r#"{"Statement":[{"Effect":"Perhaps","Action":"*","Resource":"*"}]}"#,
            r#"{"Version":"2012-10-17"}"#,
        ];
        for json in cases {
            assert!(serde_json::from_str::<Policy>(json).is_err(), "case: {json}");
        }
    }

    #[test]
    fn matches_wildcards() {
        let cases = [
            ("", "", true),
            ("*", "", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("*a", "aaa", true),
            ("?", "", false),
            ("a**", "a", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(matches(pattern, text), expected, "case: {pattern} {text}");
        }
    }
}
