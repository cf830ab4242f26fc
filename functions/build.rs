//! Rebuilds the crate when the web page in `web/app/dist` has been rebuilt.

fn main() {
    // Not `dist` itself: if it did not exist, Cargo would rebuild the crate every time.
    println!("cargo::rerun-if-changed=../web/app");
}
