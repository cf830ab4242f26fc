//! The sources: one adapter per kind of upstream.

pub mod mastodon;
