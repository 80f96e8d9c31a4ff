//! An allocator that counts what each thread takes and gives back, for tests of what must do neither.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// To be made a test's global allocator.
pub struct Counting;

thread_local! {
    // The counter is the thread's own: the test harness takes memory on threads of its own meanwhile.
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

/// Calls of this thread so far.
pub fn count() -> usize {
    COUNT.with(Cell::get)
}

// SAFETY: everything is handed on to the system's allocator; the counter is a constant-initialised cell without memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are passed on as they are.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // Giving memory back takes the allocator's lock just as well.
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are passed on as they are.
        unsafe { System.dealloc(pointer, layout) }
    }
}
