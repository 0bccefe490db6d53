//! Byte streams to a server: Unix sockets, TCP, and TLS over TCP.

use std::io;

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
        Remote::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
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

async fn connect_tcp(address: std::net::SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // Requests are small and somebody waits for each answer.
    stream.set_nodelay(true)?;
    Ok(stream)
}
