//! What an operator should know of a session, one sentence for each kind of trouble, with its number and first example.

use std::collections::BTreeMap;

use super::gather::Offset;
use crate::engine::WARNING_OFFSET;
use crate::journal::JournalError;
use crate::proto::v1::{self, EventKind};

/// [`crate::engine::DeviceReport::Refused`] in an input record.
pub(super) const DEVICE_REFUSED: u32 = 2;

/// F0 below this share of F itself is next to nothing: dF/F is then mostly noise, many times too large.
const LOW_F0_SHARE: f64 = 0.02;

/// Trouble of one kind: how often, and what the first was.
#[derive(Debug, Clone, Default)]
struct Tally {
    count: u64,
    first: String,
}

impl Tally {
    fn add(&mut self, count: u64, what: impl FnOnce() -> String) {
        if self.count == 0 {
            self.first = what();
        }
        self.count += count;
    }
}

/// Everything that a pass over the journal noted.
#[derive(Debug, Clone, Default)]
pub(super) struct Notes {
    broken_off: Option<String>,
    /// Warnings of the engine, each text once.
    warnings: Vec<(u64, String)>,
    faults: Tally,
    refused_frames: Tally,
    skipped: Tally,
    skips: u64,
    gaps: Tally,
    gap_s: f64,
    gap_since: Option<(u64, f64)>,
    refused_commands: Tally,
    unfinished: u64,
    lost: Tally,
    /// For each ROI of the ensembles: frames outside the baseline in which it was invalid, and the first of them.
    invalid: BTreeMap<u32, Tally>,
    /// For each ROI of the ensembles whose F0 came near zero: frames in which it was, the first, and the lowest F0.
    low_f0: BTreeMap<u32, (Tally, f64)>,
    /// Frames outside the baseline.
    frames: u64,
}

impl Notes {
    /// The journal ends here, and not where it should.
    pub fn broken_off(&mut self, error: &JournalError) {
        self.broken_off = Some(format!("The journal breaks off, and this report with it: {error}."));
    }

    /// Segments that their service left without closing them.
    pub fn unfinished(&mut self, segments: usize) {
        self.unfinished = segments as u64;
    }

    /// Records that are not in the journal.
    pub fn loss(&mut self, loss: &v1::LossRecord) {
        self.lost.add(loss.records, || format!("of inputs {} to {}", loss.first_input_seq, loss.last_input_seq));
    }

    /// A decided frame outside the baseline, and the ROIs of the ensembles that were invalid in it.
    pub fn frame(&mut self, index: u64, invalid: impl Iterator<Item = u32>) {
        self.frames += 1;
        for roi in invalid {
            self.invalid.entry(roi).or_default().add(1, || index.to_string());
        }
    }

    /// F and F0 of a valid ROI of the ensembles in a frame outside the baseline, in counts.
    pub fn f0(&mut self, index: u64, roi: u32, f_counts: f64, f0_counts: f64) {
        if f0_counts < LOW_F0_SHARE * f_counts {
            let (tally, lowest) = self.low_f0.entry(roi).or_insert((Tally::default(), f0_counts));
            tally.add(1, || index.to_string());
            *lowest = lowest.min(f0_counts);
        }
    }

    /// An event, and the input that caused it.
    pub fn event(&mut self, event: &v1::SubscribeEventsResponse, cause: &v1::InputRecord) {
        let (frame, detail) = (event.frame_index, event.detail.as_str());
        match event.kind() {
            EventKind::Warning if self.warnings.iter().all(|(id, _)| *id != event.id) => {
                self.warnings.push((event.id, detail.to_owned()));
            }
            EventKind::DeviceFault => self.faults.add(1, || {
                let what = match (cause.kind(), cause.code) {
                    (v1::InputKind::Limit, _) => format!("trigger {} could not be written", event.id),
                    (v1::InputKind::Device, DEVICE_REFUSED) => {
                        format!("the device refused trigger {}: {}", event.id, refusal(cause.amount))
                    }
                    _ => "the device is gone or does not take what is written".to_owned(),
                };
                format!("at frame {frame}, {what}")
            }),
            EventKind::FrameRefused => self.refused_frames.add(1, || match detail {
                "" => format!("frame {}, whose number was not above the last", event.id),
                detail => format!("frame {}: {detail}", event.id),
            }),
            EventKind::FramesSkipped => {
                self.skips += 1;
                self.skipped.add(event.value as u64, || match detail {
                    "" => format!("from frame {} on", event.id),
                    detail => format!("from frame {} on, because {detail}", event.id),
                });
            }
            EventKind::Gap => {
                self.gap_since.get_or_insert((event.device_ns, event.value));
            }
            EventKind::GapEnded => {
                if let Some((since_ns, silent_s)) = self.gap_since.take() {
                    let length_s = event.device_ns.saturating_sub(since_ns) as f64 / 1e9;
                    self.gap_s += length_s.max(silent_s);
                    self.gaps.add(1, || format!("before frame {frame}"));
                }
            }
            EventKind::CommandRefused => self.refused_commands.add(1, || format!("{detail} (at frame {frame})")),
            _ => {}
        }
    }

    /// The sentences. `offsets` say where each plane's template lay at the end; `name` is what the report calls a ROI.
    pub fn sentences(&self, offsets: &BTreeMap<u32, Offset>, name: impl Fn(u32) -> String) -> Vec<String> {
        let mut said = Vec::from_iter(self.broken_off.clone());
        match self.unfinished {
            0 => {}
            1 => said.push("The service ended in 1 segment without closing its journal.".to_owned()),
            n => said.push(format!("The service ended in {n} segments without closing their journals.")),
        }
        let untrusted = offsets.values().find(|o| !o.trusted);
        for (id, text) in &self.warnings {
            // The sentence with the numbers says the same.
            if *id != WARNING_OFFSET || untrusted.is_none() {
                said.push(sentence(text));
            }
        }
        if let Some(o) = untrusted {
            said.push(format!(
                "The session's template does not surely lie on the ROIs' reference image (best match {:+.1} rows, \
                 {:+.1} columns, score {:.2}): the masks stayed where they were drawn.",
                o.dy_px, o.dx_px, o.score
            ));
        }
        for (roi, tally) in &self.invalid {
            said.push(format!(
                "{} was invalid, and out of the cursor, in {} of {} frames after the baseline, first at frame {}: its \
                 F0 lay under the floor or its F was no number.",
                name(*roi),
                tally.count,
                self.frames,
                tally.first
            ));
        }
        for (roi, (tally, lowest)) in &self.low_f0 {
            said.push(format!(
                "F0 of {} lay below {} % of its F in {} of {} frames after the baseline (lowest {:.1} counts, first at \
                 frame {}), so that its \u{394}F/F, and the cursor with it, is far too large there: raise \
                 activity.f0_floor, or take another cell.",
                name(*roi),
                100.0 * LOW_F0_SHARE,
                tally.count,
                self.frames,
                lowest,
                tally.first
            ));
        }
        let mut tell = |tally: &Tally, one: &str, many: &str| {
            match tally.count {
                0 => {}
                1 => said.push(format!("1 {one}: {}.", tally.first)),
                n => said.push(format!("{n} {many}; the first: {}.", tally.first)),
            };
        };
        tell(
            &self.lost,
            "record is lost: the disk was too slow or full",
            "records are lost: the disk was too slow or full",
        );
        tell(&self.faults, "fault of an output device", "faults of output devices");
        tell(&self.refused_frames, "frame was refused", "frames were refused");
        let stretches = match self.skips {
            1 => "frames were skipped or never came, in 1 stretch".to_owned(),
            n => format!("frames were skipped or never came, in {n} stretches"),
        };
        tell(&self.skipped, "frame was skipped or never came", &stretches);
        let (gap, gaps) = (
            format!("gap of {:.2} s without a frame", self.gap_s),
            format!("gaps without a frame, {:.2} s in all", self.gap_s),
        );
        tell(&self.gaps, &gap, &gaps);
        tell(&self.refused_commands, "command was refused", "commands were refused");
        said
    }
}

/// What a board's status says; see the trigger protocol.
pub(super) fn refusal(status: u64) -> String {
    match status {
        1 => "a pulse was open already".to_owned(),
        2 => "the width is 0 or above the board's longest".to_owned(),
        3 => "its id was used before".to_owned(),
        4 => "the board has no such line".to_owned(),
        5 => "the board heard no heartbeat".to_owned(),
        other => format!("status {other}"),
    }
}

/// A text as a sentence: a capital first, a full stop last.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    let stop = if text.ends_with('.') { "" } else { "." };
    format!("{first}{}{stop}", chars.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind, frame: u64, id: u64, value: f64, detail: &str) -> v1::SubscribeEventsResponse {
        v1::SubscribeEventsResponse {
            frame_index: frame,
            device_ns: frame * 100_000_000,
            kind: kind as i32,
            id,
            value,
            detail: detail.to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn trouble_is_told_with_its_number_and_its_first_example() {
        let mut notes = Notes::default();
        let none = v1::InputRecord::default();
        for e in [
            event(EventKind::Warning, 5, 3, 0.0, "no reference; look"),
            event(EventKind::Warning, 6, 3, 0.0, "no reference; look"),
            event(EventKind::FrameRefused, 6, 7, 0.0, "3 bytes, expected 4"),
            event(EventKind::FrameRefused, 6, 8, 0.0, "4 bytes, expected 5"),
            event(EventKind::FramesSkipped, 10, 8, 2.0, "they did not come"),
            event(EventKind::Gap, 20, 0, 0.2, ""),
            event(EventKind::GapEnded, 30, 0, 0.0, ""),
            event(EventKind::Gap, 40, 0, 0.2, ""),
            event(EventKind::CommandRefused, 40, 4, 0.0, "calibrate: no baseline"),
        ] {
            notes.event(&e, &none);
        }
        notes.frame(31, [2].into_iter());
        notes.frame(32, [].into_iter());
        let said = notes.sentences(&BTreeMap::new(), |roi| format!("P+ {roi}"));
        assert_eq!(
            said,
            [
                "No reference; look.",
                "P+ 2 was invalid, and out of the cursor, in 1 of 2 frames after the baseline, first at frame 31: its \
                 F0 lay under the floor or its F was no number.",
                "2 frames were refused; the first: frame 7: 3 bytes, expected 4.",
                "2 frames were skipped or never came, in 1 stretch; the first: from frame 8 on, because they did not \
                 come.",
                "1 gap of 1.00 s without a frame: before frame 30.",
                "1 command was refused: calibrate: no baseline (at frame 40).",
            ]
        );
    }

    #[test]
    fn a_cell_whose_f0_is_next_to_nothing_is_named() {
        let mut notes = Notes::default();
        for (index, f0) in [(7, 100.0), (8, 6.0), (9, 1.25), (10, 5.0)] {
            notes.frame(index, [].into_iter());
            notes.f0(index, 4, 300.0, f0);
        }
        let said = notes.sentences(&BTreeMap::new(), |roi| format!("P+ {roi}"));
        let expected = "F0 of P+ 4 lay below 2 % of its F in 2 of 4 frames after the baseline (lowest 1.2 counts, \
                        first at frame 9)";
        assert!(said.len() == 1 && said[0].starts_with(expected), "{said:?}");
    }

    #[test]
    fn silence_after_the_last_frame_is_no_trouble() {
        let mut notes = Notes::default();
        notes.event(&event(EventKind::Gap, 20, 0, 0.2, ""), &v1::InputRecord::default());
        assert!(notes.sentences(&BTreeMap::new(), |_| String::new()).is_empty());
    }

    #[test]
    fn a_place_that_is_not_sure_is_told_once_and_with_its_numbers() {
        let mut notes = Notes::default();
        notes.event(&event(EventKind::Warning, 1, WARNING_OFFSET, 0.0, "badly"), &v1::InputRecord::default());
        let offset = Offset { dy_px: 3.21, dx_px: -1.0, score: 0.312, trusted: false };
        let said = notes.sentences(&BTreeMap::from([(0, offset)]), |_| String::new());
        assert_eq!(said.len(), 1);
        assert!(said[0].contains("+3.2 rows, -1.0 columns, score 0.31"), "{said:?}");
    }
}
