//! Byte streams to a server: Unix sockets, TCP, and TLS over TCP.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::remote::Remote;
use crate::tls::Tls;

/// A connected stream of any kind.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// Connects to a remote.
///
/// # Errors
///
/// What the system or the TLS handshake says; an `ssl:` remote without `tls` is [`io::ErrorKind::InvalidInput`].
pub async fn connect(remote: &Remote, tls: Option<&Tls>) -> io::Result<Box<dyn ByteStream>> {
    match remote {
        Remote::Unix(path) => Ok(Box::new(UnixStream::connect(SocketPath::new(path)?.path()).await?)),
        Remote::Tcp(address) => Ok(Box::new(connect_tcp(*address).await?)),
        Remote::Ssl(address) => {
            let tls = tls.ok_or_else(|| {
                let why = "an ssl: remote needs a private key, a certificate and a CA certificate";
                io::Error::new(io::ErrorKind::InvalidInput, why)
            })?;
            let stream = connect_tcp(*address).await?;
            Ok(Box::new(tls.connect(address.ip(), stream).await?))
        }
    }
}

/// Longest path that a Unix socket address holds: `sun_path` of `unix(7)` without its final zero byte.
const SOCKET_PATH_MAX: usize = 107;

/// The path of a Unix socket in a form that fits into a socket address, whatever its length.
///
/// Linux lets a long path be written relative to an open directory, `/proc/self/fd/N/NAME`; OVS does the same
/// (`make_sockaddr_un` in `lib/socket-util-unix.c`).
#[derive(Debug)]
pub struct SocketPath {
    path: PathBuf,
    /// Keeps the descriptor in the path open.
    _directory: Option<File>,
}

impl SocketPath {
    /// Opens the socket's directory if the path is too long.
    ///
    /// # Errors
    ///
    /// What opening the directory says.
    pub fn new(path: &Path) -> io::Result<Self> {
        if path.as_os_str().len() <= SOCKET_PATH_MAX {
            return Ok(Self { path: path.into(), _directory: None });
        }
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let directory = File::open(directory)?;
        let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        Ok(Self { path, _directory: Some(directory) })
    }

    /// The path to bind or connect to, valid as long as this value lives.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

async fn connect_tcp(address: std::net::SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // Requests are small and somebody waits for each answer.
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn a_socket_with_a_long_path_can_be_reached() {
        let directory = std::env::temp_dir().join(format!("{}-{}", "x".repeat(120), std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("db.sock");
        assert!(UnixStream::connect(&path).is_err());
        let _listener = UnixListener::bind(SocketPath::new(&path).unwrap().path()).unwrap();
        let connected = UnixStream::connect(SocketPath::new(&path).unwrap().path());
        std::fs::remove_dir_all(&directory).unwrap();
        connected.unwrap();
    }
}
