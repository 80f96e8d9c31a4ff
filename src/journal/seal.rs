//! Seals: what makes every byte of a journal checkable, also of a file that a crash left unfinished.
//!
//! MCAP has checksums over the content of its chunks and, in a finished file, over the whole. A file that ends in the
//! middle of a session lacks the latter, and lengths, headers and indexes are covered by nothing. So each time records
//! go to the disk, a private record (opcode 0x80, which MCAP readers skip: <https://mcap.dev/spec>) follows them: where
//! its block of the file begins, how long it is, its CRC-32, and the last input in it. A block is every byte from the
//! end of the seal before (or the file's first byte) up to this seal. What is sealed was written as one piece; what
//! follows the last seal is the tail that a crash leaves, and was never promised to anybody.

/// The record's opcode: the first of those that MCAP leaves to applications.
pub(super) const SEAL_OPCODE: u8 = 0x80;
/// Bytes of the record's content.
pub(super) const SEAL_BYTES: usize = 40;
/// Bytes of a record before its content: opcode and length.
pub(super) const RECORD_HEAD_BYTES: usize = 9;
/// What the content begins with, so that a seal is found in a file whose lengths are wrong.
pub(super) const SEAL_MAGIC: [u8; 8] = *b"APCLSEAL";

/// What a seal says; all numbers little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seal {
    /// Where its block begins, in bytes from the beginning of the file.
    pub block_start: u64,
    /// Bytes of the block; the seal's record begins behind it.
    pub block_bytes: u64,
    /// The last input that is in the file with its decision; none before the first.
    pub last_input_seq: Option<u64>,
    /// CRC-32 (IEEE) of the block.
    pub block_crc: u32,
}

impl Seal {
    /// The record's content.
    pub fn encode(&self) -> [u8; SEAL_BYTES] {
        let mut bytes = [0; SEAL_BYTES];
        bytes[..8].copy_from_slice(&SEAL_MAGIC);
        bytes[8..16].copy_from_slice(&self.block_start.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.block_bytes.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.last_input_seq.unwrap_or(u64::MAX).to_le_bytes());
        bytes[32..36].copy_from_slice(&self.block_crc.to_le_bytes());
        let own = crc32fast::hash(&bytes[..36]);
        bytes[36..].copy_from_slice(&own.to_le_bytes());
        bytes
    }

    /// What a record's content says, if it is a seal that nothing has changed.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; SEAL_BYTES] = bytes.try_into().ok()?;
        let u64_at = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let u32_at = |at: usize| bytes[at..at + 4].try_into().map(u32::from_le_bytes).ok();
        if bytes[..8] != SEAL_MAGIC || crc32fast::hash(&bytes[..36]) != u32_at(36)? {
            return None;
        }
        let last = u64_at(24)?;
        Some(Self {
            block_start: u64_at(8)?,
            block_bytes: u64_at(16)?,
            last_input_seq: (last != u64::MAX).then_some(last),
            block_crc: u32_at(32)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_with_any_bit_flipped_is_none() {
        let seal = Seal { block_start: 57, block_bytes: 1_234, last_input_seq: Some(99), block_crc: 0xdead_beef };
        let bytes = seal.encode();
        assert_eq!(Seal::decode(&bytes), Some(seal));
        for bit in 0..SEAL_BYTES * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Seal::decode(&damaged), None, "bit {bit}");
        }
        assert_eq!(Seal::decode(&bytes[..39]), None);
        let none = Seal { last_input_seq: None, ..seal };
        assert_eq!(Seal::decode(&none.encode()), Some(none));
    }
}
