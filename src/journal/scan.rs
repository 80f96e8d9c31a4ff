//! Looks at every byte of a sealed file: how far it is whole, where it is damaged, and whether it merely ends early.
//!
//! In: a file. Out: a [`Scan`]. A crash, a power cut or a full disk leaves a file that ends anywhere: whole blocks,
//! then a piece of the next. Anything else is damage: a block that its [`Seal`] contradicts, a record that no writer
//! writes, a closing part that its checksums contradict. The two are told apart without trusting a length: after
//! trouble, the rest of the file is searched for a later seal, and only where there is none can it be the tail of a
//! crash.
//!
//! Cost: one pass, at the speed of CRC-32.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::seal::{RECORD_HEAD_BYTES, SEAL_BYTES, SEAL_MAGIC, SEAL_OPCODE, Seal};

/// What an MCAP file begins and ends with.
pub(super) const MAGIC: [u8; 8] = [0x89, b'M', b'C', b'A', b'P', 0x30, b'\r', b'\n'];
pub(super) const OPCODE_CHUNK: u8 = 0x06;
pub(super) const OPCODE_MESSAGE_INDEX: u8 = 0x07;
pub(super) const OPCODE_FOOTER: u8 = 0x02;
pub(super) const OPCODE_DATA_END: u8 = 0x0f;
/// Opcodes that stand between seals: header, schema, channel, chunk, message index.
const DATA_OPCODES: [u8; 5] = [0x01, 0x03, 0x04, OPCODE_CHUNK, OPCODE_MESSAGE_INDEX];
/// A tail longer than this is not looked at record by record; no writer keeps so much unsealed.
const TAIL_BYTES_MAX: u64 = 256 << 20;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scan {
    /// Bytes of the file.
    pub bytes: u64,
    /// From the beginning up to here it is whole.
    pub whole_bytes: u64,
    /// The last input in that part.
    pub last_input_seq: Option<u64>,
    /// Whether the writer closed the file.
    pub is_finished: bool,
    /// Bytes behind the last seal of a file that was not closed: the tail of a crash.
    pub tail_bytes: u64,
    /// Where it is damaged, one sentence each.
    pub damage: Vec<String>,
}

/// Scans a file.
///
/// # Errors
/// It cannot be opened or read.
pub fn scan(path: &Path) -> io::Result<Scan> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    Scanner { file: BufReader::with_capacity(1 << 20, file), bytes, whole: crc32fast::Hasher::new() }.run()
}

struct Scanner {
    file: BufReader<File>,
    bytes: u64,
    /// Over everything from the beginning, as the closing part has it.
    whole: crc32fast::Hasher,
}

/// What follows a block's beginning.
enum Block {
    /// A seal that agrees; the block ends behind it.
    Sealed(Seal, u64),
    /// No seal that agrees.
    Broken,
}

impl Scanner {
    fn run(mut self) -> io::Result<Scan> {
        let mut found = Scan { bytes: self.bytes, ..Scan::default() };
        let mut at = 0;
        while at < self.bytes {
            match self.block(at)? {
                Block::Sealed(seal, end) => {
                    at = end;
                    if found.damage.is_empty() {
                        found.whole_bytes = end;
                        found.last_input_seq = seal.last_input_seq;
                    }
                }
                Block::Broken => match self.later_seal(at)? {
                    Some(end) => {
                        found.damage.push(format!("bytes {at} to {end} do not agree with their checksum"));
                        at = end;
                    }
                    None => {
                        self.rest(at, &mut found)?;
                        break;
                    }
                },
            }
        }
        Ok(found)
    }

    fn seek(&mut self, at: u64) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(at)).map(|_| ())
    }

    /// Walks the records of the block that begins at `start` up to its seal.
    fn block(&mut self, start: u64) -> io::Result<Block> {
        self.seek(start)?;
        let mut crc = crc32fast::Hasher::new();
        let mut at = start;
        if start == 0 {
            let mut magic = [0; 8];
            if self.bytes < 8 {
                return Ok(Block::Broken);
            }
            self.file.read_exact(&mut magic)?;
            if magic != MAGIC {
                return Ok(Block::Broken);
            }
            crc.update(&magic);
            at = 8;
        }
        loop {
            let mut head = [0; RECORD_HEAD_BYTES];
            if at + RECORD_HEAD_BYTES as u64 > self.bytes {
                return Ok(Block::Broken);
            }
            self.file.read_exact(&mut head)?;
            let length = length_of(&head);
            let content = at + RECORD_HEAD_BYTES as u64;
            if length > self.bytes - content {
                return Ok(Block::Broken);
            }
            if head[0] == SEAL_OPCODE {
                let mut bytes = [0; SEAL_BYTES];
                if length != SEAL_BYTES as u64 {
                    return Ok(Block::Broken);
                }
                self.file.read_exact(&mut bytes)?;
                let Some(seal) = Seal::decode(&bytes) else { return Ok(Block::Broken) };
                let agrees = seal.block_start == start && seal.block_bytes == at - start;
                if !agrees || seal.block_crc != crc.clone().finalize() {
                    return Ok(Block::Broken);
                }
                self.whole.combine(&crc);
                self.whole.update(&head);
                self.whole.update(&bytes);
                return Ok(Block::Sealed(seal, content + SEAL_BYTES as u64));
            }
            crc.update(&head);
            self.hash(length, &mut crc)?;
            at = content + length;
        }
    }

    /// Reads `length` bytes into `crc`.
    fn hash(&mut self, length: u64, crc: &mut crc32fast::Hasher) -> io::Result<()> {
        let mut left = length;
        let mut buffer = [0; 1 << 16];
        while left > 0 {
            let piece = &mut buffer[..left.min(1 << 16) as usize];
            self.file.read_exact(piece)?;
            crc.update(piece);
            left -= piece.len() as u64;
        }
        Ok(())
    }

    /// The end of the first sound seal whose record begins behind `from`, wherever records may seem to begin.
    fn later_seal(&mut self, from: u64) -> io::Result<Option<u64>> {
        self.seek(from)?;
        let overlap = SEAL_BYTES - 1;
        let mut window: Vec<u8> = Vec::new();
        let mut window_start = from;
        loop {
            let read = self.file.by_ref().take(1 << 20).read_to_end(&mut window)?;
            for place in places(&window, &SEAL_MAGIC) {
                let Some(seal) = window.get(place..place + SEAL_BYTES).and_then(Seal::decode) else { continue };
                let content = window_start + place as u64;
                let record = content.checked_sub(RECORD_HEAD_BYTES as u64);
                if record.is_some_and(|r| r >= from && seal.block_start.checked_add(seal.block_bytes) == Some(r)) {
                    return Ok(Some(content + SEAL_BYTES as u64));
                }
            }
            if read == 0 {
                return Ok(None);
            }
            let drop = window.len().saturating_sub(overlap);
            window.drain(..drop);
            window_start += drop as u64;
        }
    }

    /// What follows the last seal: a closing part, or the tail of a crash, or damage.
    fn rest(&mut self, start: u64, found: &mut Scan) -> io::Result<()> {
        let length = self.bytes - start;
        if length > TAIL_BYTES_MAX {
            found.damage.push(format!("{length} bytes from byte {start} on have no checksum that agrees"));
            return Ok(());
        }
        if !found.damage.is_empty() {
            // What comes after damage is not judged.
            return Ok(());
        }
        self.seek(start)?;
        let mut rest = Vec::with_capacity(length as usize);
        self.file.by_ref().take(length).read_to_end(&mut rest)?;
        let is_closed = rest.ends_with(&MAGIC) && rest.len() > MAGIC.len();
        let closing = rest.first() == Some(&OPCODE_DATA_END);
        if is_closed || closing {
            match closing_part(&rest, &self.whole) {
                Ok(true) => found.is_finished = true,
                // The crash came while the file was being closed: everything before is sealed.
                Ok(false) if !is_closed => found.tail_bytes = length,
                Ok(false) => found.damage.push(format!("the closing part, from byte {start} on, is not whole")),
                Err(what) => found.damage.push(format!("the closing part, from byte {start} on: {what}")),
            }
            return Ok(());
        }
        found.tail_bytes = length;
        if let Err((at, what)) = tail(&rest, start == 0) {
            found.damage.push(format!("byte {}: {what}", start + at as u64));
        }
        Ok(())
    }
}

/// Whether the bytes are a whole closing part; false where they end early; what is wrong otherwise.
fn closing_part(rest: &[u8], data: &crc32fast::Hasher) -> Result<bool, &'static str> {
    let Some(end) = record(rest, 0) else { return ends_early(rest, 0, &[OPCODE_DATA_END], Some(4)) };
    let (OPCODE_DATA_END, &[a, b, c, d]) = (end.opcode, end.content) else { return Err("it does not begin as one") };
    if u32::from_le_bytes([a, b, c, d]) != data.clone().finalize() {
        return Err("its checksum of the data does not agree");
    }
    let summary = end.next;
    let mut at = summary;
    loop {
        let Some(next) = record(rest, at) else { return ends_early(rest, at, &[], None) };
        if next.opcode != OPCODE_FOOTER {
            at = next.next;
            continue;
        }
        let Some(stored) = next.content.get(16..20).filter(|_| next.content.len() == 20) else {
            return Err("its footer has another length");
        };
        // From the summary's first byte up to the checksum itself.
        let covered = &rest[summary..at + RECORD_HEAD_BYTES + 16];
        if stored != crc32fast::hash(covered).to_le_bytes() {
            return Err("its checksum of the summary does not agree");
        }
        let magic = &rest[next.next..];
        return match magic.len() {
            0..8 if MAGIC.starts_with(magic) => Ok(false),
            8 if magic == MAGIC => Ok(true),
            _ => Err("the file does not end as an MCAP file"),
        };
    }
}

/// Whether what begins at `at` may be a record that is cut: of one of these kinds, of this length.
fn ends_early(rest: &[u8], at: usize, opcodes: &[u8], length: Option<u64>) -> Result<bool, &'static str> {
    let piece = &rest[at..];
    let known = |opcode: &u8| opcodes.is_empty() && (1..=OPCODE_DATA_END).contains(opcode) || opcodes.contains(opcode);
    if piece.first().is_some_and(|opcode| !known(opcode)) {
        return Err("a record of an unknown kind");
    }
    if let (Some(length), Some(head)) = (length, piece.first_chunk::<RECORD_HEAD_BYTES>())
        && length_of(head) != length
    {
        return Err("a record of another length");
    }
    Ok(false)
}

/// Whether the bytes may be what a crash leaves of a block; where and what is wrong otherwise.
fn tail(rest: &[u8], from_the_beginning: bool) -> Result<(), (usize, &'static str)> {
    let mut at = 0;
    if from_the_beginning {
        let magic = &rest[..rest.len().min(8)];
        if !MAGIC.starts_with(magic) {
            return Err((0, "the file does not begin as an MCAP file"));
        }
        at = magic.len();
    }
    while at < rest.len() {
        let opcode = rest[at];
        if opcode != SEAL_OPCODE && !DATA_OPCODES.contains(&opcode) {
            return Err((at, "a record of an unknown kind"));
        }
        let Some(head) = rest[at..].first_chunk::<RECORD_HEAD_BYTES>() else { return Ok(()) };
        let length = length_of(head);
        let content = &rest[at + RECORD_HEAD_BYTES..];
        check_length(opcode, length, content).map_err(|what| (at, what))?;
        let Some(whole) = usize::try_from(length).ok().filter(|&length| length <= content.len()) else { return Ok(()) };
        if opcode == SEAL_OPCODE {
            return Err((at, "a seal that does not agree with what it seals"));
        }
        at += RECORD_HEAD_BYTES + whole;
    }
    Ok(())
}

/// Whether a record's length agrees with what its content says of itself, as far as that is there.
fn check_length(opcode: u8, length: u64, content: &[u8]) -> Result<(), &'static str> {
    let u32_at = |at: usize| content.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes).map(u64::from);
    let u64_at = |at: usize| content.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    let expected = match opcode {
        SEAL_OPCODE => Some(SEAL_BYTES as u64),
        // Two times, the size, a CRC, the compression's name, and the records behind their length.
        OPCODE_CHUNK => u32_at(28).and_then(|name| {
            if name > 16 {
                return Some(u64::MAX);
            }
            let records = u64_at(32 + name as usize)?;
            records.checked_add(40 + name)
        }),
        // The channel and an array of pairs.
        OPCODE_MESSAGE_INDEX => u32_at(2).map(|bytes| 6 + bytes),
        _ => None,
    };
    match expected {
        Some(expected) if expected != length => Err("a record whose length contradicts its content"),
        _ => Ok(()),
    }
}

struct Record<'a> {
    opcode: u8,
    content: &'a [u8],
    next: usize,
}

/// The record at `at`, if it is whole.
fn record(bytes: &[u8], at: usize) -> Option<Record<'_>> {
    let head = bytes.get(at..)?.first_chunk::<RECORD_HEAD_BYTES>()?;
    let start = at + RECORD_HEAD_BYTES;
    let next = start.checked_add(usize::try_from(length_of(head)).ok()?)?;
    Some(Record { opcode: head[0], content: bytes.get(start..next)?, next })
}

fn length_of(head: &[u8; RECORD_HEAD_BYTES]) -> u64 {
    let [_, a, b, c, d, e, f, g, h] = *head;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// Where `needle` begins in `bytes`.
fn places<'a>(bytes: &'a [u8], needle: &'a [u8; 8]) -> impl Iterator<Item = usize> + 'a {
    bytes.windows(needle.len()).enumerate().filter(move |(_, window)| window == needle).map(|(place, _)| place)
}
