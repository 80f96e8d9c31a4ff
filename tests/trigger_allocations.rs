//! Nothing in the triggers allocates after construction, also when the port fails.
#![cfg(unix)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use apical::config::limits::LimitsConfig;
use apical::config::outputs::{RewardDevice, RewardOutputConfig};
use apical::trigger::{
    AckWatch, BoardConfig, BoardFault, Cause, Intent, Limits, NullTrigger, Output, ReplyParser, SerialTrigger,
    SimulatedTrigger, Trigger, TriggerId, ValveSimulator,
};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: hands everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

fn drive(trigger: &mut impl Trigger, limits: &mut Limits, frames: std::ops::Range<u32>) {
    let mut watch = AckWatch::new(200);
    for frame in frames {
        let host_ns = u64::from(frame) * 33_333_333;
        let id = TriggerId { segment: 1, sequence: frame };
        let intent = Intent { id, output: Output::Reward, width_us: 500, cause: Cause::Hit };
        let _ = limits.check(&intent, host_ns);
        watch.sent(id, host_ns);
        let _ = (trigger.fire(&intent), trigger.sync(frame), trigger.heartbeat(frame));
        if frame % 100 == 0 {
            let _ = trigger.safe();
        }
        while trigger.poll().is_some() {}
        while watch.expired(host_ns).is_some() {}
        watch.answered(id);
    }
}

#[test]
fn devices_limits_and_parser_allocate_nothing() {
    let mut limits = Limits::new(&LimitsConfig::for_simulation());
    assert!(allocations(|| drop(std::hint::black_box(Box::new(1)))) > 0, "the counter does not count");
    assert_eq!(allocations(|| drive(&mut NullTrigger, &mut limits, 0..10_000)), 0);
    let mut simulated = SimulatedTrigger::new(&RewardOutputConfig::default(), BoardConfig::default(), 1);
    assert_eq!(
        allocations(|| {
            drive(&mut simulated, &mut limits, 0..5_000);
            simulated.set_fault(BoardFault::Garbled { seed: 1 });
            simulated.advance_to(400_000_000);
            drive(&mut simulated, &mut limits, 5_000..10_000);
        }),
        0
    );
    let mut parser = ReplyParser::new();
    assert_eq!(
        allocations(|| (0..100_000_u32).for_each(|value| {
            let _ = parser.push(((value * 37) >> 3) as u8);
        })),
        0
    );

    let valve = ValveSimulator::start().unwrap();
    let port = valve.path().to_str().unwrap().to_owned();
    let config = RewardOutputConfig { device: RewardDevice::Serial, port, ..Default::default() };
    let (mut serial, _reader) = SerialTrigger::open(&config, 1).unwrap();
    assert_eq!(allocations(|| drive(&mut serial, &mut limits, 0..1_000)), 0);
    drop(valve);
    assert_eq!(allocations(|| drive(&mut serial, &mut limits, 1_000..1_100)), 0, "after the port was lost");
}
