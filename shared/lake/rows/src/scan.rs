//! JSON read once, from its start to its end, with nothing put together in between: text goes straight to where it stays.
//!
//! What it reads it reads as `serde_json` does. It is not for every document: where it answers `None`, that parser may know better.

use serde_json::value::RawValue;

use crate::value::escape_at;

/// A field whose name is known.
pub(crate) trait Known: 'static {
    /// The name as it stands in a document without spaces: in its quotes, with the colon.
    fn opening(&self) -> &'static str;

    fn is_named(&self, name: &str) -> bool {
        self.opening().strip_prefix('"').and_then(|rest| rest.strip_suffix("\":")) == Some(name)
    }
}

/// A document, and how far it is read.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The next byte that is no white space.
    #[inline]
    pub(crate) fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let b' ' | b'\n' | b'\t' | b'\r' = bytes.get(self.at)? {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    #[inline]
    fn next(&mut self, expected: u8) -> Option<()> {
        (self.peek()? == expected).then(|| self.at += 1)
    }

    /// Reads an object; `read` is given each field, or its name if it is none of the `known`, and reads the value. Fields mostly come in the order
    /// of that list, and are looked for there first.
    pub(crate) fn object<K: Known>(
        &mut self,
        known: &'static [K],
        mut read: impl FnMut(&mut Self, Result<&'static K, &'a str>) -> Option<()>,
    ) -> Option<()> {
        self.next(b'{')?;
        if self.next(b'}').is_some() {
            return Some(());
        }
        let mut expected = known.iter();
        loop {
            self.peek()?;
            let field = match expected.as_slice().first() {
                Some(field) if self.text.as_bytes().get(self.at..)?.starts_with(field.opening().as_bytes()) => {
                    expected.next();
                    self.at += field.opening().len();
                    Ok(field)
                }
                _ => {
                    let name = self.name()?;
                    self.next(b':')?;
                    let place = known.iter().position(|field| field.is_named(name));
                    expected = place.map_or(expected, |place| known.get(place + 1..).unwrap_or_default().iter());
                    place.and_then(|place| known.get(place)).ok_or(name)
                }
            };
            read(self, field)?;
            if self.next(b',').is_none() {
                return self.next(b'}');
            }
        }
    }

    /// A name; none that has an escape.
    #[inline]
    fn name(&mut self) -> Option<&'a str> {
        self.next(b'"')?;
        let start = self.at;
        self.at += plain(self.text.as_bytes().get(start..)?);
        let name = self.text.get(start..self.at)?;
        self.next(b'"')?;
        Some(name)
    }

    /// Appends a text's characters; halves of surrogate pairs are U+FFFD.
    #[inline]
    pub(crate) fn text(&mut self, to: &mut String) -> Option<()> {
        self.next(b'"')?;
        let bytes = self.text.as_bytes();
        loop {
            let start = self.at;
            self.at += plain(bytes.get(start..)?);
            to.push_str(self.text.get(start..self.at)?);
            match bytes.get(self.at)? {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                b'\\' => match bytes.get(self.at + 1)? {
                    b'u' => {
                        if !bytes.get(self.at + 2..self.at + 6)?.iter().all(u8::is_ascii_hexdigit) {
                            return None;
                        }
                        let (character, length) = escape_at(self.text.get(self.at..)?);
                        to.push(character);
                        self.at += length;
                    }
                    // Texts in texts, with their quotes and line breaks, are full of these.
                    short => {
                        to.push(char::from(match short {
                            b'"' | b'\\' | b'/' => *short,
                            b'n' => b'\n',
                            b't' => b'\t',
                            b'r' => b'\r',
                            b'b' => 8,
                            b'f' => 12,
                            _ => return None,
                        }));
                        self.at += 2;
                    }
                },
                _ => return None,
            }
        }
    }

    /// An integer, as it is written.
    #[inline]
    pub(crate) fn integer(&mut self) -> Option<&'a str> {
        let sign = usize::from(self.peek()? == b'-');
        let number = self.text.get(self.at..)?;
        let digits = number.as_bytes().get(sign..)?;
        let count = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
        let leading_zero = count > 1 && digits.first() == Some(&b'0');
        if count == 0 || leading_zero || matches!(digits.get(count), Some(b'.' | b'e' | b'E')) {
            return None;
        }
        self.at += sign + count;
        number.get(..sign + count)
    }

    pub(crate) fn null(&mut self) -> Option<()> {
        self.peek()?;
        self.text.get(self.at..)?.strip_prefix("null")?;
        self.at += 4;
        Some(())
    }

    /// Any value, as it is written.
    pub(crate) fn raw(&mut self) -> Option<&'a RawValue> {
        let mut values = serde_json::Deserializer::from_str(self.text.get(self.at..)?).into_iter();
        let value = values.next()?.ok()?;
        self.at += values.byte_offset();
        Some(value)
    }

    /// Nothing is left but white space.
    pub(crate) fn end(mut self) -> Option<()> {
        self.peek().is_none().then_some(())
    }
}

/// How many bytes come before the first quote, backslash or control character: eight at a time, a byte's highest bit tells of it.
#[inline]
fn plain(bytes: &[u8]) -> usize {
    const EACH: u64 = u64::MAX / 0xFF;
    let (words, rest) = bytes.as_chunks();
    for (at, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // Of the bytes that are below a limit only the first can be told from this: those after it may be wrong.
        let below = |word: u64, limit: u8| word.wrapping_sub(EACH * u64::from(limit)) & !word;
        let equal = |byte: u8| below(word ^ (EACH * u64::from(byte)), 1);
        let found = (below(word, b' ') | equal(b'"') | equal(b'\\')) & (EACH << 7);
        if found != 0 {
            return at * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | ..b' ');
    bytes.len() - rest.len() + rest.iter().position(special).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_first_byte_that_ends_plain_text_is_found(bytes in prop::collection::vec(prop_oneof![9 => any::<u8>(), 1 => Just(b'"'), 90 => b'#'..b'['], 0..64)) {
            let first = bytes.iter().position(|byte| matches!(byte, b'"' | b'\\' | ..b' '));
            prop_assert_eq!(plain(&bytes), first.unwrap_or(bytes.len()));
        }
    }
}
