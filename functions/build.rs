//! Rebuilds the crate when the web page in `web/app/dist` has been rebuilt.

fn main() {
    // Not `dist` itself: Cargo treats a folder that does not exist as one that has changed.
    println!("cargo::rerun-if-changed=../web/app");
}
