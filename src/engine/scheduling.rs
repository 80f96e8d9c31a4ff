//! What the operating system is asked to do for the real-time thread: `SCHED_FIFO`, processors, memory that stays.
//!
//! In: `[engine]`. Out: for each thing that was asked for, whether it was granted, and if not, why and what would
//! grant it. A refusal ends nothing: the thread runs as it may, and whoever reads the session knows.

use crate::config::EngineConfig;

/// Something that was asked for, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadSetting {
    /// The key of the configuration, and its value.
    pub asked: String,
    /// Why it was not granted; `None`: it was.
    pub refused: Option<String>,
}

impl std::fmt::Display for ThreadSetting {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.refused {
            None => write!(out, "{}: granted", self.asked),
            Some(why) => write!(out, "{}: refused: {why}", self.asked),
        }
    }
}

/// Asks for everything that the configuration wants, for the calling thread. Allocates: before its first input.
pub fn schedule_this_thread(config: &EngineConfig) -> Vec<ThreadSetting> {
    let setting = |asked: String, outcome: Result<(), String>| ThreadSetting { asked, refused: outcome.err() };
    let mut settings = Vec::new();
    if !config.cores.is_empty() {
        settings.push(setting(format!("engine.cores = {:?}", config.cores), run_on(&config.cores)));
    }
    if config.lock_memory {
        settings.push(setting("engine.lock_memory = true".to_owned(), lock_memory()));
    }
    if config.realtime_priority > 0 {
        let asked = format!("engine.realtime_priority = {}", config.realtime_priority);
        settings.push(setting(asked, run_first(config.realtime_priority)));
    }
    settings
}

/// Makes the calling thread one that no ordinary thread keeps waiting.
///
/// # Errors
/// Why it was refused, and what would grant it.
pub fn run_first(priority: u32) -> Result<(), String> {
    use thread_priority::{ThreadPriority, ThreadPriorityValue};
    let value = u8::try_from(priority).ok().and_then(|value| ThreadPriorityValue::try_from(value).ok());
    let value = ThreadPriority::Crossplatform(value.ok_or_else(|| format!("{priority}, expected 1 to 98"))?);
    #[cfg(unix)]
    let outcome = {
        use thread_priority::{RealtimeThreadSchedulePolicy, ThreadSchedulePolicy};
        let fifo = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
        thread_priority::set_thread_priority_and_policy(thread_priority::thread_native_id(), value, fifo)
    };
    #[cfg(not(unix))]
    let outcome = thread_priority::set_current_thread_priority(value);
    outcome.map_err(|error| match error {
        thread_priority::Error::OS(code) => {
            let error = std::io::Error::from_raw_os_error(code);
            format!(
                "{error}; grant it with `rtprio {priority}` for the user in /etc/security/limits.d, or LimitRTPRIO= in \
                 the service's unit"
            )
        }
        other => other.to_string(),
    })
}

#[cfg(target_os = "linux")]
fn run_on(cores: &[u32]) -> Result<(), String> {
    let mut set = rustix::thread::CpuSet::new();
    for &core in cores {
        set.set(core as usize);
    }
    rustix::thread::sched_setaffinity(None, &set)
        .map_err(|errno| format!("{}; this machine has processors {}", std::io::Error::from(errno), processors()))
}

#[cfg(target_os = "linux")]
fn processors() -> String {
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online");
    online.map_or_else(|_| "that it does not tell".to_owned(), |text| text.trim().to_owned())
}

#[cfg(target_os = "linux")]
fn lock_memory() -> Result<(), String> {
    // What is there now: all that the thread uses. What comes later must not fail where the limit is small.
    rustix::mm::mlockall(rustix::mm::MlockAllFlags::CURRENT).map_err(|errno| {
        let error = std::io::Error::from(errno);
        format!(
            "{error}; grant it with `memlock unlimited` for the user in /etc/security/limits.d, or \
             LimitMEMLOCK=infinity in the service's unit"
        )
    })
}

#[cfg(not(target_os = "linux"))]
fn run_on(_cores: &[u32]) -> Result<(), String> {
    Err("not known how on this system".to_owned())
}

#[cfg(not(target_os = "linux"))]
fn lock_memory() -> Result<(), String> {
    Err("not known how on this system".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(config: EngineConfig) -> Vec<ThreadSetting> {
        std::thread::spawn(move || schedule_this_thread(&config)).join().expect("no panic")
    }

    #[test]
    fn nothing_is_asked_for_unless_told() {
        assert_eq!(of(EngineConfig::default()), Vec::new());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_processor_that_is_not_there_is_refused_and_says_which_are() {
        let settings = of(EngineConfig { cores: vec![1_000], ..EngineConfig::default() });
        let said = settings[0].to_string();
        assert!(said.starts_with("engine.cores = [1000]: refused: ") && said.contains("has processors 0"), "{said}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_thread_runs_where_it_was_told_to() {
        let there = std::thread::spawn(|| {
            let settings = schedule_this_thread(&EngineConfig { cores: vec![0], ..EngineConfig::default() });
            (settings, rustix::thread::sched_getcpu())
        });
        let (settings, core) = there.join().expect("no panic");
        assert_eq!((settings[0].refused.clone(), core), (None, 0));
    }

    #[test]
    fn a_priority_is_granted_or_the_refusal_says_how_to_get_it() {
        let settings = of(EngineConfig { realtime_priority: 10, ..EngineConfig::default() });
        let refused = settings[0].refused.clone();
        assert!(refused.as_ref().is_none_or(|why| why.contains("rtprio")), "{refused:?}");
    }
}
