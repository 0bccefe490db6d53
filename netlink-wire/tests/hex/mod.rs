//! Reads the files that `capture.py` writes: hexadecimal digits, empty lines between messages, text after `#`.
#![allow(clippy::unwrap_used, dead_code, reason = "a test fails by panicking, and uses what it needs")]

use std::path::Path;

/// A capture: its messages, and what it says about itself.
pub(crate) struct Capture {
    /// The file's name without its extension.
    pub(crate) name: String,
    /// The lines before the first message: the command and the kernel.
    pub(crate) title: String,
    /// The bytes of each message.
    pub(crate) messages: Vec<Vec<u8>>,
}

/// One capture by its name.
pub(crate) fn read(name: &str) -> Capture {
    let path = directory().join(name).with_extension("hex");
    parse(&path)
}

/// All captures, in the order of their names.
pub(crate) fn all() -> Vec<Capture> {
    let mut paths: Vec<_> =
        std::fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "hex"));
    paths.sort();
    paths.iter().map(|path| parse(path)).collect()
}

fn directory() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/captures"))
}

/// A capture by the path of its file.
pub(crate) fn parse(path: &Path) -> Capture {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let name = path.file_stem().unwrap().to_string_lossy().into_owned();
    let title: Vec<_> = text.lines().map_while(|line| line.strip_prefix("# ")).collect();
    let mut messages = vec![Vec::new()];
    for line in text.lines().skip(title.len()) {
        let digits: Vec<u8> =
            line.bytes().take_while(|b| *b != b'#').filter(|b| !b.is_ascii_whitespace()).collect();
        if line.trim().is_empty() {
            messages.push(Vec::new());
        }
        let digits = std::str::from_utf8(&digits).unwrap();
        let bytes =
            (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap());
        messages.last_mut().unwrap().extend(bytes);
    }
    messages.retain(|message| !message.is_empty());
    Capture { name, title: title.join("\n"), messages }
}
