//! An embedded DynamoDB.
//!
//! [`Engine`] handles the requests of `aws-sdk-dynamodb` in this process, in place of the SDK's HTTP
//! connector. [`Server`] serves the same database over HTTP.

mod commit;
mod engine;
mod faults;
mod operation;
mod server;
mod storage;

pub use self::{
    engine::Engine,
    faults::{Fault, Faults},
    server::{ServeError, Server},
    storage::{Durability, OpenError, Storage, UnknownDurability},
};
