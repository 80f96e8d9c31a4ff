//! Memory that is taken when a session opens.
//!
//! The system gives a page of memory when it is first touched, and not when it is taken. Touched at once, a session is
//! as large when it begins as it will be after hours, and no frame waits for a page.

/// Room for values whose number is not known beforehand.
#[derive(Debug, Default, Clone, Copy)]
pub struct Room {
    /// So many there usually are.
    pub usual: usize,
    /// More there never are.
    pub most: usize,
}

impl Room {
    /// Room for a number that is known.
    pub fn of(count: usize) -> Self {
        Self { usual: count, most: count }
    }

    /// Memory for the most, without any value; what is usually in use is touched.
    pub fn memory<T: Copy + Default>(self) -> Vec<T> {
        let mut memory = Vec::with_capacity(self.most);
        memory.resize(self.usual.min(self.most), T::default());
        memory.clear();
        memory
    }
}
