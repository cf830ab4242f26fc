//! Headwater as it is deployed: the packages of the functions under AWS's own runtime emulator, and
//! the whole template on a stand-in for AWS that nobody here wrote.
//!
//! `make test-deploy` builds and installs what this needs, and names it by `HEADWATER_TOOLS` (the
//! programs from Python's package index) and `HEADWATER_PACKAGES` (the zips). Without them the tests are skipped.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod deployment;
mod emulator;
mod tools;
