//! The one place of this folder with `unsafe`: a second, owned descriptor of a serial port that is open.
//!
//! Why it is needed: `serialport` waits for room and then writes in blocking mode, and a terminal blocks a write for
//! which there is room in part only. A hung port would so hold up the real-time thread. With a descriptor of our own
//! the port is made non-blocking and written to without allocation. `TTYPort` lends its descriptor as a number only
//! (`AsRawFd`), and turning a number into a borrowed descriptor is unsafe.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// A duplicate of the port's descriptor: the same open file, closed apart from it.
pub(super) fn duplicate(port: &serialport::TTYPort) -> io::Result<OwnedFd> {
    // SAFETY: `port` owns the descriptor and keeps it open for as long as it is borrowed here; the borrowed form does
    // not outlive this function. `TTYPort` never holds -1.
    let borrowed = unsafe { BorrowedFd::borrow_raw(port.as_raw_fd()) };
    borrowed.try_clone_to_owned()
}
