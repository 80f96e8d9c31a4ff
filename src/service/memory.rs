//! What the process does with its memory, so that it stays as large as it was when the session began.
//!
//! A service allocates for every message, on several threads, for hours. Left to itself glibc gives most threads a heap
//! of their own and keeps ever larger blocks in these heaps; memory then grows for many minutes, by what each busy
//! moment took more than those before. So all threads share one heap ([`share_one_heap`]). What busy moments need
//! (frames that wait in HTTP/2's buffers, records that wait for the disk) is taken and touched once, when a session
//! opens ([`reserve`]), and stays in the heap: no moment takes more from the system, and none waits for a page. It goes
//! back when the session is over ([`give_back`]). The real-time thread takes no memory at all.
//!
//! Large blocks (snapshots, frames of more than a megabyte) are the system's own business: they come from it when they
//! are taken and go back when they are freed. Those that a session keeps are touched when they are taken
//! ([`crate::frame::Room`]). Measured by `tests/soak.rs`; mallopt(3), malloc_trim(3).
#![allow(unsafe_code)]

/// Blocks from this size on are mapped on their own, in bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_BYTES: i32 = 1 << 20;

/// What busy moments of a session may need on top of what it has when it opens, in bytes.
const RESERVE_BYTES: usize = 16 << 20;

/// The reserve is taken in blocks of so many bytes: well below what is mapped on its own.
const BLOCK_BYTES: usize = 64 << 10;

/// One heap for all threads, which keeps what it has. To be called before the first thread begins. Elsewhere than on
/// glibc nothing happens; a refusal changes nothing.
pub fn share_one_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, value) in
        [(libc::M_MMAP_THRESHOLD, MAPPED_BYTES), (libc::M_TRIM_THRESHOLD, i32::MAX), (libc::M_ARENA_MAX, 1)]
    {
        // SAFETY: it sets a number of the allocator; no pointer is passed, and no other thread runs yet.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Takes the reserve, touches it, and leaves it to the heap.
pub(super) fn reserve() {
    let blocks: Vec<Vec<u8>> = (0..RESERVE_BYTES / BLOCK_BYTES).map(|_| vec![1; BLOCK_BYTES]).collect();
    drop(std::hint::black_box(blocks));
}

/// What is free goes back to the system.
pub(super) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: no pointer is passed, and blocks that are in use stay where they are.
    unsafe {
        libc::malloc_trim(0)
    };
}
