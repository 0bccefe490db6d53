//! Files of certificates and keys, which the IKE daemon is handed by their content.

use std::fs::File;
use std::io::{Read as _, Result as IoResult};

use ipsec_drive::Auth;
use ipsec_drive::strongswan::Certificates;
use x509_cert::Certificate;
use x509_cert::der::{Decode as _, DecodePem as _};
use zeroize::Zeroizing;

/// The longest file: what a value of vici has room for.
const FILE_MAX: usize = 65_535;
const PEM: &[u8] = b"-----BEGIN CERTIFICATE-----";
const PEM_END: &[u8] = b"-----END CERTIFICATE-----";

/// What was read of a connection's files.
pub(super) struct Files {
    /// Ours and the peer's, or the authority's.
    pub(super) certificates: Certificates,
    /// The key of ours.
    pub(super) key: Zeroizing<Vec<u8>>,
}

/// Reads what a connection needs; none where the ends know each other by a key that both have.
///
/// # Errors
/// A file cannot be read, or is no certificate: in a sentence with its name.
pub(super) fn read(auth: &Auth) -> Result<Option<Files>, String> {
    let (certificate, private_key, other) = match auth {
        Auth::Psk(_) => return Ok(None),
        Auth::SelfSigned { certificate, private_key, remote_cert } => (certificate, private_key, remote_cert),
        Auth::Ca { certificate, private_key, ca_cert, .. } => (certificate, private_key, ca_cert),
    };
    let own = content(certificate)?;
    let own_name = common_name(&own).map_err(|why| format!("{certificate}: {why}"))?;
    let certificates = Certificates { own: own.to_vec(), own_name, other: content(other)?.to_vec() };
    Ok(Some(Files { certificates, key: content(private_key)? }))
}

/// A file, whole.
///
/// # Errors
/// It cannot be read, or is too long: in a sentence with its name.
pub(super) fn content(path: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    // Of its full size from the start: what a vector outgrows is not wiped.
    let mut bytes = Zeroizing::new(vec![0; FILE_MAX + 1]);
    let length = fill(path, &mut bytes).map_err(|error| format!("{path}: {error}"))?;
    if length > FILE_MAX {
        return Err(format!("{path}: it is longer than {FILE_MAX} bytes"));
    }
    bytes.truncate(length);
    Ok(bytes)
}

fn fill(path: &str, bytes: &mut [u8]) -> IoResult<usize> {
    let mut file = File::open(path)?;
    let mut length = 0;
    while length < bytes.len() {
        match file.read(&mut bytes[length..])? {
            0 => break,
            read => length += read,
        }
    }
    Ok(length)
}

/// The common name of the first certificate in a file, PEM or DER: what `ovs-monitor-ipsec` has the ends know each other by.
fn common_name(bytes: &[u8]) -> Result<String, String> {
    let unreadable = |error: x509_cert::der::Error| format!("it is no certificate: {error}");
    let position = |part: &[u8]| bytes.windows(part.len()).position(|window| window == part);
    let certificate = match position(PEM) {
        // Tools put the certificate as text before it.
        Some(begin) => {
            let end = position(PEM_END).filter(|end| *end > begin).ok_or("it is cut off")?;
            Certificate::from_pem(&bytes[begin..end + PEM_END.len()])
        }
        None => Certificate::from_der(bytes),
    };
    let certificate = certificate.map_err(unreadable)?;
    let name = certificate.tbs_certificate().subject().common_name().map_err(unreadable)?;
    name.map(|name| name.value().into_owned()).ok_or_else(|| "its subject has no common name (CN)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500 -subj /O=lab/CN=hv1 -addext subjectAltName=DNS:hv1`
    const CERTIFICATE: &str = include_str!("hv1.pem");

    fn self_signed(directory: &std::path::Path) -> Auth {
        let path = |name: &str| directory.join(name).display().to_string();
        Auth::SelfSigned {
            certificate: path("c.pem"),
            private_key: path("k.pem"),
            remote_cert: path("r.pem"),
        }
    }

    #[test]
    fn the_name_in_a_certificate_is_read_whatever_stands_around_it() {
        assert_eq!(common_name(CERTIFICATE.as_bytes()), Ok("hv1".into()));
        let with_text = format!("Certificate:\n    Data:\n{CERTIFICATE}{CERTIFICATE}");
        assert_eq!(common_name(with_text.as_bytes()), Ok("hv1".into()));
        let cut = &CERTIFICATE[..CERTIFICATE.len() / 2];
        for wrong in ["", "no certificate", cut] {
            assert!(common_name(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let auth = self_signed(directory.path());
        let why = |auth: &Auth| read(auth).err().unwrap();
        assert!(why(&auth).ends_with("c.pem: No such file or directory (os error 2)"), "{}", why(&auth));
        std::fs::write(directory.path().join("c.pem"), "x").unwrap();
        assert!(why(&auth).contains("c.pem: it is no certificate"), "{}", why(&auth));
        std::fs::write(directory.path().join("c.pem"), CERTIFICATE).unwrap();
        std::fs::write(directory.path().join("r.pem"), vec![b'x'; FILE_MAX + 1]).unwrap();
        assert!(why(&auth).ends_with("r.pem: it is longer than 65535 bytes"), "{}", why(&auth));
        std::fs::write(directory.path().join("r.pem"), CERTIFICATE).unwrap();
        std::fs::write(directory.path().join("k.pem"), "KEY").unwrap();
        let files = read(&auth).unwrap().unwrap();
        assert_eq!((files.certificates.own_name.as_str(), &files.key[..]), ("hv1", &b"KEY"[..]));
    }
}
