//! The `.npy` container: its header, and plain numeric arrays.
//!
//! In: the bytes of a file. Out: [`NpyHeader`] with the place where the data begin, or numbers as f64.
//! Written here and not taken from a crate because these files come from outside: the header's length and the shape
//! are checked against the file before anything is allocated, and products of hostile shapes do not overflow.
//! The format: `\x93NUMPY`, two bytes of version, the header's length (u16 in version 1, u32 in 2 and 3), a Python
//! dictionary `{'descr': .., 'fortran_order': .., 'shape': ..}`, then the data. Structured types are not read.

use super::text_excerpt;

/// The first bytes of every `.npy` file.
pub(crate) const MAGIC: &[u8] = b"\x93NUMPY";

/// Why a `.npy` file could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NpyError {
    /// The file ends before what its header announces.
    #[error("cut short: {got} bytes, expected at least {expected}")]
    CutShort {
        /// Bytes there are.
        got: usize,
        /// Bytes that the header announces.
        expected: u64,
    },
    /// A header that is not numpy's.
    #[error("header `{header}` not understood, expected {expected}")]
    Header {
        /// The beginning of the header.
        header: String,
        /// What was looked for.
        expected: &'static str,
    },
    /// An element type that this reader does not turn into numbers.
    #[error("elements of type `{dtype}`, expected {expected}")]
    ElementType {
        /// numpy's name of the type.
        dtype: String,
        /// What is accepted.
        expected: &'static str,
    },
    /// An array of another shape.
    #[error("array of shape {shape:?}, expected {expected}")]
    Shape {
        /// The shape.
        shape: Vec<u64>,
        /// What is accepted.
        expected: String,
    },
}

/// What the header of a `.npy` file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NpyHeader {
    /// Element type as numpy writes it: `<f4`, `|O`.
    pub dtype: String,
    /// Whether the first index runs fastest.
    pub fortran_order: bool,
    /// Length along each axis; empty for a single value.
    pub shape: Vec<u64>,
    /// Where the data begin, in bytes.
    pub data_start: usize,
}

/// The kind and width of a number, with its byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NumberType {
    /// `b` boolean, `i` signed, `u` unsigned, `f` floating point.
    pub kind: u8,
    pub size_bytes: usize,
    pub big_endian: bool,
}

impl NumberType {
    /// From numpy's short name, with or without a byte-order sign: `<f4`, `i8`, `|b1`.
    pub fn parse(name: &str) -> Option<NumberType> {
        let bytes = name.as_bytes();
        let (big_endian, rest) = match bytes.first()? {
            b'>' => (true, bytes.get(1..)?),
            b'<' | b'|' | b'=' => (false, bytes.get(1..)?),
            _ => (false, bytes),
        };
        let (kind, size_bytes) = match rest {
            b"b1" | b"?" => (b'b', 1),
            b"i1" | b"i2" | b"i4" | b"i8" | b"u1" | b"u2" | b"u4" | b"u8" | b"f4" | b"f8" => {
                (rest[0], usize::from(rest[1] - b'0'))
            }
            _ => return None,
        };
        Some(NumberType { kind, size_bytes, big_endian })
    }

    /// The number in `bytes`, which must hold exactly one. Integers above 2^53 are rounded.
    pub fn decode(self, bytes: &[u8]) -> Option<f64> {
        if bytes.len() != self.size_bytes {
            return None;
        }
        let mut raw = 0_u64;
        for k in 0..self.size_bytes {
            let at = if self.big_endian { k } else { self.size_bytes - 1 - k };
            raw = raw << 8 | u64::from(bytes[at]);
        }
        Some(match (self.kind, self.size_bytes) {
            (b'b', _) => f64::from(u8::from(raw != 0)),
            (b'u', _) => raw as f64,
            (b'f', 4) => f64::from(f32::from_bits(raw as u32)),
            (b'f', _) => f64::from_bits(raw),
            (_, size) => {
                let unused = 64 - 8 * size as u32;
                (((raw << unused) as i64) >> unused) as f64
            }
        })
    }
}

impl NpyHeader {
    /// Reads the header of `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<NpyHeader, NpyError> {
        let cut = |expected: u64| NpyError::CutShort { got: bytes.len(), expected };
        if !bytes.starts_with(MAGIC) {
            return Err(NpyError::Header { header: text_excerpt(bytes), expected: "the bytes \\x93NUMPY" });
        }
        let (start, length) = match *bytes.get(6..).unwrap_or_default() {
            [1, _, a, b, ..] => (10_usize, u64::from(u16::from_le_bytes([a, b]))),
            [2 | 3, _, a, b, c, d, ..] => (12, u64::from(u32::from_le_bytes([a, b, c, d]))),
            [] | [_] | [1, ..] | [2 | 3, ..] => return Err(cut(12)),
            _ => return Err(NpyError::Header { header: text_excerpt(bytes), expected: "version 1, 2 or 3" }),
        };
        let end = start as u64 + length;
        let text = usize::try_from(end).ok().and_then(|end| bytes.get(start..end)).ok_or_else(|| cut(end))?;
        let wrong = |expected| NpyError::Header { header: text_excerpt(text), expected };
        let text = std::str::from_utf8(text).map_err(|_| wrong("UTF-8 text"))?;
        let value = |key: &str| Some(text.split_once(key)?.1.trim_start().strip_prefix(':')?.trim_start());
        let dtype =
            value("'descr'").and_then(quoted).ok_or_else(|| wrong("'descr': '<type>' (no structured types)"))?;
        let order = value("'fortran_order'").ok_or_else(|| wrong("'fortran_order'"))?;
        let fortran_order = match (order.starts_with("True"), order.starts_with("False")) {
            (true, _) => true,
            (_, true) => false,
            _ => return Err(wrong("'fortran_order': True or False")),
        };
        let shape = value("'shape'").and_then(shape_tuple).ok_or_else(|| wrong("'shape': (rows, columns, ..)"))?;
        Ok(NpyHeader { dtype: dtype.to_string(), fortran_order, shape, data_start: start + text.len() })
    }
}

fn quoted(text: &str) -> Option<&str> {
    Some(text.strip_prefix('\'')?.split_once('\'')?.0)
}

fn shape_tuple(text: &str) -> Option<Vec<u64>> {
    let inside = text.strip_prefix('(')?.split_once(')')?.0;
    let lengths = inside.split(',').map(str::trim).filter(|part| !part.is_empty());
    let shape: Vec<u64> = lengths.map(|part| part.trim_end_matches('L').parse().ok()).collect::<Option<_>>()?;
    (shape.len() <= 32).then_some(shape)
}

/// Elements of an array of this shape; `None` when that does not fit into 63 bits.
pub(crate) fn element_count(shape: &[u64]) -> Option<u64> {
    shape.iter().try_fold(1_u64, |count, &length| count.checked_mul(length)).filter(|&count| count < 1 << 63)
}

/// Numbers of `data`, which must hold exactly `count` of them.
pub(crate) fn decode_numbers(number: NumberType, count: u64, data: &[u8]) -> Result<Vec<f64>, NpyError> {
    let expected = count.saturating_mul(number.size_bytes as u64);
    if data.len() as u64 != expected {
        return Err(NpyError::CutShort { got: data.len(), expected });
    }
    Ok(data.chunks_exact(number.size_bytes).filter_map(|bytes| number.decode(bytes)).collect())
}

/// Rows and columns of a numeric 2-D array, row-major, as an image's values.
pub(crate) fn matrix_from_npy(bytes: &[u8]) -> Result<(usize, usize, Vec<f32>), NpyError> {
    let header = NpyHeader::parse(bytes)?;
    let number = NumberType::parse(&header.dtype)
        .ok_or_else(|| NpyError::ElementType { dtype: header.dtype.clone(), expected: "numbers of 1 to 8 bytes" })?;
    matrix(number, header.fortran_order, &header.shape, bytes.get(header.data_start..).unwrap_or_default())
}

/// As [`matrix_from_npy`], from the parts.
pub(crate) fn matrix(
    number: NumberType,
    fortran_order: bool,
    shape: &[u64],
    data: &[u8],
) -> Result<(usize, usize, Vec<f32>), NpyError> {
    let wrong = || NpyError::Shape { shape: shape.to_vec(), expected: "(rows, columns)".into() };
    let &[rows, cols] = shape else { return Err(wrong()) };
    let numbers = decode_numbers(number, element_count(shape).ok_or_else(wrong)?, data)?;
    let (rows, cols) = (rows as usize, cols as usize);
    let at = |row: usize, col: usize| if fortran_order { col * rows + row } else { row * cols + col };
    let mut values = Vec::with_capacity(numbers.len());
    for row in 0..if numbers.is_empty() { 0 } else { rows } {
        for col in 0..cols {
            values.push(numbers[at(row, col)] as f32);
        }
    }
    Ok((rows, cols, values))
}

#[cfg(test)]
pub(crate) fn npy_bytes(dtype: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let text = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.extend(data);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_header_gives_type_order_shape_and_start() {
        let bytes = npy_bytes("<f4", "(3, 5)", &[]);
        let header = NpyHeader::parse(&bytes).unwrap();
        assert_eq!((header.dtype.as_str(), header.fortran_order, header.shape), ("<f4", false, vec![3, 5]));
        assert_eq!(header.data_start, bytes.len());
        assert_eq!(NpyHeader::parse(&npy_bytes("|O", "()", &[])).unwrap().shape, Vec::<u64>::new());
    }

    #[test]
    fn numbers_of_every_width_and_byte_order_are_decoded() {
        let number = |name: &str, bytes: &[u8]| NumberType::parse(name).and_then(|n| n.decode(bytes));
        assert_eq!(number("<i2", &[0xfe, 0xff]), Some(-2.0));
        assert_eq!(number(">i2", &[0xff, 0xfe]), Some(-2.0));
        assert_eq!(number("<i8", &(-5_i64).to_le_bytes()), Some(-5.0));
        assert_eq!(number("u4", &7_u32.to_le_bytes()), Some(7.0));
        assert_eq!(number("<f4", &1.5_f32.to_le_bytes()), Some(1.5));
        assert_eq!(number(">f8", &2.5_f64.to_be_bytes()), Some(2.5));
        assert_eq!(number("|b1", &[1]), Some(1.0));
        assert_eq!(NumberType::parse("<U10"), None);
    }

    #[test]
    fn the_two_memory_orders_give_the_same_matrix() {
        let number = NumberType::parse("u1").unwrap();
        let by_rows = matrix(number, false, &[2, 3], &[1, 2, 3, 4, 5, 6]).unwrap();
        let by_cols = matrix(number, true, &[2, 3], &[1, 4, 2, 5, 3, 6]).unwrap();
        assert_eq!(by_rows, by_cols);
    }

    #[test]
    fn a_shape_larger_than_the_file_is_refused_before_anything_is_allocated() {
        let bytes = npy_bytes("<f8", "(4000000000, 4000000000)", &[0; 16]);
        assert!(matrix_from_npy(&bytes).is_err());
        let bytes = npy_bytes("<f8", "(1000000, 1000000)", &[0; 16]);
        assert_eq!(matrix_from_npy(&bytes), Err(NpyError::CutShort { got: 16, expected: 8_000_000_000_000 }));
        let mut huge = b"\x93NUMPY\x02\x00".to_vec();
        huge.extend(u32::MAX.to_le_bytes());
        assert_eq!(NpyHeader::parse(&huge), Err(NpyError::CutShort { got: 12, expected: 12 + u64::from(u32::MAX) }));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_header_reader_panic(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = b"\x93NUMPY".to_vec();
            bytes.extend(&tail);
            let _ = matrix_from_npy(&bytes);
            let _ = matrix_from_npy(&tail);
        }
    }
}
