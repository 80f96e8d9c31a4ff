//! What a trial tells the outside: a short list of events for each frame, without allocation.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::time::Duration;

/// Something that happened, or has to happen, on a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskEvent {
    /// The first frame of a trial.
    TrialStart,
    /// The rotation reached the target.
    Hit,
    /// The rotation fell below its bottom.
    Aversive,
    /// The trial's last frame passed without an outcome.
    Miss,
    /// A reward falls due: an intent for the trigger.
    RewardDue,
    /// White noise has to begin.
    NoiseCue {
        /// How long it lasts.
        duration: Duration,
    },
}

/// The most events that one list holds. A frame makes at most four; a run of missing frames may make more.
pub const TASK_EVENTS_MAX: usize = 16;

/// Events in the order in which they happened. More than [`TASK_EVENTS_MAX`] are counted, not kept.
#[derive(Clone, Copy)]
pub struct TaskEvents {
    events: [TaskEvent; TASK_EVENTS_MAX],
    len: usize,
    lost: u32,
}

impl TaskEvents {
    /// No events.
    pub const fn new() -> Self {
        Self { events: [TaskEvent::TrialStart; TASK_EVENTS_MAX], len: 0, lost: 0 }
    }

    /// The events.
    pub fn as_slice(&self) -> &[TaskEvent] {
        &self.events[..self.len]
    }

    /// Events for which there was no room.
    pub fn lost(&self) -> u32 {
        self.lost
    }

    /// Adds one.
    pub(crate) fn push(&mut self, event: TaskEvent) {
        match self.events.get_mut(self.len) {
            Some(place) => {
                *place = event;
                self.len += 1;
            }
            None => self.lost = self.lost.saturating_add(1),
        }
    }
}

impl Default for TaskEvents {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for TaskEvents {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice() && self.lost == other.lost
    }
}

impl Eq for TaskEvents {}

impl std::fmt::Debug for TaskEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.as_slice()).finish()?;
        if self.lost > 0 { write!(f, " and {} more", self.lost) } else { Ok(()) }
    }
}

impl Serialize for TaskEvents {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.as_slice(), self.lost).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for TaskEvents {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (list, lost): (Vec<TaskEvent>, u32) = Deserialize::deserialize(deserializer)?;
        let mut events = TaskEvents { lost, ..TaskEvents::new() };
        for event in list {
            events.push(event);
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_beyond_the_room_are_counted() {
        let mut events = TaskEvents::new();
        for _ in 0..20 {
            events.push(TaskEvent::Miss);
        }
        assert_eq!((events.as_slice().len(), events.lost()), (TASK_EVENTS_MAX, 4));
        assert!(format!("{events:?}").ends_with("and 4 more"));
    }

    #[test]
    fn a_list_survives_its_serial_form() {
        let mut events = TaskEvents::new();
        events.push(TaskEvent::RewardDue);
        events.push(TaskEvent::NoiseCue { duration: Duration::from_millis(1500) });
        let bytes = postcard::to_stdvec(&events).unwrap();
        assert_eq!(postcard::from_bytes::<TaskEvents>(&bytes).unwrap(), events);
    }
}
