//! What the operating system says of itself. Linux says most of it in files; elsewhere it is not known.

use std::path::Path;

use super::{Check, Verdict};
use crate::config::RigConfig;
use crate::config::outputs::RewardDevice;

/// A frame that finds the processor's clock turned down takes this much longer, about.
const GOVERNOR_WINS_US: f64 = 100.0;
/// What a core of its own spares the slowest frames, about.
const ISOLATION_WINS_US: f64 = 200.0;
/// A page that must be fetched back, about.
const PAGING_WINS_US: f64 = 50.0;

fn read(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Whether the processors' clocks stay up.
pub(super) fn governor() -> Check {
    let (name, expected) = ("processor clock", "performance, on every processor");
    let processors = std::fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten();
    let mut found: Vec<String> =
        processors.filter_map(|cpu| read(cpu.path().join("cpufreq/scaling_governor"))).collect();
    found.sort_unstable();
    found.dedup();
    if found.is_empty() {
        return Check::unknown(name, "the system does not tell (a virtual machine's host decides)", expected);
    }
    let check = Check::pass(name, found.join(", "), expected);
    if found == ["performance"] {
        return check;
    }
    check.but(Verdict::Could, "cpupower frequency-set --governor performance", GOVERNOR_WINS_US)
}

/// Where the time comes from.
pub(super) fn clock_source() -> Check {
    let (name, expected) = ("clock source", "tsc, or a virtual machine's own (kvm-clock, hyperv)");
    let Some(found) = read("/sys/devices/system/clocksource/clocksource0/current_clocksource") else {
        return Check::unknown(name, "the system does not tell", expected);
    };
    let quick = ["tsc", "kvm-clock", "hyperv", "arch_sys_counter"].iter().any(|quick| found.starts_with(quick));
    let check = Check::pass(name, found, expected);
    if quick { check } else { check.but(Verdict::Could, "boot with clocksource=tsc tsc=reliable", 20.0) }
}

/// Whether the rig's thread has processors of its own.
pub(super) fn isolated(config: &RigConfig) -> Check {
    let (name, expected) = ("a processor of its own", "engine.cores names processors that the system leaves alone");
    let isolated = read("/sys/devices/system/cpu/isolated").unwrap_or_default();
    let apart = processors(&isolated);
    let wanted = &config.engine.cores;
    let shown = if isolated.is_empty() { "none is left alone".to_owned() } else { format!("{isolated} left alone") };
    let check = Check::pass(name, format!("{shown}; engine.cores = {wanted:?}"), expected);
    if !wanted.is_empty() && wanted.iter().all(|core| apart.contains(core)) {
        return check;
    }
    let advice = match std::thread::available_parallelism().map_or(1, usize::from) {
        0..=3 => "a computer with four processors or more, one of them the rig's",
        _ => "boot with isolcpus=N nohz_full=N rcu_nocbs=N for one processor N, and set engine.cores = [N]",
    };
    check.but(Verdict::Could, advice, ISOLATION_WINS_US)
}

/// `0-2,5` as numbers.
fn processors(text: &str) -> Vec<u32> {
    let span = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<u32>().ok()?..=last.trim().parse::<u32>().ok()?)
    };
    text.split(',').filter_map(span).flatten().collect()
}

/// Whether the memory may be kept from being paged out.
pub(super) fn memory_limit(config: &RigConfig) -> Check {
    let (name, expected) = ("memory that stays", "engine.lock_memory = true, and no limit on it");
    #[cfg(target_os = "linux")]
    {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
        let may = limit.map_or_else(|| "no limit".to_owned(), |bytes| format!("limit {} kB", bytes / 1_024));
        let check = Check::pass(name, format!("{may}; engine.lock_memory = {}", config.engine.lock_memory), expected);
        if config.engine.lock_memory && limit.is_none() {
            return check;
        }
        let advice = match limit {
            Some(_) => "memlock unlimited for the user in /etc/security/limits.d, and engine.lock_memory = true",
            None => "engine.lock_memory = true",
        };
        check.but(Verdict::Could, advice, PAGING_WINS_US)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = config;
        Check::unknown(name, "not known how on this system", expected)
    }
}

/// How long the adapter of the serial line keeps what the board says.
pub(super) fn serial(config: &RigConfig) -> Check {
    let (name, expected) = ("serial line", "the USB adapter's latency timer at 1 ms");
    let reward = &config.outputs.reward;
    if reward.device != RewardDevice::Serial {
        return Check::pass(name, "no serial device (outputs.reward.device)", expected);
    }
    let real = std::fs::canonicalize(&reward.port).unwrap_or_else(|_| reward.port.clone().into());
    if !real.exists() {
        let check = Check::pass(name, format!("{}: it is not there", reward.port), expected);
        return check.but(Verdict::Fail, "plug the board in, or name its port in outputs.reward.port", 0.0);
    }
    let tty = real.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let timer = read(format!("/sys/class/tty/{tty}/device/latency_timer"))
        .or_else(|| read(format!("/sys/bus/usb-serial/devices/{tty}/latency_timer")));
    match timer.as_deref().map(|ms| (ms, ms.parse::<f64>())) {
        None => Check::pass(name, format!("{}: no latency timer", reward.port), expected),
        Some((_, Ok(ms))) if ms <= 1.0 => Check::pass(name, format!("{ms} ms"), expected),
        Some((found, ms)) => {
            let check = Check::pass(name, format!("{found} ms"), expected);
            let advice = format!("echo 1 > /sys/bus/usb-serial/devices/{tty}/latency_timer, or a udev rule that does");
            check.but(Verdict::Could, advice, (ms.unwrap_or(16.0) - 1.0) * 1e3)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_read_as_the_kernel_writes_them() {
        assert_eq!(processors("0-2,5"), [0, 1, 2, 5]);
        assert!(processors("").is_empty());
    }

    #[test]
    fn a_serial_port_that_is_not_there_fails() {
        let mut config = RigConfig::default();
        config.outputs.reward.device = RewardDevice::Serial;
        config.outputs.reward.port = "/dev/no-such-port".to_owned();
        let check = serial(&config);
        assert!(check.verdict == Verdict::Fail && check.found.contains("/dev/no-such-port"), "{check:?}");
    }
}
