//! An embedded DynamoDB: `aws-sdk-dynamodb` sends its requests to an engine in this process.

mod engine;

pub use self::engine::{Engine, open};
