//! The frame that is arriving: whoever receives it fills a slot, and the real-time thread looks at the lines meanwhile.
//!
//! A slot belongs to one of the two at a time. The real-time thread never waits for it: where the other one has it,
//! there will be more to see soon. The other one waits for a glance of the real-time thread, some microseconds.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_utils::atomic::AtomicCell;

use crate::frame::FrameSlot;

/// Where the slot lies while more of its lines are waited for. One thread fills it, one looks.
#[derive(Default)]
pub struct Arriving {
    /// A pointer, which is exchanged in one instruction.
    slot: AtomicCell<Option<Box<FrameSlot>>>,
    /// Whether a slot was left here: it is looked at where it does not lie here.
    is_left: AtomicBool,
    /// How often lines have come.
    lines: AtomicU64,
}

impl Arriving {
    /// Leaves a slot here; lines of a frame that are in it may be looked at.
    pub fn put(&self, slot: Box<FrameSlot>) {
        let has_lines = slot.arrival.rows_px > 0;
        self.slot.store(Some(slot));
        self.is_left.store(true, Ordering::Relaxed);
        if has_lines {
            self.lines.fetch_add(1, Ordering::Release);
        }
    }

    /// Takes it back, to fill it or to hand it over.
    pub fn take(&self) -> Option<Box<FrameSlot>> {
        if !self.is_left.swap(false, Ordering::Relaxed) {
            return None;
        }
        loop {
            if let Some(slot) = self.slot.take() {
                return Some(slot);
            }
            std::thread::yield_now();
        }
    }

    /// How often lines have come so far.
    pub(super) fn lines(&self) -> u64 {
        self.lines.load(Ordering::Acquire)
    }

    /// Shows the slot where it lies here; `None` where it does not, without waiting.
    pub(super) fn look<R>(&self, see: impl FnOnce(&FrameSlot) -> R) -> Option<R> {
        let glance = Glance { arriving: self, slot: self.slot.take() };
        glance.slot.as_deref().map(see)
    }
}

/// A slot that is looked at; it goes back whatever happens.
struct Glance<'a> {
    arriving: &'a Arriving,
    slot: Option<Box<FrameSlot>>,
}

impl Drop for Glance<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.arriving.slot.store(Some(slot));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Arrival, Geometry, PixelType};

    #[test]
    fn a_slot_is_seen_only_as_it_was_left() {
        assert!(AtomicCell::<Option<Box<FrameSlot>>>::is_lock_free());
        let (arriving, is_enough) = (Arriving::default(), AtomicBool::new(false));
        let mut slot = Box::new(FrameSlot::new(Geometry::new(4, 4), PixelType::U16));
        let last = std::thread::scope(|scope| {
            let filler = scope.spawn(|| {
                let mut number = 0;
                while !is_enough.load(Ordering::Relaxed) {
                    number += 1;
                    slot.arrival = Arrival { number, rows_px: 1 };
                    slot.samples_mut().fill(number as u16);
                    arriving.put(slot);
                    slot = arriving.take().expect("nobody else takes it");
                }
                arriving.put(slot);
                number
            });
            let mut last = 0;
            for _ in 0..2_000 {
                let seen = loop {
                    if let Some(seen) = arriving.look(|slot| (slot.arrival.number, slot.samples().to_vec())) {
                        break seen;
                    }
                };
                assert!(seen.0 >= last && seen.1.iter().all(|&sample| sample == seen.0 as u16), "{seen:?}, {last}");
                last = seen.0;
            }
            is_enough.store(true, Ordering::Relaxed);
            filler.join().expect("it fills")
        });
        assert_eq!(arriving.look(|slot| slot.arrival.number), Some(last));
        assert_eq!(arriving.lines(), 1 + last);
        assert!(arriving.take().is_some() && arriving.take().is_none());
    }
}
