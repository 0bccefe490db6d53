//! Recordings as files: a line that says what it is, then one LZ4 frame with the records of [`policies::recording`].
//!
//! Every few seconds a block of the frame is closed, so that whatever a file is cut at, all before can be read.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read as _, Write as _};
use std::path::Path;

use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
use policies::recording::{OLDEST_VERSION, RECORD_BYTES_MAX, VERSION};

/// What a file of any version begins with.
const MAGIC: &str = "ovs-offloadd recording ";
/// What is read ahead, in bytes: more than the longest record.
const AHEAD_BYTES: usize = 4 * RECORD_BYTES_MAX;

/// The first line of a file of that version.
fn first_line(version: u32) -> String {
    format!("{MAGIC}{version}\n")
}

/// Writes a recording.
#[derive(Debug)]
pub struct Writer {
    out: FrameEncoder<BufWriter<File>>,
}

impl Writer {
    /// Begins a file; one that is there is replaced.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(first_line(VERSION).as_bytes())?;
        let info = FrameInfo::new()
            .block_mode(BlockMode::Linked)
            .block_size(BlockSize::Max256KB)
            .block_checksums(true);
        Ok(Self { out: FrameEncoder::with_frame_info(info, file) })
    }

    /// Adds whole records.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn add(&mut self, records: &[u8]) -> io::Result<()> {
        self.out.write_all(records)
    }

    /// Puts on file what was added.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Closes the file; returns its length, in bytes.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn finish(self) -> io::Result<u64> {
        let mut file = self.out.finish().map_err(io::Error::other)?;
        file.flush()?;
        Ok(file.get_ref().metadata()?.len())
    }
}

/// What a file of a recording begins with, and is not followed by what can be read here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherVersion(pub String);

/// Whether a file that begins with `bytes` is a recording.
///
/// # Errors
/// It is one, of another version.
pub fn is_recording(bytes: &[u8]) -> Result<bool, OtherVersion> {
    let Some(rest) = bytes.strip_prefix(MAGIC.as_bytes()) else { return Ok(false) };
    if (OLDEST_VERSION..=VERSION).any(|version| bytes.starts_with(first_line(version).as_bytes())) {
        return Ok(true);
    }
    let version: Vec<u8> = rest.iter().copied().take_while(|byte| byte.is_ascii_graphic()).take(20).collect();
    Err(OtherVersion(String::from_utf8_lossy(&version).into_owned()))
}

/// A file that counts what was read of it.
#[derive(Debug)]
struct Counting {
    file: File,
    read: u64,
}

impl io::Read for Counting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(buffer)?;
        self.read += length as u64;
        Ok(length)
    }
}

/// Reads a recording.
#[derive(Debug)]
pub struct Reader {
    records: FrameDecoder<BufReader<Counting>>,
    length: u64,
    buffer: Vec<u8>,
    at: usize,
    end: usize,
    is_over: bool,
    damage: Option<io::Error>,
}

impl Reader {
    /// Opens a file that [`is_recording`].
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut file = BufReader::with_capacity(1 << 18, Counting { file, read: 0 });
        // Versions have one digit so far.
        let mut line = vec![0; first_line(VERSION).len()];
        file.read_exact(&mut line)?;
        Ok(Self {
            records: FrameDecoder::new(file),
            length,
            buffer: vec![0; AHEAD_BYTES],
            at: 0,
            end: 0,
            is_over: false,
            damage: None,
        })
    }

    /// What was read and not used yet.
    pub fn ahead(&self) -> &[u8] {
        self.buffer.get(self.at..self.end).unwrap_or_default()
    }

    /// The first bytes of [`Self::ahead`] were used.
    pub fn used(&mut self, bytes: usize) {
        self.at = (self.at + bytes).min(self.end);
    }

    /// Reads further; returns whether there was anything.
    pub fn more(&mut self) -> bool {
        self.buffer.copy_within(self.at..self.end, 0);
        (self.at, self.end) = (0, self.end - self.at);
        let before = self.end;
        while !self.is_over && self.end < self.buffer.len() {
            match self.records.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.is_over = true,
                Ok(length) => self.end += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.is_over = true;
                    // A file that is cut short is told by its missing end.
                    self.damage = Some(error).filter(|error| error.kind() != io::ErrorKind::UnexpectedEof);
                }
            }
        }
        self.end > before
    }

    /// What kept it from being read further, other than its end.
    pub fn damage(&self) -> Option<&io::Error> {
        self.damage.as_ref()
    }

    /// How much of the file was read, in thousandths.
    pub fn thousandths(&self) -> u32 {
        let read = self.records.get_ref().get_ref().read;
        u32::try_from(read.saturating_mul(1_000) / self.length.max(1)).unwrap_or(1_000)
    }
}
