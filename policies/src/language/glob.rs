//! Patterns for names: `*` is any run of characters, `?` any one, `\` takes the meaning from what follows.

/// Whether `text` as a whole matches `pattern`. Needs no memory, and time in the product of the lengths at worst.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on when what follows the last star does not fit: one more character for the star.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                retry = Some((p, t));
                continue;
            }
            Some(b'?') => {
                p += 1;
                t += width(text[t]);
                continue;
            }
            Some(b'\\') if pattern.get(p + 1) == Some(&text[t]) => {
                p += 2;
                t += 1;
                continue;
            }
            Some(c) if *c != b'\\' && *c == text[t] => {
                p += 1;
                t += 1;
                continue;
            }
            _ => {}
        }
        let Some((star, taken)) = retry else { return false };
        p = star;
        t = taken + width(text[taken]);
        retry = Some((star, t));
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// The bytes of the UTF-8 character that begins with `first`.
fn width(first: u8) -> usize {
    match first {
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_and_question_marks_stand_for_characters() {
        for (pattern, text) in [
            ("", ""),
            ("*", ""),
            ("vnet*", "vnet0"),
            ("*_h", "0a1b2c_h"),
            ("a*b*c", "aXbXbc"),
            ("v?t", "vät"),
            ("**x", "x"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in
            [("", "a"), ("vnet?", "vnet"), ("a*b*c", "aXcXb"), ("v?t", "vnnt"), ("x", "xy")]
        {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn a_backslash_takes_the_meaning() {
        assert!(matches(r"a\*b", "a*b"));
        assert!(!matches(r"a\*b", "aXb"));
        assert!(matches(r"*\\", r"dir\"));
    }

    #[test]
    fn many_stars_do_not_explode() {
        let text = "a".repeat(2_000);
        assert!(!matches("*a*a*a*a*a*a*a*a*a*b", &text));
    }
}
