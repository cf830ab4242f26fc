//! Requirements of tests that are not part of the repository.

/// Reports that a test is skipped because a requirement is missing.
///
/// # Panics
///
/// Under `CI=true`, where all requirements must be installed.
pub fn skip(reason: &str) {
    let is_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!is_ci, "this test must run under CI=true: {reason}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("SKIPPED {test}: {reason}");
}
