//! A first-in first-out queue of fixed size for values that are copied. When it is full the newcomer is refused, and
//! the caller counts it.

#[derive(Debug, Clone)]
pub(super) struct Queue<T: Copy, const N: usize> {
    places: [Option<T>; N],
    head: usize,
    length: usize,
}

impl<T: Copy, const N: usize> Queue<T, N> {
    pub(super) fn new() -> Self {
        Self { places: [None; N], head: 0, length: 0 }
    }

    /// Whether there was room.
    pub(super) fn push(&mut self, value: T) -> bool {
        if self.length == N {
            return false;
        }
        self.places[(self.head + self.length) % N] = Some(value);
        self.length += 1;
        true
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let value = self.places[self.head].take()?;
        self.head = (self.head + 1) % N;
        self.length -= 1;
        Some(value)
    }

    pub(super) fn front(&self) -> Option<&T> {
        self.places[self.head].as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_refuses_the_newcomer_and_keeps_its_order() {
        let mut queue = Queue::<u8, 3>::new();
        assert!(queue.push(1) && queue.push(2) && queue.push(3) && !queue.push(4));
        assert_eq!((queue.pop(), queue.front().copied()), (Some(1), Some(2)));
        assert!(queue.push(5));
        let rest = [queue.pop(), queue.pop(), queue.pop(), queue.pop()];
        assert_eq!(rest, [Some(2), Some(3), Some(5), None]);
    }
}
