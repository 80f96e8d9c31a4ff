//! The end of an MCAP file: its summary, made from what the file holds.
//!
//! In: a file of chunks and the message indexes behind them, on the disk. Out: the `DataEnd` record, the summary
//! section (schemas, channels, an index of every chunk, statistics), the footer, and the closing magic, as
//! [the specification](https://mcap.dev/spec) has them. The writer of the `mcap` crate keeps the index of every chunk
//! in memory until then, some tens of megabytes an hour; here the file itself is asked, one chunk after the other, so
//! that a long session takes no more memory than a short one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::scan::{MAGIC, OPCODE_CHUNK, OPCODE_DATA_END, OPCODE_FOOTER, OPCODE_MESSAGE_INDEX};

const OPCODE_SCHEMA: u8 = 0x03;
const OPCODE_CHANNEL: u8 = 0x04;
const OPCODE_CHUNK_INDEX: u8 = 0x08;
const OPCODE_STATISTICS: u8 = 0x0b;
const OPCODE_SUMMARY_OFFSET: u8 = 0x0e;
/// A message index has a time and an offset for each message.
const INDEX_ENTRY_BYTES: u64 = 16;

/// A channel with its schema.
pub(super) struct Topic<'a> {
    pub channel_id: u16,
    pub topic: &'a str,
    pub schema_id: u16,
    pub schema_name: &'a str,
    pub descriptors: &'a [u8],
}

/// Fields of a record, little-endian.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, value: &[u8]) -> Self {
        self.0.extend((value.len() as u32).to_le_bytes());
        self.0.extend(value);
        self
    }

    /// A map from channels to numbers.
    fn map(self, map: &BTreeMap<u16, u64>) -> Self {
        let fields = self.u32(10 * map.len() as u32);
        map.iter().fold(fields, |fields, (&key, &value)| fields.u16(key).u64(value))
    }
}

/// The summary section while it is written, and its checksum.
struct Section<W: Write> {
    out: W,
    at: u64,
    crc: crc32fast::Hasher,
    /// Of each group of records: their kind, where they begin, how many bytes they are.
    groups: Vec<(u8, u64, u64)>,
}

impl<W: Write> Section<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.crc.update(bytes);
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn record(&mut self, opcode: u8, Fields(fields): Fields) -> io::Result<()> {
        let start = self.at;
        self.write(&[opcode])?;
        self.write(&(fields.len() as u64).to_le_bytes())?;
        self.write(&fields)?;
        match self.groups.last_mut() {
            Some((kind, _, bytes)) if *kind == opcode => *bytes += self.at - start,
            _ => self.groups.push((opcode, start, self.at - start)),
        }
        Ok(())
    }
}

/// A chunk, as its index tells of it.
struct Chunk {
    times: (u64, u64),
    start: u64,
    bytes: u64,
    uncompressed_bytes: u64,
    compressed_bytes: u64,
    compression: Vec<u8>,
    /// Where the message index of each channel is.
    indexes: BTreeMap<u16, u64>,
    indexes_bytes: u64,
}

/// What the chunks hold together.
#[derive(Default)]
struct Counts {
    chunks: u32,
    messages: BTreeMap<u16, u64>,
    times: Option<(u64, u64)>,
}

/// Reads a file's records in order.
struct Records {
    file: BufReader<File>,
    at: u64,
}

impl Records {
    fn number<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn u16(&mut self) -> io::Result<u16> {
        self.number().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.number().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> io::Result<u64> {
        self.number().map(u64::from_le_bytes)
    }

    /// Goes on to this place, ahead of it.
    fn skip_to(&mut self, at: u64) -> io::Result<()> {
        let ahead = at.checked_sub(self.at).and_then(|ahead| i64::try_from(ahead).ok());
        self.file.seek_relative(ahead.ok_or_else(|| io::Error::other("a record ends before its fields do"))?)?;
        self.at = at;
        Ok(())
    }
}

/// Appends the end of the file at `path`, whose records end at `data_end` and have this checksum. Returns its length.
///
/// # Errors
/// It cannot be read or written; what stands before `data_end` is as it was.
pub(super) fn write(
    path: &Path,
    file: &mut File,
    (data_end, data_crc): (u64, u32),
    topics: &[Topic<'_>],
) -> io::Result<u64> {
    let mut records = Records { file: BufReader::new(File::open(path)?), at: 0 };
    records.skip_to(MAGIC.len() as u64)?;
    file.seek(SeekFrom::Start(data_end))?;
    let mut out = BufWriter::new(file);
    out.write_all(&[OPCODE_DATA_END])?;
    out.write_all(&4_u64.to_le_bytes())?;
    out.write_all(&data_crc.to_le_bytes())?;
    let summary_start = data_end + 13;
    let mut section = Section { out, at: summary_start, crc: crc32fast::Hasher::new(), groups: Vec::new() };
    // Topics of one type share its schema.
    let schemas: BTreeMap<u16, &Topic<'_>> = topics.iter().map(|topic| (topic.schema_id, topic)).collect();
    for topic in schemas.values() {
        let fields = Fields::default().u16(topic.schema_id).bytes(topic.schema_name.as_bytes());
        section.record(OPCODE_SCHEMA, fields.bytes(b"protobuf").bytes(topic.descriptors))?;
    }
    for topic in topics {
        let fields = Fields::default().u16(topic.channel_id).u16(topic.schema_id).bytes(topic.topic.as_bytes());
        section.record(OPCODE_CHANNEL, fields.bytes(b"protobuf").map(&BTreeMap::new()))?;
    }
    let counts = index_chunks(&mut records, data_end, &mut section)?;
    let (first, last) = counts.times.unwrap_or_default();
    let fields = Fields::default().u64(counts.messages.values().sum()).u16(schemas.len() as u16);
    // Attachments and metadata: none.
    let fields = fields.u32(topics.len() as u32).u32(0).u32(0).u32(counts.chunks).u64(first).u64(last);
    section.record(OPCODE_STATISTICS, fields.map(&counts.messages))?;
    let offsets_start = section.at;
    for (kind, start, bytes) in std::mem::take(&mut section.groups) {
        let mut fields = Fields(vec![kind]);
        fields = fields.u64(start).u64(bytes);
        section.record(OPCODE_SUMMARY_OFFSET, fields)?;
    }
    // The checksum covers the footer up to itself.
    section.write(&[OPCODE_FOOTER])?;
    section.write(&20_u64.to_le_bytes())?;
    section.write(&summary_start.to_le_bytes())?;
    section.write(&offsets_start.to_le_bytes())?;
    let crc = section.crc.clone().finalize();
    section.write(&crc.to_le_bytes())?;
    section.write(&MAGIC)?;
    section.out.flush()?;
    Ok(section.at)
}

/// Writes an index of every chunk.
fn index_chunks(records: &mut Records, data_end: u64, section: &mut Section<impl Write>) -> io::Result<Counts> {
    let mut counts = Counts::default();
    let mut chunk: Option<Chunk> = None;
    while records.at < data_end {
        let start = records.at;
        let [opcode] = records.number()?;
        let end = records.u64()? + records.at;
        match (opcode, &mut chunk) {
            (OPCODE_MESSAGE_INDEX, Some(chunk)) => {
                let channel = records.u16()?;
                let messages = u64::from(records.u32()?) / INDEX_ENTRY_BYTES;
                if messages > 0 {
                    *counts.messages.entry(channel).or_default() += messages;
                }
                chunk.indexes.insert(channel, start);
                chunk.indexes_bytes += end - start;
            }
            _ => {
                if let Some(chunk) = chunk.take() {
                    section.record(OPCODE_CHUNK_INDEX, counts.index_of(chunk))?;
                }
                if opcode == OPCODE_CHUNK {
                    chunk = Some(records.chunk(start, end)?);
                }
            }
        }
        records.skip_to(end)?;
    }
    if let Some(chunk) = chunk {
        section.record(OPCODE_CHUNK_INDEX, counts.index_of(chunk))?;
    }
    Ok(counts)
}

impl Records {
    /// The head of the chunk whose record stands at `start..end`.
    fn chunk(&mut self, start: u64, end: u64) -> io::Result<Chunk> {
        let times = (self.u64()?, self.u64()?);
        let uncompressed_bytes = self.u64()?;
        self.u32()?;
        let mut compression = vec![0; self.u32()? as usize];
        self.file.read_exact(&mut compression)?;
        self.at += compression.len() as u64;
        let compressed_bytes = self.u64()?;
        let (indexes, bytes) = (BTreeMap::new(), end - start);
        Ok(Chunk { times, start, bytes, uncompressed_bytes, compressed_bytes, compression, indexes, indexes_bytes: 0 })
    }
}

impl Counts {
    /// Counts a chunk; its index.
    fn index_of(&mut self, chunk: Chunk) -> Fields {
        self.chunks += 1;
        if !chunk.indexes.is_empty() {
            let (first, last) = self.times.unwrap_or(chunk.times);
            self.times = Some((first.min(chunk.times.0), last.max(chunk.times.1)));
        }
        let fields = Fields::default().u64(chunk.times.0).u64(chunk.times.1).u64(chunk.start).u64(chunk.bytes);
        let fields = fields.map(&chunk.indexes).u64(chunk.indexes_bytes).bytes(&chunk.compression);
        fields.u64(chunk.compressed_bytes).u64(chunk.uncompressed_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::{SealedFile, schema};
    use crate::config::SyncPolicy;
    use crate::proto::v1;

    #[test]
    fn a_reader_finds_every_message_by_the_index_also_behind_the_thousandth_chunk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("long.mcap");
        let topics =
            [("/head", schema!("SessionHead")), ("/losses", schema!("LossRecord")), ("/more", schema!("LossRecord"))];
        let head = v1::SessionHead { session_id: "long".to_owned(), ..v1::SessionHead::default() };
        let mut file = SealedFile::create(&path, &topics, SyncPolicy::System, &head).unwrap();
        for k in 0..2_500u64 {
            let loss = v1::LossRecord { first_input_seq: k, ..v1::LossRecord::default() };
            file.message(1 + (k % 2) as usize, 1_000 + k, k, &loss).unwrap();
            file.commit(Some(k)).unwrap();
        }
        file.finish(Some(2_499)).unwrap();
        drop(file);
        let bytes = std::fs::read(&path).unwrap();
        let summary = mcap::Summary::read(&bytes).unwrap().expect("a summary");
        let stats = summary.stats.as_ref().expect("statistics");
        assert_eq!(
            (stats.message_count, stats.chunk_count, stats.schema_count, stats.channel_count),
            (2_501, 2_501, 2, 3)
        );
        assert_eq!((stats.message_start_time, stats.message_end_time), (0, 3_499));
        assert_eq!(stats.channel_message_counts.values().copied().collect::<Vec<_>>(), [1, 1_250, 1_250]);
        // From the beginning to the end, and chunk by chunk through the index: the same.
        let all: Vec<_> = mcap::MessageStream::new(&bytes).unwrap().map(Result::unwrap).collect();
        let by_index = summary.chunk_indexes.iter().flat_map(|index| summary.stream_chunk(&bytes, index).unwrap());
        let by_index: Vec<_> = by_index.map(Result::unwrap).collect();
        assert_eq!(all.len(), 2_501);
        let seen = |messages: &[mcap::Message<'_>]| -> Vec<(String, u32, u64, Vec<u8>)> {
            let told = |m: &mcap::Message<'_>| (m.channel.topic.clone(), m.sequence, m.log_time, m.data.to_vec());
            messages.iter().map(told).collect()
        };
        assert!(seen(&all) == seen(&by_index));
        let index = &summary.chunk_indexes[2_000];
        let indexes = summary.read_message_indexes(&bytes, index).unwrap();
        assert_eq!(indexes.values().map(Vec::len).sum::<usize>(), 1);
    }
}
