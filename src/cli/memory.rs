//! How the C library's allocator keeps memory.
//!
//! A service allocates for every message, on several threads, for hours. By default glibc gives most threads a heap of
//! their own, and learns from large blocks that it should keep even larger ones in these heaps: memory then grows for
//! many minutes, into holes that nothing fits. So there are two heaps, large blocks (snapshots, frames of more than
//! 1 MiB) go back to the system when they are freed, and a heap is not cut and grown again for every frame.
//! Measured by `tests/soak.rs`; mallopt(3).
#![allow(unsafe_code)]

/// Blocks from this size on are mapped on their own, in bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_BYTES: i32 = 1 << 20;

/// A heap keeps so much for what comes next, in bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES: i32 = 32 << 20;

/// Heaps of all threads together.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const HEAPS: i32 = 2;

/// To be called before the first thread begins. Elsewhere than on glibc nothing happens; a refusal changes nothing.
pub(super) fn keep_it_flat() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, value) in
        [(libc::M_MMAP_THRESHOLD, MAPPED_BYTES), (libc::M_TRIM_THRESHOLD, KEPT_BYTES), (libc::M_ARENA_MAX, HEAPS)]
    {
        // SAFETY: it sets a number of the allocator; no pointer is passed, and no other thread runs yet.
        unsafe { libc::mallopt(parameter, value) };
    }
}
