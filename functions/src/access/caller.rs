//! The caller of a request. `authorize` determines it, and the gateway passes it on with each event.

use std::{collections::HashMap, net::IpAddr};

use domain::access::{ANONYMOUS, Principal};
use jiff::Timestamp;
use serde_json::Value;

use crate::access::identity::Identity;

/// The field with the id of the principal.
pub const PRINCIPAL: &str = "principalId";

/// The field with its class.
pub const CLASS: &str = "class";

/// The field with the time at which the token expires, in milliseconds since 1970.
pub const EXPIRES_AT: &str = "tokenExpiresAt";

/// The caller of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The principal that makes the request.
    pub principal: Principal,
    /// When its token expires; `None` without a token.
    pub token_expires_at: Option<Timestamp>,
    /// The name under which its requests and connections are counted.
    pub counted_as: String,
}

impl Caller {
    /// Reads the fields that `authorize` returned. Without them the caller is anonymous.
    pub fn read(fields: &HashMap<String, Value>, source_ip: Option<&str>) -> Self {
        let text = |name| {
            let text = fields.get(name).and_then(Value::as_str);
            text.filter(|text| !text.is_empty())
        };
        let (Some(id), Some(class)) = (text(PRINCIPAL), text(CLASS)) else {
            return Self::new(Principal::anonymous(), None, source_ip);
        };
        let principal = Principal { id: id.to_owned(), class: class.to_owned() };
        let expires_at = text(EXPIRES_AT)
            .and_then(|at| at.parse().ok())
            .and_then(|at| Timestamp::from_millisecond(at).ok());
        Self::new(principal, expires_at, source_ip)
    }

    fn new(
        principal: Principal,
        token_expires_at: Option<Timestamp>,
        source_ip: Option<&str>,
    ) -> Self {
        let counted_as = counted_as(&principal, || address(source_ip));
        Self { principal, token_expires_at, counted_as }
    }
}

/// Returns the fields that `authorize` returns for an identity. API Gateway passes on only strings.
pub fn fields_of(identity: Option<&Identity>) -> HashMap<&'static str, String> {
    let Some(Identity { principal, expires_at }) = identity else {
        return HashMap::from([(CLASS, ANONYMOUS.to_owned())]);
    };
    HashMap::from([
        (CLASS, principal.class.clone()),
        (EXPIRES_AT, expires_at.as_millisecond().to_string()),
    ])
}

/// Returns the name under which a principal is counted, or that of its address if it is anonymous.
pub(crate) fn counted_as(principal: &Principal, address: impl FnOnce() -> String) -> String {
    if principal.is_anonymous() { address() } else { format!("user/{}", principal.id) }
}

/// Returns the name under which a caller is counted that is known by its address only.
pub(super) fn address(source_ip: Option<&str>) -> String {
    format!("address/{}", source_ip.map_or_else(String::new, network))
}

/// Returns the part of an address that identifies an internet connection: of IPv6, the first 64 bits.
fn network(address: &str) -> String {
    match address.parse() {
        Ok(IpAddr::V6(address)) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::")
        }
        Ok(IpAddr::V4(address)) => address.to_string(),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anonymous_callers_are_counted_by_their_network() {
        let cases = [
            (Some("192.0.2.7"), "address/192.0.2.7"),
            (Some("2001:db8:1:2:3:4:5:6"), "address/2001:db8:1:2::"),
            (Some("2001:db8:1:2::9"), "address/2001:db8:1:2::"),
            (Some("nonsense"), "address/"),
            (None, "address/"),
        ];
        for (address, expected) in cases {
            let caller = Caller::read(&HashMap::new(), address);
            assert_eq!(caller.counted_as, expected, "case: {address:?}");
            assert_eq!(caller.principal, Principal::anonymous());
        }
    }

    #[test]
    fn a_caller_is_read_back_from_its_fields() {
        let principal = Principal::named("ann", ["trader", "member"]).expect("a principal");
        let expires_at = Timestamp::from_second(1_800_000_000).expect("a time");
        let returned = fields_of(Some(&Identity { principal: principal.clone(), expires_at }));
        let mut fields: HashMap<String, Value> =
            returned.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        fields.insert(PRINCIPAL.to_owned(), "ann".into());
        let caller = Caller::read(&fields, Some("192.0.2.7"));
        let expected =
            Caller { principal, token_expires_at: Some(expires_at), counted_as: "user/ann".into() };
        assert_eq!(caller, expected);
    }
}
