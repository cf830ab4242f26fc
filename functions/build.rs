//! Has the crate compiled anew when the page in `web/app/dist` has been built anew.

fn main() {
    // Not `dist` itself: Cargo takes a folder that is not there for one that has changed.
    println!("cargo::rerun-if-changed=../web/app");
}
