//! What must not be seen.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use zeroize::Zeroize as _;

/// A key: wiped when it goes, and printed nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// Takes a key. What it was read from is for the caller to wipe.
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The key itself, for the IKE daemon.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Bytes that may have a key among them: what they outgrow, and what they are at the end, is wiped.
#[derive(Default)]
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    /// Appends.
    pub fn extend(&mut self, bytes: &[u8]) {
        let wanted = self.0.len() + bytes.len();
        if wanted > self.0.capacity() {
            let mut larger = Vec::with_capacity(wanted.next_power_of_two().max(256));
            larger.extend_from_slice(&self.0);
            self.0.zeroize();
            self.0 = larger;
        }
        self.0.extend_from_slice(bytes);
    }
}

impl core::ops::Deref for SecretBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Drop for SecretBytes {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn a_secret_is_printed_nowhere() {
        let secret = Secret::new(b"CANARY");
        let mut bytes = SecretBytes::default();
        bytes.extend(secret.expose());
        assert_eq!(format!("{secret:?} {bytes:?}"), "Secret 6 bytes");
    }

    #[test]
    fn bytes_that_grow_keep_what_they_had() {
        let mut bytes = SecretBytes::default();
        let all: Vec<u8> = (0..2_000_u16).map(|number| number as u8).collect();
        all.chunks(7).for_each(|chunk| bytes.extend(chunk));
        assert_eq!(&*bytes, &all[..]);
    }
}
