//! The filter of the log.

/// The crates of this project, as prefixes of the targets of their events.
const OURS: [&str; 9] = [
    "aws::",
    "domain",
    "dynamo::",
    "functions",
    "gateway",
    "headwater",
    "local",
    "poller",
    "simulator",
];

/// Makes a filter in the format of `tracing_subscriber::EnvFilter` from one that people write.
///
/// A level without a crate, such as `trace`, concerns the crates of this project. Others log at `info` at most
/// unless the filter names them: at lower levels, some log whole requests, with the secrets in them.
pub fn parse(text: &str) -> String {
    let mut directives = Vec::new();
    for directive in text.split(',').map(str::trim).filter(|it| !it.is_empty()) {
        let level = directive.to_ascii_lowercase();
        if matches!(level.as_str(), "debug" | "trace" | "4" | "5") {
            directives.push("info".to_owned());
            directives.extend(OURS.map(|target| format!("{target}={level}")));
        } else {
            directives.push(directive.to_owned());
        }
    }
    directives.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_crates_log_more_than_info_unless_others_are_named() {
        let ours = |level: &str| OURS.map(|it| format!("{it}={level}")).join(",");
        let cases = [
            ("", String::new()),
            ("info", "info".to_owned()),
            ("warn,poller=trace", "warn,poller=trace".to_owned()),
            ("debug", format!("info,{}", ours("debug"))),
            ("TRACE", format!("info,{}", ours("trace"))),
            ("trace, hyper=debug", format!("info,{},hyper=debug", ours("trace"))),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), expected, "case: {text}");
        }
    }
}
