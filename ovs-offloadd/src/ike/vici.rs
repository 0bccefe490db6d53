//! The connection to charon: commands and their answers, lists of what it has, and what it tells by itself.
//!
//! Every answer is waited for in bounded time, no packet is longer than the protocol has them, and no list longer than
//! [`LISTED_MAX`]. What was sent is wiped: a key may have been in it.

use std::path::Path;
use std::time::Duration;

use ipsec_drive::vici::{self, Builder, HEADER, Packet, Section};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Rows of one list.
const LISTED_MAX: usize = 1 << 16;

/// What was told and nobody has taken yet: more of it than that is left out, and the last says so.
const TOLD_MAX: usize = 1 << 13;

/// Bytes that are read at once: lists are long.
const READ_BYTES: usize = 1 << 16;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The connection is of no use any more.
    Lost(String),
    /// It was not done, in charon's own words.
    Refused(String),
}

impl Failure {
    /// In a sentence.
    pub(super) fn words(self) -> String {
        let (Self::Lost(why) | Self::Refused(why)) = self;
        why
    }

    fn lost(error: &std::io::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Vici {
    stream: UnixStream,
    // What has come of packets that are not whole yet.
    received: Vec<u8>,
    /// What was told by itself, with its name, in its order.
    told: Vec<(String, Section)>,
    limit: Duration,
}

impl Vici {
    /// Connects; `limit` is the longest wait for anything.
    ///
    /// # Errors
    /// Nobody listens, in a sentence.
    pub(super) async fn connect(socket: &Path, limit: Duration) -> Result<Self, String> {
        let connected = timeout(limit, UnixStream::connect(socket)).await;
        match connected {
            Ok(Ok(stream)) => {
                let received = Vec::with_capacity(READ_BYTES);
                Ok(Self { stream, received, told: Vec::new(), limit })
            }
            Ok(Err(error)) => Err(format!("{}: {error}", socket.display())),
            Err(_) => Err(format!("{}: not connected within {} s", socket.display(), limit.as_secs())),
        }
    }

    /// Sends a command and waits for its answer.
    pub(super) async fn ask(&mut self, command: &str, message: &Builder) -> Result<Section, Failure> {
        self.send(&vici::command(command, message)).await?;
        match self.answer().await? {
            Packet::Response(answer) => Ok(answer),
            Packet::UnknownCommand => Err(Failure::Refused(format!("it has no command {command}"))),
            other => Err(out_of_place(&other)),
        }
    }

    /// Sends a command that is done or not.
    pub(super) async fn have_done(&mut self, command: &str, message: &Builder) -> Result<(), Failure> {
        let answer = self.ask(command, message).await?;
        vici::success(&answer).map_err(Failure::Refused)
    }

    /// Sends a command that is answered by events, and hands each to `row`, with what is told meanwhile, by its name and in its place.
    pub(super) async fn list(
        &mut self,
        command: &str,
        message: &Builder,
        event: &str,
        mut row: impl FnMut(&str, &Section),
    ) -> Result<(), Failure> {
        self.register(event).await?;
        for (name, message) in self.take_told() {
            row(&name, &message);
        }
        self.send(&vici::command(command, message)).await?;
        for _ in 0..LISTED_MAX {
            match self.next().await? {
                Packet::Event { name, message } => row(&name, &message),
                Packet::Response(_) => {
                    self.send(&vici::unregister(event)).await?;
                    return match self.answer().await? {
                        Packet::EventConfirmed => Ok(()),
                        other => Err(out_of_place(&other)),
                    };
                }
                other => return Err(out_of_place(&other)),
            }
        }
        Err(Failure::Lost(format!("{command} is answered with more than {LISTED_MAX} rows")))
    }

    /// Asks to be told of an event.
    pub(super) async fn register(&mut self, event: &str) -> Result<(), Failure> {
        self.send(&vici::register(event)).await?;
        match self.answer().await? {
            Packet::EventConfirmed => Ok(()),
            Packet::UnknownEvent => Err(Failure::Refused(format!("it has no event {event}"))),
            other => Err(out_of_place(&other)),
        }
    }

    /// Waits for something to be told, however long that takes. Cancel-safe.
    pub(super) async fn told(&mut self) -> Result<(), Failure> {
        match self.packet().await? {
            Packet::Event { name, message } => {
                self.keep(name, message);
                Ok(())
            }
            other => Err(out_of_place(&other)),
        }
    }

    /// Whether something was told that nobody has taken.
    pub(super) fn has_told(&self) -> bool {
        !self.told.is_empty()
    }

    /// What was told, by its name. Where something was left out, the last is of no name that there is.
    pub(super) fn take_told(&mut self) -> Vec<(String, Section)> {
        std::mem::take(&mut self.told)
    }

    fn keep(&mut self, name: String, message: Section) {
        match self.told.len() {
            ..TOLD_MAX => self.told.push((name, message)),
            TOLD_MAX => self.told.push((String::new(), Section::default())),
            _ => {}
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match timeout(self.limit, self.stream.write_all(bytes)).await {
            Ok(sent) => sent.map_err(|error| Failure::lost(&error)),
            Err(_) => Err(self.late()),
        }
    }

    /// The answer to what was sent last. What is told before it is kept.
    async fn answer(&mut self) -> Result<Packet, Failure> {
        loop {
            match self.next().await? {
                Packet::Event { name, message } => self.keep(name, message),
                other => return Ok(other),
            }
        }
    }

    async fn next(&mut self) -> Result<Packet, Failure> {
        match timeout(self.limit, self.packet()).await {
            Ok(packet) => packet,
            Err(_) => Err(self.late()),
        }
    }

    fn late(&self) -> Failure {
        Failure::Lost(format!("no answer within {} s", self.limit.as_secs()))
    }

    /// The next packet. What has come of it stays where this is cancelled.
    async fn packet(&mut self) -> Result<Packet, Failure> {
        loop {
            if let Some(packet) = self.take_packet()? {
                return Ok(packet);
            }
            let read = self.stream.read_buf(&mut self.received).await;
            if read.map_err(|error| Failure::lost(&error))? == 0 {
                return Err(Failure::Lost("charon has closed the connection".to_owned()));
            }
        }
    }

    fn take_packet(&mut self) -> Result<Option<Packet>, Failure> {
        let malformed = |malformed: vici::Malformed| Failure::Lost(malformed.to_string());
        let Some((header, rest)) = self.received.split_first_chunk::<HEADER>() else { return Ok(None) };
        let length = vici::length(*header).map_err(malformed)?;
        let Some(bytes) = rest.get(..length) else { return Ok(None) };
        let packet = vici::packet(bytes).map_err(malformed)?;
        self.received.drain(..HEADER + length);
        Ok(Some(packet))
    }
}

fn out_of_place(packet: &Packet) -> Failure {
    let what = match packet {
        Packet::Response(_) => "an answer",
        Packet::UnknownCommand => "that there is no such command",
        Packet::EventConfirmed => "that events are told",
        Packet::UnknownEvent => "that there is no such event",
        Packet::Event { .. } => "an event",
    };
    Failure::Lost(format!("charon said {what} where something else was to come"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    const LIMIT: Duration = Duration::from_millis(200);

    /// A charon that says `said` to whatever it is asked, in pieces of `piece` bytes, and closes the connection if it is to.
    async fn connected(said: &[u8], piece: usize, closes: bool) -> (tempfile::TempDir, Vici) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("charon.vici");
        let listener = UnixListener::bind(&path).unwrap();
        let said = said.to_vec();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for piece in said.chunks(piece) {
                let _ = stream.write_all(piece).await;
                tokio::task::yield_now().await;
            }
            match closes {
                true => drop(stream.read(&mut [0; 64]).await),
                false => std::future::pending().await,
            }
        });
        let vici = Vici::connect(&path, LIMIT).await.unwrap();
        (directory, vici)
    }

    fn framed(packets: &[&[u8]]) -> Vec<u8> {
        let framed = packets.iter().flat_map(|packet| {
            let length = u32::try_from(packet.len()).unwrap().to_be_bytes();
            [&length[..], packet].concat()
        });
        framed.collect()
    }

    #[tokio::test]
    async fn an_answer_is_read_in_whatever_pieces_it_comes() {
        let said = framed(&[b"\x01\x03\x07success\x00\x03yes", b"\x02"]);
        for piece in [1, 3, 1_000] {
            let (_directory, mut vici) = connected(&said, piece, false).await;
            assert_eq!(vici.have_done("load-conn", &Builder::default()).await, Ok(()));
            let refused = vici.have_done("nonsense", &Builder::default()).await;
            assert_eq!(refused, Err(Failure::Refused("it has no command nonsense".into())));
        }
    }

    #[tokio::test]
    async fn a_list_is_read_to_its_end() {
        let event = b"\x07\x07list-sa\x03\x01a\x00\x01b";
        let said = framed(&[b"\x05", event, event, b"\x01", b"\x05"]);
        let (_directory, mut vici) = connected(&said, 1_000, false).await;
        let mut rows = 0;
        let none = Builder::default();
        vici.list("list-sas", &none, "list-sa", |_, row| rows += usize::from(row.value("a") == Some("b")))
            .await
            .unwrap();
        assert_eq!(rows, 2);
    }

    #[tokio::test]
    async fn what_is_told_is_kept_in_its_place_among_answers_and_rows() {
        let told = |which: u8| [b"\x07\x01e\x03\x01n\x00\x01", &[b'0' + which][..]].concat();
        let row = b"\x07\x07list-sa\x03\x01n\x00\x01r";
        let packets: [&[u8]; 9] = [
            &told(1),
            b"\x01\x03\x07success\x00\x03yes",
            &told(2),
            b"\x05",
            row,
            &told(3),
            row,
            b"\x01",
            b"\x05",
        ];
        let (_directory, mut vici) = connected(&framed(&packets), 1_000, false).await;
        vici.have_done("load-conn", &Builder::default()).await.unwrap();
        assert!(vici.has_told());
        let mut all = String::new();
        let none = Builder::default();
        vici.list("list-sas", &none, "list-sa", |_, message| all += message.value("n").unwrap())
            .await
            .unwrap();
        assert_eq!(all, "12r3r");
        assert!(!vici.has_told());
    }

    #[tokio::test]
    async fn what_is_told_and_not_taken_is_bounded_and_known_to_be_incomplete() {
        let (_directory, mut vici) = connected(b"", 1, false).await;
        for _ in 0..TOLD_MAX + 10 {
            vici.keep("e".into(), Section::default());
        }
        let told = vici.take_told();
        assert_eq!((told.len(), told[TOLD_MAX].0.as_str()), (TOLD_MAX + 1, ""));
    }

    #[tokio::test]
    async fn what_does_not_answer_or_is_no_charon_is_given_up() {
        let cases: [(&[u8], bool, &str); 4] = [
            (b"", false, "no answer within 0 s"),
            (b"", true, "charon has closed the connection"),
            (b"\x00\x09\x00\x00", false, "message of vici: it is longer than 512 KiB"),
            (b"220 mail.example ESMTP\r\n", false, "message of vici: it is longer than 512 KiB"),
        ];
        for (said, closes, why) in cases {
            let (_directory, mut vici) = connected(said, 1_000, closes).await;
            let answer = vici.ask("version", &Builder::default()).await;
            assert_eq!(answer, Err(Failure::Lost(why.into())));
        }
    }

    #[tokio::test]
    async fn nobody_listening_is_one_sentence() {
        let why = Vici::connect(Path::new("/nonexistent/charon.vici"), LIMIT).await.unwrap_err();
        assert_eq!(why, "/nonexistent/charon.vici: No such file or directory (os error 2)");
    }
}
