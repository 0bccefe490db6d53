//! Messages: written as a list of elements, read into sections.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use super::Malformed;
use crate::secret::SecretBytes;

const SECTION_START: u8 = 1;
const SECTION_END: u8 = 2;
const KEY_VALUE: u8 = 3;
const LIST_START: u8 = 4;
const LIST_ITEM: u8 = 5;
const LIST_END: u8 = 6;

/// Sections in sections; strongSwan sends four.
const DEPTH_MAX: usize = 16;

/// A message that is written.
#[derive(Debug, Default)]
pub struct Builder(SecretBytes);

impl Builder {
    /// A value by its name. What is longer than the protocol has room for is cut: 255 bytes of a name, 65,535 of a value.
    pub fn value(&mut self, name: &str, value: impl AsRef<[u8]>) -> &mut Self {
        self.named(KEY_VALUE, name);
        self.blob(value.as_ref());
        self
    }

    /// A list by its name.
    pub fn list<T: AsRef<[u8]>>(&mut self, name: &str, items: impl IntoIterator<Item = T>) -> &mut Self {
        self.named(LIST_START, name);
        for item in items {
            self.0.extend(&[LIST_ITEM]);
            self.blob(item.as_ref());
        }
        self.0.extend(&[LIST_END]);
        self
    }

    /// A section by its name, with what `inside` writes.
    pub fn section(&mut self, name: &str, inside: impl FnOnce(&mut Self)) -> &mut Self {
        self.named(SECTION_START, name);
        inside(self);
        self.0.extend(&[SECTION_END]);
        self
    }

    /// What was written.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn named(&mut self, element: u8, name: &str) {
        let name = &name.as_bytes()[..name.len().min(usize::from(u8::MAX))];
        self.0.extend(&[element, name.len() as u8]);
        self.0.extend(name);
    }

    fn blob(&mut self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(usize::from(u16::MAX))];
        self.0.extend(&(bytes.len() as u16).to_be_bytes());
        self.0.extend(bytes);
    }
}

/// A message that was read, or a section of one. Values that are no text have their other bytes replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Section {
    values: Vec<(String, String)>,
    lists: Vec<(String, Vec<String>)>,
    sections: Vec<(String, Section)>,
}

impl Section {
    /// Reads a message.
    ///
    /// # Errors
    /// It is cut off, its sections do not fit each other, or it has more than 16 of them in each other.
    pub fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut bytes = Bytes(bytes);
        let root = Self::inside(&mut bytes, 0)?;
        Ok(root)
    }

    fn inside(bytes: &mut Bytes<'_>, depth: usize) -> Result<Self, Malformed> {
        let mut section = Self::default();
        loop {
            match bytes.byte() {
                None if depth == 0 => return Ok(section),
                None => return Err(Malformed("a section without an end")),
                Some(SECTION_END) if depth > 0 => return Ok(section),
                Some(SECTION_END) => return Err(Malformed("an end without a section")),
                Some(SECTION_START) if depth == DEPTH_MAX => {
                    return Err(Malformed("too many sections in each other"));
                }
                Some(SECTION_START) => {
                    let name = bytes.name()?;
                    let inner = Self::inside(bytes, depth + 1)?;
                    section.sections.push((name, inner));
                }
                Some(KEY_VALUE) => {
                    let name = bytes.name()?;
                    section.values.push((name, bytes.value()?));
                }
                Some(LIST_START) => {
                    let name = bytes.name()?;
                    section.lists.push((name, bytes.items()?));
                }
                Some(_) => return Err(Malformed("an element of no known type")),
            }
        }
    }

    /// A value by its name.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The items of a list by its name; none where there is no such list.
    pub fn list(&self, name: &str) -> &[String] {
        self.lists.iter().find(|(key, _)| key == name).map(|(_, items)| &items[..]).unwrap_or_default()
    }

    /// A section by its name.
    pub fn section(&self, name: &str) -> Option<&Self> {
        self.sections.iter().find(|(key, _)| key == name).map(|(_, section)| section)
    }

    /// All sections, in their order.
    pub fn sections(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.sections.iter().map(|(name, section)| (name.as_str(), section))
    }
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        if self.0.len() < length {
            return Err(Malformed("an element is cut off"));
        }
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(taken)
    }

    fn name(&mut self) -> Result<String, Malformed> {
        let length = self.byte().ok_or(Malformed("an element without a name"))?;
        let name = self.take(usize::from(length))?;
        core::str::from_utf8(name).map(ToOwned::to_owned).map_err(|_| Malformed("a name is no text"))
    }

    fn value(&mut self) -> Result<String, Malformed> {
        let length = self.take(2)?;
        let length = u16::from_be_bytes([length[0], length[1]]);
        Ok(String::from_utf8_lossy(self.take(usize::from(length))?).into_owned())
    }

    fn items(&mut self) -> Result<Vec<String>, Malformed> {
        let mut items = Vec::new();
        loop {
            match self.byte() {
                Some(LIST_ITEM) => items.push(self.value()?),
                Some(LIST_END) => return Ok(items),
                Some(_) => return Err(Malformed("a list with something else in it")),
                None => return Err(Malformed("a list without an end")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    /// The example of the protocol's description.
    const EXAMPLE: &[u8] =
        b"\x03\x04key1\x00\x06value1\x01\x08section1\x01\x0bsub-section\x03\x04key2\x00\x06value2\x02\
        \x04\x05list1\x05\x00\x05item1\x05\x00\x05item2\x06\x02";

    #[test]
    fn the_descriptions_example_is_written_and_read() {
        let mut message = Builder::default();
        message.value("key1", "value1").section("section1", |section| {
            section.section("sub-section", |inner| {
                inner.value("key2", "value2");
            });
            section.list("list1", ["item1", "item2"]);
        });
        assert_eq!(message.bytes(), EXAMPLE);
        let read = Section::read(EXAMPLE).unwrap();
        assert_eq!(read.value("key1"), Some("value1"));
        let section = read.section("section1").unwrap();
        assert_eq!(section.section("sub-section").unwrap().value("key2"), Some("value2"));
        assert_eq!(section.list("list1"), ["item1", "item2"]);
        assert_eq!((read.value("key2"), read.list("list1")), (None, &[][..]));
    }

    #[test]
    fn a_message_that_is_cut_off_anywhere_is_refused_or_is_a_shorter_one() {
        let whole = Section::read(EXAMPLE).unwrap();
        for length in 0..EXAMPLE.len() {
            let read = Section::read(&EXAMPLE[..length]);
            let is_boundary = length == 0 || length == 14;
            assert_eq!(read.is_ok(), is_boundary, "{length}: {read:?}");
            assert_ne!(read.unwrap_or_default(), whole);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let deep: Vec<u8> = [SECTION_START, 0].repeat(DEPTH_MAX + 1);
        let cases = [
            vec![SECTION_END],
            vec![LIST_START, 0, KEY_VALUE],
            vec![9],
            vec![KEY_VALUE, 1, 0xff, 0, 0],
            deep,
        ];
        for bytes in cases {
            assert!(Section::read(&bytes).is_err(), "{bytes:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(0_u8..8, 0..200)) {
            let _ = Section::read(&bytes);
            let _ = super::super::packet(&bytes);
        }
    }
}
