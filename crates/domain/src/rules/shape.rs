//! The shape of a text with policies: how deep it is nested, and how many parts each policy has.
//!
//! The parser, the validator and the evaluator of policies recurse. A text that is nested too deeply, or has a
//! chain that is too long, would overflow their stack, which ends the process. So the shape is checked first.

/// Deepest nesting of brackets.
const MAX_DEPTH: usize = 50;

/// Most tokens of one policy. Operators nest, too: `a && b && c` is two levels.
const MAX_TOKENS: usize = 2_000;

/// Checks the shape of a text. An error is the offset of the first byte that is too much, and why.
pub(super) fn check(text: &str) -> Result<(), (usize, String)> {
    let mut depth = 0_usize;
    let mut tokens = 0_usize;
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let start = at;
        at += 1;
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => continue,
            b'/' if bytes.get(at) == Some(&b'/') => {
                at += bytes[at..].iter().position(|it| *it == b'\n').unwrap_or(bytes.len() - at);
                continue;
            }
            b'"' => {
                while let Some(&byte) = bytes.get(at) {
                    at += if byte == b'\\' { 2 } else { 1 };
                    if byte == b'"' {
                        break;
                    }
                }
            }
            b'(' | b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err((start, format!("brackets are nested more than {MAX_DEPTH} deep")));
                }
            }
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b';' => tokens = 0,
            _ if is_word(byte) => {
                at += bytes[at..].iter().take_while(|byte| is_word(**byte)).count();
            }
            _ => {}
        }
        tokens += 1;
        if tokens > MAX_TOKENS {
            return Err((start, format!("a policy has more than {MAX_TOKENS} words and signs")));
        }
    }
    Ok(())
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_are_nested_as_deep_as_permitted_and_no_deeper() {
        let nested = |depth| format!("{}{}", "([{".repeat(depth), "}])".repeat(depth));
        let deepest = format!("{}{}", nested(MAX_DEPTH / 3), nested(MAX_DEPTH / 3));
        assert_eq!(check(&deepest), Ok(()));
        assert_eq!(check(&"(".repeat(MAX_DEPTH)), Ok(()));
        let (at, reason) = check(&"(".repeat(MAX_DEPTH + 1)).expect_err("too deep");
        assert_eq!((at, reason.contains("nested")), (MAX_DEPTH, true), "{reason}");
    }

    #[test]
    fn brackets_in_texts_and_comments_do_not_count() {
        let many = "(".repeat(2 * MAX_DEPTH);
        for text in [
            format!("\"{many}\""),
            format!(r#""a\"{many}""#),
            format!("// {many}"),
            format!("a // {many}\nb"),
        ] {
            assert_eq!(check(&text), Ok(()), "{text}");
        }
        for text in [
            format!("\"\"{many}"),
            format!(r#""a\\"{many}"#),
            format!("// a\n{many}"),
            format!("a / {many}"),
            format!("/a/{many}"),
        ] {
            let (at, _) = check(&text).expect_err("too deep");
            assert_eq!(at, text.len() - many.len() + MAX_DEPTH, "{text}");
        }
    }

    #[test]
    fn a_policy_has_as_many_words_and_signs_as_permitted_and_no_more() {
        let words = |count| "a_1é ".repeat(count);
        assert_eq!(check(&words(MAX_TOKENS)), Ok(()));
        let (at, reason) = check(&words(MAX_TOKENS + 1)).expect_err("too many");
        assert_eq!((at, reason.contains("words")), (words(MAX_TOKENS).len(), true), "{reason}");
        let policies = format!("{};{};", words(MAX_TOKENS), words(MAX_TOKENS - 1));
        assert_eq!(check(&policies), Ok(()), "each policy is counted alone");
        let signs = format!("{}&", "&".repeat(MAX_TOKENS));
        assert_eq!(check(&signs).expect_err("too many").0, MAX_TOKENS);
    }
}
