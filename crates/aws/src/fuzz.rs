//! Fuzz target: what the log has.

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use bolero::check;

use crate::log::read_entry;

#[test]
fn bodies_of_the_log() {
    check!().for_each(|input| {
        let body = AttributeValue::B(Blob::new(input));
        let _ = read_entry(&[("body".to_owned(), body)].into());
    });
}
