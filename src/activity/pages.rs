//! Rings of many traces in one memory.
//!
//! Each ring may become as full as it is long, and hardly any ever does. So a ring has a page only where something
//! lies in it, and the page that was given back last is taken first: all together take the memory that they fill at
//! once, not the memory that each may fill. When they are made, what they usually fill is touched, and what they may
//! fill is reserved, which costs nothing before it is used; nothing is allocated afterwards.

use crate::frame::Room;

/// Values in a page.
const PAGE: usize = 32;
/// Of so many places one usually has a page: a noisy trace of 3,000 frames has 450 to 550 pools.
const USUALLY_ONE_OF: usize = 5;
/// No page.
const NONE: u32 = u32::MAX;

/// Places on so many pages.
fn room(pages: usize) -> Room {
    Room { usual: pages * PAGE / USUALLY_ONE_OF, most: pages * PAGE }
}

/// Rings of the same length.
#[derive(Debug)]
pub(super) struct Rings<T> {
    length: usize,
    /// For each ring the pages of its places, in their order.
    table: Vec<u32>,
    /// The pages.
    memory: Vec<T>,
    /// Those that nobody has.
    free: Vec<u32>,
}

impl<T: Copy + Default> Rings<T> {
    /// Empty rings of `length` places.
    pub fn new(rings: usize, length: usize) -> Self {
        let pages = rings * length.div_ceil(PAGE);
        let (table, memory) = (vec![NONE; pages], room(pages).memory());
        Self { length, table, memory, free: Vec::with_capacity(pages) }
    }

    /// Places of a ring.
    pub fn length(&self) -> usize {
        self.length
    }

    /// How many places of all rings something may lie in.
    pub fn room(&self) -> Room {
        room(self.table.len())
    }

    fn page(&self, ring: usize, place: usize) -> usize {
        ring * self.length.div_ceil(PAGE) + place / PAGE
    }

    fn index(&self, ring: usize, place: usize) -> usize {
        self.table[self.page(ring, place)] as usize * PAGE + place % PAGE
    }

    /// What lies at a place, which was set before.
    pub fn get(&self, ring: usize, place: usize) -> &T {
        &self.memory[self.index(ring, place)]
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, ring: usize, place: usize) -> &mut T {
        let index = self.index(ring, place);
        &mut self.memory[index]
    }

    /// Lays something down.
    pub fn set(&mut self, ring: usize, place: usize, value: T) {
        let page = self.page(ring, place);
        if self.table[page] == NONE {
            self.table[page] = self.free.pop().unwrap_or_else(|| {
                let next = self.memory.len() / PAGE;
                self.memory.resize((next + 1) * PAGE, T::default());
                next as u32
            });
        }
        *self.get_mut(ring, place) = value;
    }

    /// Gives up what lies at a place of a ring whose stretch in use now goes from `bottom` to `top`: the page, where
    /// nothing of the stretch lies on it.
    pub fn leave(&mut self, ring: usize, place: usize, [bottom, top]: [usize; 2]) {
        if place / PAGE != bottom / PAGE && place / PAGE != top / PAGE {
            let page = self.page(ring, place);
            self.give_back(page);
        }
    }

    /// Empties a ring.
    pub fn clear(&mut self, ring: usize) {
        let pages = self.length.div_ceil(PAGE);
        (ring * pages..(ring + 1) * pages).for_each(|page| self.give_back(page));
    }

    fn give_back(&mut self, page: usize) {
        let page = std::mem::replace(&mut self.table[page], NONE);
        if page != NONE {
            self.free.push(page);
        }
    }
}

impl<T: Copy> Clone for Rings<T> {
    /// With as much room as these have.
    fn clone(&self) -> Self {
        let mut memory = Vec::with_capacity(self.memory.capacity());
        memory.extend_from_slice(&self.memory);
        let mut free = Vec::with_capacity(self.free.capacity());
        free.extend_from_slice(&self.free);
        Self { length: self.length, table: self.table.clone(), memory, free }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against queues: what is laid down is found until it is given up, and pages are there for what lies in them.
        #[test]
        fn a_ring_holds_what_was_laid_down(
            length in 2_usize..200,
            steps in prop::collection::vec((0_usize..3, 0_usize..4, 1_usize..60), 1..200),
        ) {
            let mut rings = Rings::new(3, length);
            let capacity = rings.memory.capacity();
            // Of each ring where its stretch begins, and what lies in it.
            let mut held: [(usize, VecDeque<u64>); 3] = std::array::from_fn(|_| (length - 1, VecDeque::new()));
            let mut next = 0;
            for (ring, what, count) in steps {
                let (bottom, queue) = &mut held[ring];
                for _ in 0..count {
                    match what {
                        0 | 1 if queue.len() < length => {
                            rings.set(ring, (*bottom + queue.len()) % length, next);
                            queue.push_back(next);
                            next += 1;
                        }
                        2 if queue.len() > 1 => {
                            queue.pop_back();
                            let gone = (*bottom + queue.len()) % length;
                            let top = (*bottom + queue.len() - 1) % length;
                            rings.leave(ring, gone, [*bottom, top]);
                        }
                        3 if queue.len() > 1 => {
                            queue.pop_front();
                            let gone = std::mem::replace(bottom, (*bottom + 1) % length);
                            let top = (*bottom + queue.len() - 1) % length;
                            rings.leave(ring, gone, [*bottom, top]);
                        }
                        _ => {}
                    }
                }
                for (ring, (bottom, queue)) in held.iter().enumerate() {
                    for (index, value) in queue.iter().enumerate() {
                        prop_assert_eq!(rings.get(ring, (bottom + index) % length), value);
                    }
                }
            }
            for (ring, (bottom, queue)) in held.iter().enumerate() {
                let pages = length.div_ceil(PAGE);
                for page in 0..pages {
                    let is_used = (0..queue.len()).any(|index| (bottom + index) % length / PAGE == page);
                    prop_assert_eq!(rings.table[ring * pages + page] != NONE, is_used);
                }
            }
            prop_assert_eq!(rings.memory.capacity(), capacity);
            (0..3).for_each(|ring| rings.clear(ring));
            prop_assert_eq!(rings.free.len() * PAGE, rings.memory.len());
        }
    }
}
