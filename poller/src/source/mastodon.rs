//! Public posts of Mastodon servers and of others that speak its interface.

#[cfg(test)]
mod fixtures;
mod html;
mod normalise;
mod optout;
mod size;
mod snowflake;
mod status;
mod timeline;
