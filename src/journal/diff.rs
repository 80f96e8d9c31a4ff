//! Compares two sessions: the first frame in which they differ, in which stage, and by how much.
//!
//! In: two sessions' journals. Out: a [`Comparison`], the documented form of what `apical diff --json` prints. Frames
//! are aligned by their index, since two runs over the same frames take other inputs between them: devices answer at
//! other moments. Where a later segment counts its frames from the beginning again, they are aligned within it. What
//! happens between two frames (a reward by hand) belongs to the frame before. Comparison is by bits; NaN equals NaN.
//!
//! Both journals are read at the same time, a thread each, and a few frames of each are held. Nothing is recomputed.

mod frames;
mod heads;
mod stages;

use std::cmp::Ordering;
use std::path::PathBuf;
use std::sync::mpsc::sync_channel;

use serde::Serialize;

use self::frames::{Frame, read_side};
use self::stages::{FIELDS, FieldTally};
use super::inspect::{Counters, DamageFound, GAPS_LISTED};
use super::{JournalError, SessionFiles};
use crate::engine::Stage;

/// Frames that wait between a reading thread and the comparison.
const FRAMES_WAITING: usize = 64;

/// Two sessions, A and B.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Whether nothing counts as a difference: the same frames, the same in every stage, the same ROIs and outcomes, a
    /// configuration that differs at most in names and places, and no damage but the unfinished end of a crash.
    pub equal: bool,
    /// The one.
    pub a: Side,
    /// The other.
    pub b: Side,
    /// Frames that both have.
    pub frames_compared: u64,
    /// The first frame in which any stage differs, in the first stage that does.
    pub first: Option<FirstDifference>,
    /// Every stage, in the order of the way of a frame, also those that do not differ.
    pub stages: Vec<StageDifference>,
    /// Frames that B lacks.
    pub only_in_a: Lacking,
    /// Frames that A lacks.
    pub only_in_b: Lacking,
    /// Keys of the configuration that differ, of the first segments.
    pub configuration: Vec<KeyDifference>,
    /// What else differs in the heads of the first segments: `software.*` and `stream.*`.
    pub heads: Vec<KeyDifference>,
    /// What differs in the ROIs.
    pub rois: Vec<RoiDifference>,
    /// Counters that differ.
    pub outcomes: Vec<OutcomeDifference>,
}

/// One of the two.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Side {
    /// Its directory.
    pub directory: PathBuf,
    /// Its name.
    pub session_id: String,
    /// Its journals.
    pub segments: u32,
    /// Frames that were decided.
    pub frames: u64,
    /// What it came to.
    pub counters: Counters,
    /// Where its record is not whole.
    pub damage: Vec<DamageFound>,
}

/// The first difference of all.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FirstDifference {
    /// The stage.
    pub stage: &'static str,
    /// The field, as in the journal's `DecisionRecord` where it has it.
    pub field: &'static str,
    /// Where, and what either has.
    #[serde(flatten)]
    pub place: Place,
}

/// What differs in a stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageDifference {
    /// Its name.
    pub stage: &'static str,
    /// Frames in which any of its fields differs.
    pub frames: u64,
    /// The first of them; absent where there is none.
    pub first_frame: Option<u64>,
    /// The fields that differ.
    pub fields: Vec<FieldDifference>,
}

/// What differs in a field.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FieldDifference {
    /// Its name, with its unit.
    pub field: &'static str,
    /// Frames in which it differs.
    pub frames: u64,
    /// The first.
    pub first: Place,
    /// The largest absolute difference; absent where there are no two numbers.
    pub largest: Option<Place>,
    /// Frames in which only one of the two is a number.
    pub one_is_no_number: u64,
}

/// A frame, and what either session has in it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Place {
    /// Index of the frame.
    pub frame: u64,
    /// The ROI, for what is measured of each.
    pub roi: Option<u32>,
    /// What A has.
    pub a: Value,
    /// What B has.
    pub b: Value,
}

/// A value of a field.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// A number; NaN is null in JSON.
    Number(f64),
    /// The name of a state.
    Name(String),
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Number(number) => write!(f, "{number}"),
            Value::Name(name) => f.write_str(name),
        }
    }
}

/// Frames that one session has and the other lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Lacking {
    /// How many.
    pub frames: u64,
    /// In how many runs of frames that follow each other.
    pub runs: u64,
    /// The first of these runs.
    pub first: Vec<Run>,
}

/// Frames that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Run {
    /// Index of the first.
    pub first_frame: u64,
    /// How many.
    pub frames: u64,
}

/// A key that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyDifference {
    /// The dotted key.
    pub key: String,
    /// Its value in A; absent where A does not have it.
    pub a: Option<String>,
    /// Its value in B.
    pub b: Option<String>,
    /// Whether it makes the sessions different. Names, places and versions do not.
    pub counts: bool,
}

/// What differs in the ROIs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RoiDifference {
    /// The ROI; absent for the set as a whole.
    pub roi: Option<u32>,
    /// What differs.
    pub what: String,
}

/// A counter that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutcomeDifference {
    /// The counter, by its name in [`Counters`].
    pub counter: &'static str,
    /// In A.
    pub a: u64,
    /// In B.
    pub b: u64,
}

/// Compares the sessions A and B, each as far as it is whole.
///
/// # Errors
/// The head of one of them cannot be read.
pub fn diff(a: &SessionFiles, b: &SessionFiles) -> Result<Comparison, JournalError> {
    let (head_a, head_b) = (a.head()?, b.head()?);
    let mut merge = Merge::default();
    let (mut side_a, mut side_b) = std::thread::scope(|threads| {
        let (to_a, from_a) = sync_channel::<Frame>(FRAMES_WAITING);
        let (to_b, from_b) = sync_channel::<Frame>(FRAMES_WAITING);
        let reading_a = threads.spawn(|| read_side(a, to_a));
        let reading_b = threads.spawn(|| read_side(b, to_b));
        merge.all(from_a.iter(), from_b.iter());
        (joined(reading_a), joined(reading_b))
    });
    side_a.session_id.clone_from(&head_a.session_id);
    side_b.session_id.clone_from(&head_b.session_id);
    let counters = side_a.counters.named().into_iter().zip(side_b.counters.named());
    let differ = counters.filter(|((_, a), (_, b))| a != b);
    let mut found = Comparison {
        equal: false,
        frames_compared: merge.compared,
        first: merge.first.take(),
        stages: merge.stages(),
        only_in_a: merge.only_in_a.lacking,
        only_in_b: merge.only_in_b.lacking,
        configuration: heads::configuration(&head_a, &head_b),
        heads: heads::rest(&head_a, &head_b),
        rois: heads::rois(&head_a, &head_b),
        outcomes: differ.map(|((counter, a), (_, b))| OutcomeDifference { counter, a, b }).collect(),
        a: side_a,
        b: side_b,
    };
    found.equal = is_equal(&found);
    Ok(found)
}

fn is_equal(c: &Comparison) -> bool {
    c.first.is_none()
        && c.only_in_a.frames + c.only_in_b.frames == 0
        && !c.configuration.iter().chain(&c.heads).any(|key| key.counts)
        && c.rois.is_empty()
        && c.outcomes.is_empty()
        && c.a.damage.iter().chain(&c.b.damage).all(|damage| damage.unfinished)
}

fn joined(reading: std::thread::ScopedJoinHandle<'_, Side>) -> Side {
    match reading.join() {
        Ok(side) => side,
        // A bug goes on as what it is.
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Frames of both, side by side.
#[derive(Default)]
struct Merge {
    compared: u64,
    first: Option<FirstDifference>,
    only_in_a: Alone,
    only_in_b: Alone,
    /// For each stage: frames that differ, and the first.
    frames: [(u64, Option<u64>); Stage::ALL.len()],
    fields: Vec<FieldTally>,
}

impl Merge {
    fn all(&mut self, a: impl Iterator<Item = Frame>, b: impl Iterator<Item = Frame>) {
        self.fields = FIELDS.iter().map(|_| FieldTally::default()).collect();
        let (mut a, mut b) = (a.peekable(), b.peekable());
        loop {
            // Whichever stands earlier stands alone.
            let order = match (a.peek(), b.peek()) {
                (Some(x), Some(y)) => x.key().cmp(&y.key()),
                (Some(_), None) => Ordering::Less,
                (None, _) => Ordering::Greater,
            };
            let next_a = if order.is_le() { a.next() } else { None };
            let next_b = if order.is_ge() { b.next() } else { None };
            match (next_a, next_b) {
                (Some(x), Some(y)) => self.pair(&x, &y),
                (Some(x), None) => self.only_in_a.add(x.key()),
                (None, Some(y)) => self.only_in_b.add(y.key()),
                (None, None) => break,
            }
        }
    }

    fn pair(&mut self, a: &Frame, b: &Frame) {
        self.compared += 1;
        let mut differs = [false; Stage::ALL.len()];
        for (field, tally) in FIELDS.iter().zip(&mut self.fields) {
            let Some(place) = tally.compare(field, a, b) else { continue };
            differs[field.stage as usize] = true;
            self.first.get_or_insert(FirstDifference { stage: field.stage.name(), field: field.name, place });
        }
        for (tally, _) in self.frames.iter_mut().zip(differs).filter(|(_, differs)| *differs) {
            tally.0 += 1;
            tally.1.get_or_insert(a.index);
        }
    }

    fn stages(&mut self) -> Vec<StageDifference> {
        let mut found: Vec<StageDifference> = Stage::ALL
            .iter()
            .zip(self.frames)
            .map(|(stage, (frames, first_frame))| StageDifference {
                stage: stage.name(),
                frames,
                first_frame,
                fields: Vec::new(),
            })
            .collect();
        for (field, tally) in FIELDS.iter().zip(self.fields.drain(..)) {
            found[field.stage as usize].fields.extend(tally.finish(field.name));
        }
        found
    }
}

/// Collects frames that the other lacks.
#[derive(Default)]
struct Alone {
    lacking: Lacking,
    last: Option<(u32, u64)>,
}

impl Alone {
    fn add(&mut self, (count, index): (u32, u64)) {
        let before = self.last.replace((count, index));
        let follows = before.is_some_and(|(c, i)| c == count && i.checked_add(1) == Some(index));
        let found = &mut self.lacking;
        found.frames += 1;
        if !follows {
            found.runs += 1;
            if found.first.len() < GAPS_LISTED {
                found.first.push(Run { first_frame: index, frames: 0 });
            }
        }
        // The last run that is counted is the last that is listed, unless the list is full.
        if found.runs == found.first.len() as u64
            && let Some(run) = found.first.last_mut()
        {
            run.frames += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_frames_that_stand_alone() {
        let mut alone = Alone::default();
        // Frame 0 is the first of a run; counting from the beginning again ends one.
        for key in [(0, 0), (0, 1), (0, 4), (1, 5), (1, 6), (1, u64::MAX), (2, 0)] {
            alone.add(key);
        }
        let Lacking { frames, runs, first } = alone.lacking;
        assert_eq!((frames, runs), (7, 5));
        let first: Vec<_> = first.iter().map(|run| (run.first_frame, run.frames)).collect();
        assert_eq!(first, [(0, 2), (4, 1), (5, 2), (u64::MAX, 1), (0, 1)]);
    }
}
