//! A message connection over any tokio byte stream, as client or as server.
//!
//! Every future here may be dropped at any await: bytes already read stay in the framer, bytes not yet written stay in
//! the queue, and the next call goes on where the dropped one stopped.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use super::{FrameError, Framer, Limits, Malformed, Message};

const READ_BYTES: usize = 64 * 1024;

/// Why a connection ended.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Closed {
    /// The peer closed the stream between two messages.
    #[error("connection closed by peer")]
    ByPeer,
    /// The peer closed the stream inside a message.
    #[error("connection closed by peer in the middle of a message")]
    MidMessage,
    /// The stream failed.
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
    /// The peer sent something that cannot be cut into messages.
    #[error("peer does not speak JSON-RPC: {0}")]
    Frame(#[from] FrameError),
    /// The peer sent an object that is not a JSON-RPC message.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// The peer does not read: [`Limits::send_bytes_max`] bytes wait for it already. The message was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{waiting} bytes already wait for a peer that does not read")]
pub struct QueueFull {
    /// Bytes waiting to be written.
    pub waiting: usize,
}

/// A JSON-RPC 1.0 connection.
///
/// [`receive`](Self::receive) also writes what is queued, so a loop around it never deadlocks with a peer that does the
/// same.
#[derive(Debug)]
pub struct Connection<S> {
    stream: S,
    framer: Framer,
    queue: BytesMut,
    written_since_flush: bool,
    send_bytes_max: usize,
    received_bytes: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Wraps a connected stream.
    pub fn new(stream: S, limits: Limits) -> Self {
        Self {
            stream,
            framer: Framer::new(limits),
            queue: BytesMut::new(),
            written_since_flush: false,
            send_bytes_max: limits.send_bytes_max,
            received_bytes: 0,
        }
    }

    /// Bytes received since the start. It moves while a long message arrives, too: the peer is alive.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// The stream below.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// The stream below, for example to shut it down. Bytes written to it directly may end up inside a queued message.
    pub fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Queues a message without waiting. [`receive`](Self::receive) and [`flush`](Self::flush) write it.
    ///
    /// # Errors
    ///
    /// [`QueueFull`] when the peer has not read what was queued before.
    pub fn queue(&mut self, message: &Message<'_>) -> Result<(), QueueFull> {
        self.queue_bytes(&message.to_bytes())
    }

    /// As [`queue`](Self::queue), for a message that is already text.
    ///
    /// # Errors
    ///
    /// [`QueueFull`] when the peer has not read what was queued before.
    pub fn queue_bytes(&mut self, message: &[u8]) -> Result<(), QueueFull> {
        let waiting = self.queue.len();
        // An empty queue takes any message: the limit is on a peer that does not read, not on what we have to say.
        if waiting > 0 && waiting + message.len() > self.send_bytes_max {
            return Err(QueueFull { waiting });
        }
        self.queue.extend_from_slice(message);
        Ok(())
    }

    /// Waits until everything queued is written.
    ///
    /// # Errors
    ///
    /// [`Closed::Io`] when the stream fails.
    pub async fn flush(&mut self) -> Result<(), Closed> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Queues a message and waits until it is written. Dropping the future does not take the message back.
    ///
    /// # Errors
    ///
    /// [`Closed::Io`] when the stream fails.
    pub async fn send(&mut self, message: &Message<'_>) -> Result<(), Closed> {
        let bytes = message.to_bytes();
        while self.queue_bytes(&bytes).is_err() {
            self.flush().await?;
        }
        self.flush().await
    }

    /// Waits for the next message, writing what is queued meanwhile.
    ///
    /// # Errors
    ///
    /// [`Closed`]; the connection is of no more use, except after [`Closed::Malformed`], where the stream is still in
    /// step.
    pub async fn receive(&mut self) -> Result<Message<'static>, Closed> {
        let frame = self.receive_frame().await?;
        Ok(Message::parse(&frame)?.into_owned())
    }

    /// As [`receive`](Self::receive), but the text of the message, for a caller that parses it without copying.
    ///
    /// # Errors
    ///
    /// [`Closed`]; the connection is of no more use.
    pub async fn receive_frame(&mut self) -> Result<Bytes, Closed> {
        loop {
            if let Some(frame) = self.framer.next_frame()? {
                return Ok(frame);
            }
            self.read_some().await?;
        }
    }

    /// A whole message that has been read already, without waiting.
    ///
    /// # Errors
    ///
    /// [`Closed::Frame`] when the bytes read cannot be cut into messages.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, Closed> {
        Ok(self.framer.next_frame()?)
    }

    /// Waits for some bytes, a whole message or not, writing what is queued meanwhile.
    ///
    /// # Errors
    ///
    /// [`Closed`]; the connection is of no more use.
    pub async fn read_some(&mut self) -> Result<(), Closed> {
        poll_fn(|cx| {
            // A failed write is not reported before what the peer said last has been read.
            let flushed = self.poll_flush(cx);
            match (self.poll_read(cx), flushed) {
                (Poll::Pending, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
                (read, _) => read,
            }
        })
        .await
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        let buffer = self.framer.buffer_mut();
        buffer.reserve(READ_BYTES);
        // `read_buf` keeps nothing between two polls, so a fresh future each time loses nothing.
        let count = ready!(pin!(self.stream.read_buf(buffer)).poll(cx))?;
        if count == 0 {
            let mid_message = self.framer.is_mid_message();
            return Poll::Ready(Err(if mid_message { Closed::MidMessage } else { Closed::ByPeer }));
        }
        self.received_bytes += count as u64;
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        while !self.queue.is_empty() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.queue))?;
            if count == 0 {
                return Poll::Ready(Err(Closed::Io(io::ErrorKind::WriteZero.into())));
            }
            self.queue.advance(count);
            self.written_since_flush = true;
        }
        if self.written_since_flush {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.written_since_flush = false;
            self.queue = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncWriteExt as _, duplex};
    use tokio::time::timeout;

    fn request(id: u64, text: &str) -> Message<'static> {
        Message::request(id, "echo", &[text]).unwrap()
    }

    #[tokio::test]
    async fn both_ends_may_ask_and_answer() {
        let (left, right) = duplex(64);
        let mut left = Connection::new(left, Limits::UNIXCTL);
        let mut right = Connection::new(right, Limits::UNIXCTL);
        left.queue(&request(1, "from the left")).unwrap();
        right.queue(&request(1, "from the right")).unwrap();
        let (seen_left, seen_right) = tokio::join!(left.receive(), right.receive());
        assert_eq!(seen_left.unwrap().params_as::<Vec<String>>().unwrap(), ["from the right"]);
        assert_eq!(seen_right.unwrap().params_as::<Vec<String>>().unwrap(), ["from the left"]);
    }

    #[tokio::test]
    async fn peers_that_both_send_more_than_the_pipe_holds_do_not_deadlock() {
        let (left, right) = duplex(16);
        let mut left = Connection::new(left, Limits::UNIXCTL);
        let mut right = Connection::new(right, Limits::UNIXCTL);
        let long = "x".repeat(10_000);
        for id in 0..5 {
            left.queue(&request(id, &long)).unwrap();
            right.queue(&request(id, &long)).unwrap();
        }
        async fn drain(mut connection: Connection<tokio::io::DuplexStream>) -> usize {
            for _ in 0..5 {
                connection.receive().await.unwrap();
            }
            connection.flush().await.unwrap();
            5
        }
        assert_eq!(tokio::join!(drain(left), drain(right)), (5, 5));
    }

    #[tokio::test]
    async fn dropped_futures_lose_neither_what_was_read_nor_what_was_written() {
        let (left, right) = duplex(7);
        let mut sender = Connection::new(left, Limits::UNIXCTL);
        let mut receiver = Connection::new(right, Limits::UNIXCTL);
        let mut received = Vec::new();
        for id in 0..50 {
            sender.queue(&request(id, "abcdefghij")).unwrap();
        }
        // Both futures are dropped after every single poll.
        while received.len() < 50 {
            tokio::task::yield_now().await; // tokio's cooperative budget would otherwise run out
            let _ = poll_fn(|cx| Poll::Ready(pin!(sender.flush()).poll(cx).is_ready())).await;
            let polled = poll_fn(|cx| Poll::Ready(pin!(receiver.receive()).poll(cx))).await;
            if let Poll::Ready(message) = polled {
                match message.unwrap() {
                    Message::Request { id, .. } => received.push(id.as_u64().unwrap()),
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(received, (0..50).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_fills_the_queue_and_no_more() {
        let (left, _right) = duplex(16);
        let mut connection = Connection::new(left, Limits { send_bytes_max: 1000, ..Limits::UNIXCTL });
        let refused = (0..100).find_map(|id| connection.queue(&request(id, "0123456789")).err());
        assert!(refused.is_some_and(|full| full.waiting <= 1000), "{refused:?}");
    }

    #[tokio::test]
    async fn the_end_of_the_stream_says_whether_a_message_was_cut_off() {
        let (left, mut right) = duplex(64);
        let mut connection = Connection::new(left, Limits::UNIXCTL);
        right.write_all(b"{\"id\":1").await.unwrap();
        drop(right);
        let closed = timeout(Duration::from_secs(5), connection.receive()).await.unwrap();
        assert!(matches!(closed, Err(Closed::MidMessage)), "{closed:?}");

        let (left, right) = duplex(64);
        let mut connection = Connection::new(left, Limits::UNIXCTL);
        drop(right);
        assert!(matches!(connection.receive().await, Err(Closed::ByPeer)));
    }

    #[tokio::test]
    async fn a_malformed_message_leaves_the_stream_in_step() {
        let (left, mut right) = duplex(256);
        let mut connection = Connection::new(left, Limits::UNIXCTL);
        right.write_all(br#"{"id":tru}{"id":1,"result":"","error":null}"#).await.unwrap();
        assert!(matches!(connection.receive().await, Err(Closed::Malformed(_))));
        assert!(matches!(connection.receive().await, Ok(Message::Reply { .. })));
    }
}
