//! What a test needs that is not in the repository.

/// Reports that a test cannot run because something is missing.
///
/// # Panics
///
/// Under `CI=true`, where everything must be there.
pub fn skip(reason: &str) {
    let is_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!is_ci, "this test must run under CI=true: {reason}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("SKIPPED {test}: {reason}");
}
