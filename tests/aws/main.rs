//! Headwater as it is deployed: the packages of the functions under AWS's own runtime emulator, and
//! the whole template on an independent stand-in for AWS.
//!
//! `make test-deploy` builds and installs the requirements and sets `HEADWATER_TOOLS` (programs from
//! Python's package index) and `HEADWATER_PACKAGES` (the zips). Without them the tests are skipped,
//! and fail under `CI=true`.

#![allow(clippy::unwrap_used, reason = "a panic is the right end of a failed test")]

mod deployment;
mod emulator;
mod tools;
