//! The HTTP listener of Prometheus: GET /metrics and nothing else.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

/// Gives the text of a scrape.
pub trait Scrape: Send + Sync + 'static {
    /// The text now, or none if the daemon is about to end.
    fn scrape(&self) -> impl Future<Output = Option<String>> + Send;
}

/// Longest a client may take for its request, and between two of them.
const CLIENT_PATIENCE: Duration = Duration::from_secs(10);

/// Answers scrapes for ever, at most `clients_max` clients at a time.
pub async fn serve<S: Scrape>(listener: TcpListener, clients_max: usize, scrape: Arc<S>) {
    let clients = Arc::new(Semaphore::new(clients_max));
    loop {
        let Ok(permit) = Arc::clone(&clients).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "metrics listener cannot accept a client");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let scrape = Arc::clone(&scrape);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, scrape.as_ref()));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(CLIENT_PATIENCE)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                debug!(%error, "metrics client gone");
            }
            drop(permit);
        });
    }
}

async fn answer<S: Scrape>(
    request: Request<Incoming>,
    scrape: &S,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => match scrape.scrape().await {
            Some(text) => (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text),
            None => (StatusCode::SERVICE_UNAVAILABLE, "text/plain", "ovs-offloadd is about to end\n".into()),
        },
        (&Method::GET, _) => (StatusCode::NOT_FOUND, "text/plain", "see /metrics\n".to_owned()),
        _ => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET /metrics only\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    struct Fixed;

    impl Scrape for Fixed {
        async fn scrape(&self) -> Option<String> {
            Some("offloadd_info 1\n".into())
        }
    }

    async fn ask(request: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, 2, Arc::new(Fixed)));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn a_scrape_gets_the_text() {
        let text = ask("GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.contains("content-type: text/plain; version=0.0.4"), "{text}");
        assert!(text.ends_with("\r\n\r\noffloadd_info 1\n"), "{text}");
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        let not_found = ask("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert!(not_found.starts_with("HTTP/1.1 404 "), "{not_found}");
        let not_allowed = ask("POST /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert!(not_allowed.starts_with("HTTP/1.1 405 "), "{not_allowed}");
    }

    #[tokio::test]
    async fn nonsense_ends_only_its_own_connection() {
        let text = ask(&"x".repeat(100_000)).await;
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    }
}
