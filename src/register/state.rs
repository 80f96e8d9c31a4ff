//! Saving and loading of everything that changes: a small record, then images as plain little-endian numbers.
//!
//! What can be computed from the images (weights, tables, spectra) is not saved but made again, which gives the same
//! bits, since making them is a pure function. Saving does not allocate when `out` has the capacity.

use serde::{Deserialize, Serialize};

use super::{RegisterError, TemplateOffset};

/// Contrasts of a frame as multiples of the template's: the whole frame first, then the bands.
pub(super) type Contrasts = [f64; 1 + super::bank::BANDS];

/// What is expected of a good frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Typical {
    pub mean: Contrasts,
    /// Standard deviations; infinite while unknown.
    pub deviation: Contrasts,
}

impl Default for Typical {
    fn default() -> Self {
        Self { mean: [1.0; 1 + super::bank::BANDS], deviation: [f64::INFINITY; 1 + super::bank::BANDS] }
    }
}

/// Sums over good frames.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Learned {
    pub count: u32,
    pub sums: Contrasts,
    pub squares: Contrasts,
}

impl Learned {
    pub(super) fn add(&mut self, contrasts: &Contrasts) {
        self.count += 1;
        for ((sum, square), c) in self.sums.iter_mut().zip(&mut self.squares).zip(contrasts) {
            *sum += c;
            *square += c * c;
        }
    }

    /// Means, and the deviations once there are enough frames for them.
    pub(super) fn tell(&self, typical: &mut Typical) {
        if self.count == 0 {
            return;
        }
        let n = f64::from(self.count);
        for k in 0..typical.mean.len() {
            let mean = self.sums[k] / n;
            typical.mean[k] = mean.max(f64::MIN_POSITIVE);
            if self.count >= 8 {
                typical.deviation[k] = (self.squares[k] / n - mean * mean).max(0.0).sqrt();
            }
        }
    }
}

/// The part of the state that is not images.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Height and width the state was made for.
    pub size: (u32, u32),
    /// A baseline is running.
    pub baseline: bool,
    /// There is a template.
    pub template: bool,
    /// There is a reference image.
    pub reference: bool,
    /// The tracker knows where the content is.
    pub locked: bool,
    /// Last good shift.
    pub shift: (f64, f64),
    /// Frames in the accumulator.
    pub frames: u32,
    /// Frames of which the present template was made.
    pub built_from: u32,
    /// Counts to subtract from samples for people.
    pub bias: i32,
    /// Variance of white noise in one frame: sum and number of measurements.
    pub frame_noise: (f64, u32),
    /// Variance of white noise in the template.
    pub template_noise: f64,
    /// Variance of a typical frame: sum and number of frames.
    pub variance: (f64, u32),
    /// What a typical frame's contrast is against this template.
    pub typical: Typical,
    /// Contrasts of the good frames since the template was made or loaded.
    pub learned: Learned,
    /// Nothing is known yet of what to expect: the first good frames tell.
    pub learning: bool,
    /// Score of the last good frame.
    pub last_score: f64,
    /// Frames in a row that did not fit while the template was young.
    pub misfits: u32,
    /// Flat rows that typical frames have.
    pub flat_rows: i64,
    /// Offset to the reference.
    pub offset: Option<TemplateOffset>,
}

impl Record {
    pub(super) fn save(&self, out: &mut Vec<u8>) {
        let at = out.len();
        out.extend_from_slice(&[0; 4]);
        // a vector takes every byte: there is no error to report
        let _ = postcard::to_io(self, &mut *out);
        let length = (out.len() - at - 4) as u32;
        out[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }

    pub(super) fn load(reader: &mut Reader) -> Result<Self, RegisterError> {
        let length = reader.take(4)?;
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let bytes = reader.take(length)?;
        let bad = |_| RegisterError::BadState { why: "the record is damaged", got: length, expected: length };
        postcard::from_bytes(bytes).map_err(bad)
    }
}

/// Reads a slice from its start.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], RegisterError> {
        let left = self.bytes.len() - self.at;
        if length > left {
            return Err(RegisterError::BadState { why: "it is cut short", got: left, expected: length });
        }
        self.at += length;
        Ok(&self.bytes[self.at - length..self.at])
    }

    /// A record of numbers.
    pub(super) fn record<T: Deserialize<'a>>(&mut self) -> Result<T, RegisterError> {
        let rest = &self.bytes[self.at..];
        let bad = |_| RegisterError::BadState { why: "a record is damaged", got: rest.len(), expected: rest.len() };
        let (value, left) = postcard::take_from_bytes(rest).map_err(bad)?;
        self.at = self.bytes.len() - left.len();
        Ok(value)
    }

    /// Bytes taken so far.
    pub(super) fn consumed(&self) -> usize {
        self.at
    }
}

/// Appends an image's values as little-endian bytes.
pub(super) fn save_values(values: &[f32], out: &mut Vec<u8>) {
    for value in values {
        out.extend_from_slice(&value.to_le_bytes());
    }
}

/// Reads values that [`save_values`] wrote.
pub(super) fn load_values(reader: &mut Reader, values: &mut [f32]) -> Result<(), RegisterError> {
    let bytes = reader.take(values.len() * 4)?;
    for (value, b) in values.iter_mut().zip(bytes.chunks_exact(4)) {
        *value = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_comes_back_and_a_cut_one_is_refused() {
        let record = Record { shift: (1.5, -2.0), frames: 7, ..Record::default() };
        let mut bytes = vec![9];
        record.save(&mut bytes);
        assert_eq!(Record::load(&mut Reader::new(&bytes[1..])), Ok(record));
        for cut in 1..bytes.len() {
            assert!(Record::load(&mut Reader::new(&bytes[1..cut])).is_err());
        }
    }

    #[test]
    fn what_is_learned_is_the_mean_and_the_deviation() {
        let (mut learned, mut typical) = (Learned::default(), Typical::default());
        for k in 0..8 {
            learned.add(&[if k % 2 == 0 { 0.5 } else { 0.7 }; 9]);
        }
        learned.tell(&mut typical);
        assert!((typical.mean[3] - 0.6).abs() < 1e-12 && (typical.deviation[0] - 0.1).abs() < 1e-9);
    }
}
