//! Whether a file is what its sender calls it, by its first bytes.

/// How many bytes tell what a file is.
pub const HEAD_BYTES: u64 = 8 << 10;

/// Says nothing of its content.
const ANYTHING: &str = "application/octet-stream";

/// Other names of types, and the name that is known here.
const ALIASES: &[(&str, &str)] = &[
    ("application/x-gzip", "application/gzip"),
    ("application/x-zip-compressed", "application/zip"),
    ("application/x-zip", "application/zip"),
    ("application/x-rar", "application/vnd.rar"),
    ("application/x-rar-compressed", "application/vnd.rar"),
    ("application/xml", "text/xml"),
    ("application/xhtml+xml", "text/html"),
    ("audio/mp3", "audio/mpeg"),
    ("audio/mp4", "audio/m4a"),
    ("audio/x-m4a", "audio/m4a"),
    ("audio/wav", "audio/x-wav"),
    ("audio/wave", "audio/x-wav"),
    ("audio/vnd.wave", "audio/x-wav"),
    ("audio/flac", "audio/x-flac"),
    ("image/jpg", "image/jpeg"),
    ("image/pjpeg", "image/jpeg"),
    ("image/heic", "image/heif"),
    ("image/x-ms-bmp", "image/bmp"),
    ("image/x-icon", "image/vnd.microsoft.icon"),
    ("video/avi", "video/x-msvideo"),
    ("video/mkv", "video/x-matroska"),
    ("video/x-m4v", "video/mp4"),
    ("application/javascript", "text/javascript"),
];

/// Files that are archives inside: what cannot tell them apart sees the archive.
const ZIPPED: &[&str] = &[
    "application/epub+zip",
    "application/java-archive",
    "application/vnd.android.package-archive",
    "application/vnd.apple.keynote",
    "application/vnd.apple.numbers",
    "application/vnd.apple.pages",
];
const ZIPPED_FAMILIES: &[&str] = &["application/vnd.openxmlformats-", "application/vnd.oasis.opendocument."];
const OLD_OFFICE: &[&str] = &["application/msword", "application/vnd.ms-excel", "application/vnd.ms-powerpoint"];

/// Text, though their names do not say so.
const TEXTS: &[&str] =
    &["application/json", "application/sql", "application/toml", "application/x-ndjson", "application/yaml"];

/// Containers of sound and pictures alike, whose brand says little.
const MOVING: &[&str] =
    &["audio/m4a", "video/mp4", "video/quicktime", "video/x-matroska", "video/webm", "audio/ogg", "video/ogg"];

/// The type without its parameters, in lower case; nothing if it is none.
#[must_use]
pub fn essence(mime_type: &str) -> Option<String> {
    let is_token = |text: &str| {
        (1..=127).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b))
    };
    let essence = mime_type.split(';').next()?.trim().to_ascii_lowercase();
    let (kind, subtype) = essence.split_once('/')?;
    (is_token(kind) && is_token(subtype)).then(|| essence.clone())
}

/// What a file is by its first bytes.
#[must_use]
pub fn guess(head: &[u8]) -> &'static str {
    infer::get(head).map_or(ANYTHING, |found| found.mime_type())
}

/// Whether the type says anything of the content that its first bytes could contradict.
#[must_use]
pub fn says_something(declared: &str) -> bool {
    declared != ANYTHING
}

/// What the file is instead, if its first bytes say that it is not what it is called.
///
/// A type without a mark of its own (text, JSON, an application's own format) is believed unless the bytes bear the mark of something
/// that it cannot be.
#[must_use]
pub fn contradiction(declared: &str, head: &[u8]) -> Option<String> {
    if !says_something(declared) {
        return None;
    }
    let detected = infer::get(head).map(|found| found.mime_type());
    let declared = known_name(declared);
    let Some(detected) = detected else {
        return has_a_mark(declared).then(|| "of no known type".to_owned());
    };
    (!agrees(declared, known_name(detected))).then(|| detected.to_owned())
}

fn known_name(mime_type: &str) -> &str {
    ALIASES.iter().find(|(alias, _)| *alias == mime_type).map_or(mime_type, |(_, name)| name)
}

/// Whether every file of the type begins with a mark that is known here.
fn has_a_mark(declared: &str) -> bool {
    let other_names = ALIASES.iter().filter(|(_, name)| *name == declared).map(|(alias, _)| *alias);
    // Marks of text are often left out.
    !declared.starts_with("text/") && other_names.chain([declared]).any(infer::is_mime_supported)
}

fn agrees(declared: &str, detected: &str) -> bool {
    if declared == detected {
        return true;
    }
    let zipped = |name: &str| {
        ZIPPED.contains(&name)
            || name.ends_with("+zip")
            || ZIPPED_FAMILIES.iter().any(|family| name.starts_with(family))
    };
    let old_office = |name: &str| OLD_OFFICE.contains(&name) || name == "application/x-ole-storage";
    if detected == "application/zip" && zipped(declared) || declared == "application/zip" && zipped(detected) {
        return true;
    }
    if old_office(declared) && old_office(detected) || MOVING.contains(&declared) && MOVING.contains(&detected) {
        return true;
    }
    if declared.ends_with("+xml") && detected == "text/xml" {
        return true;
    }
    // What has a mark would bear it. Anything may be inside an application's own format, text in what is text, an image in an image.
    let same_kind = detected.split_once('/').is_some_and(|(kind, _)| kind == kind_of(declared));
    !has_a_mark(declared) && (kind_of(declared) == "application" || same_kind)
}

fn kind_of(declared: &str) -> &str {
    if TEXTS.contains(&declared) || declared.ends_with("+json") {
        return "text";
    }
    declared.split_once('/').map_or(declared, |(kind, _)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0";
    const ZIP: &[u8] = b"PK\x03\x04\x14\0\0\0\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0a";
    const PDF: &[u8] = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n";
    const JPEG: &[u8] = b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01";
    const WAV: &[u8] = b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0";
    const MP4: &[u8] = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom";
    const ELF: &[u8] = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    const TEXT: &[u8] = "周报：一切顺利 🙂\n".as_bytes();

    #[test]
    fn a_file_that_is_what_it_is_called_is_believed() {
        for (declared, head) in [
            ("image/png", PNG),
            ("image/jpg", JPEG),
            ("application/pdf", PDF),
            ("application/zip", ZIP),
            ("application/x-zip-compressed", ZIP),
            ("application/vnd.openxmlformats-officedocument.wordprocessingml.document", ZIP),
            ("application/epub+zip", ZIP),
            ("application/x-company-project", ZIP),
            ("application/octet-stream", PNG),
            ("audio/wav", WAV),
            ("video/mp4", MP4),
            ("video/quicktime", MP4),
            ("text/plain", TEXT),
            ("text/csv", b"a,b\n1,2\n"),
            ("application/json", b"{\"a\": 1}"),
            ("application/x-company-project", b"\x01\x02\x03"),
            ("text/html", b"<!DOCTYPE html><html></html>"),
            ("image/svg+xml", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
            ("image/svg+xml", b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>"),
            ("text/plain", b"#!/bin/sh\necho hi\n"),
        ] {
            assert_eq!(contradiction(declared, head), None, "{declared}");
        }
    }

    #[test]
    fn a_file_that_is_something_else_is_found_out() {
        for (declared, head, found) in [
            ("image/png", ZIP, "application/zip"),
            ("image/png", JPEG, "image/jpeg"),
            ("image/png", TEXT, "of no known type"),
            ("image/png", b"".as_slice(), "of no known type"),
            ("application/pdf", PNG, "image/png"),
            ("application/zip", PDF, "application/pdf"),
            ("application/zip", TEXT, "of no known type"),
            ("text/plain", PNG, "image/png"),
            ("text/csv", ZIP, "application/zip"),
            ("audio/wav", MP4, "video/mp4"),
            ("application/json", PNG, "image/png"),
            ("image/svg+xml", ZIP, "application/zip"),
            ("image/jpeg", ELF, "application/x-executable"),
            ("text/plain", ELF, "application/x-executable"),
        ] {
            assert_eq!(contradiction(declared, head).as_deref(), Some(found), "{declared}");
        }
    }

    #[test]
    fn a_type_is_read_without_its_parameters() {
        assert_eq!(essence("Text/Plain; charset=utf-8").as_deref(), Some("text/plain"));
        for bad in ["", "text", "text/", "/plain", "text/pl ain", "text/plain/x", "text/你好", "a/b\r\nc: d"] {
            assert_eq!(essence(bad), None, "{bad:?}");
        }
    }
}
