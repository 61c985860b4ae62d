//! The names of files: kept as people gave them, and written so that neither a header nor a folder is fooled by them.

use std::fmt::Write as _;

/// In UTF-8.
const LONGEST: usize = 255;

/// What is wrong with a name, for its sender.
#[must_use]
pub fn fault(name: &str) -> Option<&'static str> {
    if name.trim().is_empty() {
        Some("must not be empty")
    } else if name.len() > LONGEST {
        Some("must not be longer than 255 bytes")
    } else if name.chars().any(char::is_control) {
        Some("must not hold control characters")
    } else {
        None
    }
}

/// Turns the direction of text around: `\u{202e}gpj.exe` would be read as `exe.jpg`.
fn is_deceptive(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The name as one component of a path on any system.
#[must_use]
pub fn safe(name: &str) -> String {
    let replaced = name.chars().filter(|c| !is_deceptive(*c)).map(|c| match c {
        '/' | '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|' => '_',
        c if c.is_control() => '_',
        c => c,
    });
    let replaced: String = replaced.collect();
    // Dots at the end are dropped by some systems, and one or two of them alone name a folder.
    let trimmed = replaced.trim().trim_end_matches('.').trim_end();
    if trimmed.is_empty() { "file".to_owned() } else { trimmed.to_owned() }
}

/// `Content-Disposition` of a download (RFC 6266): the name in ASCII for what reads no better, and whole in UTF-8 (RFC 8187).
#[must_use]
pub fn disposition(name: &str) -> String {
    let name = safe(name);
    // A per cent sign would be decoded by some browsers, though it is no escape here.
    let plain: String = name.chars().map(|c| if c.is_ascii() && c != '%' { c } else { '_' }).collect();
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{}", percent_encoded(&name, b"!#$&+-.^_`|~"))
}

/// The text in UTF-8, each byte as `%XX` but for letters, digits and those of `kept`.
#[must_use]
pub fn percent_encoded(text: &str, kept: &[u8]) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || kept.contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a `String` cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use url::form_urlencoded;

    use super::*;

    #[test]
    fn a_name_is_told_in_ascii_and_in_utf_8() {
        assert_eq!(
            disposition("周报 📄 50%.pdf"),
            "attachment; filename=\"__ _ 50_.pdf\"; filename*=UTF-8''%E5%91%A8%E6%8A%A5%20%F0%9F%93%84%2050%25.pdf"
        );
        assert_eq!(disposition("a.txt"), "attachment; filename=\"a.txt\"; filename*=UTF-8''a.txt");
    }

    #[test]
    fn a_name_leads_nowhere_and_deceives_nobody() {
        for (name, expected) in [
            ("../../etc/passwd", ".._.._etc_passwd"),
            ("C:\\boot.ini", "C__boot.ini"),
            ("a\u{202e}gpj.exe", "agpj.exe"),
            ("..", "file"),
            (" . ", "file"),
            ("x\r\nset-cookie: a", "x__set-cookie_ a"),
        ] {
            assert_eq!(safe(name), expected);
        }
    }

    #[test]
    fn an_impossible_name_is_refused_with_a_reason() {
        assert_eq!(fault("周报.pdf"), None);
        assert_eq!(fault(&"x".repeat(255)), None);
        for bad in ["", "  ", "a\nb", "\u{7f}", &"x".repeat(256), &"周".repeat(86)] {
            assert!(fault(bad).is_some(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_name_breaks_out_of_the_header(name in any::<String>()) {
            let header = disposition(&name);
            prop_assert!(header.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{header}");
            let (plain, extended) = header
                .strip_prefix("attachment; filename=\"").unwrap()
                .split_once("\"; filename*=UTF-8''").unwrap();
            prop_assert!(!plain.contains(['"', '\\', '/']) && !plain.is_empty());
            let value = format!("v={}", extended.replace('+', "%2B").replace('&', "%26"));
            let (_, decoded) = form_urlencoded::parse(value.as_bytes()).next().unwrap();
            prop_assert_eq!(decoded, safe(&name));
        }
    }
}
