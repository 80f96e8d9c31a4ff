//! The devices behind the `Trigger` door: one conformance suite for all three, and the serial one end to end over a
//! real pseudo-terminal against the simulated valve.
#![cfg(unix)]

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use apical::config::outputs::{RewardDevice, RewardOutputConfig};
use apical::trigger::{
    AckStatus, BoardConfig, BoardFault, BoardReply, Cause, Command, DeviceEvent, DeviceFault, FireError, Intent,
    NullTrigger, OpenError, Output, PROTOCOL_VERSION, PulseEnd, SAFE, SafeCause, SerialTrigger, SimulatedTrigger,
    Trigger, TriggerId, ValveLogLine, ValveOptions, ValveSimulator, serve_valve,
};

/// Long enough for a busy machine; only reached when something is wrong.
const PATIENCE: Duration = Duration::from_secs(10);

fn config(valve: &ValveSimulator) -> RewardOutputConfig {
    let port = valve.path().to_str().unwrap().to_owned();
    // A long heartbeat timeout: these tests say themselves when heartbeats stop.
    RewardOutputConfig { device: RewardDevice::Serial, port, heartbeat_timeout_ms: 10_000, ..Default::default() }
}

fn reward(sequence: u32, width_us: u32) -> Intent {
    let id = TriggerId { segment: 4, sequence };
    Intent { id, output: Output::Reward, width_us, cause: Cause::Hit }
}

/// A serial trigger with its reader running.
struct Rig {
    trigger: SerialTrigger,
    events: Receiver<DeviceEvent>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Rig {
    fn open(valve: &ValveSimulator) -> Self {
        let (trigger, reader) = SerialTrigger::open(&config(valve), 77).unwrap();
        let (sender, events) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let reader = std::thread::spawn(move || {
            reader.run(
                |event| {
                    let _ = sender.send(event);
                },
                &seen,
            )
        });
        Self { trigger, events, stop, reader: Some(reader) }
    }

    fn event(&self) -> DeviceEvent {
        self.events.recv_timeout(PATIENCE).expect("no event came")
    }

    fn reply(&self) -> BoardReply {
        match self.event() {
            DeviceEvent::Reply(reply) => reply,
            fault => panic!("expected a reply, got {fault:?}"),
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
    }
}

/// Each half can be given to a thread.
#[allow(dead_code)]
fn halves_can_move_to_threads() {
    fn can_move<T: Send>() {}
    can_move::<SerialTrigger>();
    can_move::<apical::trigger::SerialReader>();
    can_move::<Box<dyn Trigger + Send>>();
}

/// What every device must do. `next` waits for the next answer of a device that has a board.
fn conforms<T: Trigger>(trigger: &mut T, mut next: Option<impl FnMut(&mut T) -> BoardReply>) {
    assert!(!trigger.name().is_empty());
    trigger.heartbeat(41).unwrap();
    if let Some(next) = &mut next {
        assert!(matches!(next(trigger), BoardReply::Heartbeat { counter: 41, .. }));
    }
    trigger.sync(1).unwrap();
    trigger.fire(&reward(1, 20_000)).unwrap();
    let id = reward(1, 0).id;
    if let Some(next) = &mut next {
        let opened = next(trigger);
        let BoardReply::Ack { id: acknowledged, status: AckStatus::Accepted, clock_us: opened_us } = opened else {
            panic!("expected an accepting ACK, got {opened:?}");
        };
        let done = next(trigger);
        let BoardReply::Done { id: done_id, width_us: 20_000, end: PulseEnd::Timed, clock_us } = done else {
            panic!("expected DONE after 20 ms, got {done:?}");
        };
        assert_eq!((acknowledged, done_id, clock_us.wrapping_sub(opened_us)), (id, id, 20_000));
    }
    // A second time: the device sends it, the board refuses it.
    trigger.fire(&reward(1, 20_000)).unwrap();
    if let Some(next) = &mut next {
        assert!(matches!(next(trigger), BoardReply::Ack { status: AckStatus::Duplicate, .. }));
    }
    trigger.fire(&reward(2, 900_000)).unwrap();
    if let Some(next) = &mut next {
        assert!(matches!(next(trigger), BoardReply::Ack { status: AckStatus::Accepted, .. }));
    }
    trigger.safe().unwrap();
    if let Some(next) = &mut next {
        let done = next(trigger);
        assert!(matches!(done, BoardReply::Done { end: PulseEnd::Safe, .. }), "{done:?}");
        assert!(matches!(next(trigger), BoardReply::Safe { cause: SafeCause::Commanded, .. }));
    }
    for output in [Output::Light, Output::Sync] {
        assert_eq!(trigger.fire(&Intent { output, ..reward(3, 1_000) }), Err(FireError::NoLine { output }));
    }
    trigger.safe().unwrap();
}

#[test]
fn the_null_device_conforms() {
    conforms(&mut NullTrigger, None::<fn(&mut NullTrigger) -> BoardReply>);
    assert_eq!(NullTrigger.poll(), None);
}

#[test]
fn the_simulated_device_conforms() {
    let mut trigger = SimulatedTrigger::new(&RewardOutputConfig::default(), BoardConfig::default(), 77);
    conforms(
        &mut trigger,
        Some(|trigger: &mut SimulatedTrigger| {
            loop {
                if let Some(reply) = trigger.poll() {
                    return reply;
                }
                trigger.advance_to(trigger.now_us() + 1_000);
            }
        }),
    );
    assert_eq!(trigger.board().counters().syncs, 1);
}

#[test]
fn the_serial_device_conforms() {
    let valve = ValveSimulator::start().unwrap();
    let mut rig = Rig::open(&valve);
    let events = std::mem::replace(&mut rig.events, channel().1);
    conforms(
        &mut rig.trigger,
        Some(|trigger: &mut SerialTrigger| {
            assert_eq!(trigger.poll(), None);
            match events.recv_timeout(PATIENCE).expect("no event came") {
                DeviceEvent::Reply(reply) => reply,
                fault => panic!("{fault:?}"),
            }
        }),
    );
    assert!(valve.wait_for(PATIENCE, |now| now.board.safe_commands == 4));
    let statistics = valve.statistics();
    assert_eq!((statistics.board.syncs, statistics.board.duplicates, statistics.board.pulses), (1, 1, 2));
    assert_eq!(statistics.triggers_by_id[&(77, reward(1, 0).id)], 2);
    assert!(statistics.pulses_by_id.values().all(|&pulses| pulses == 1));
    assert!(!statistics.is_open && statistics.failure.is_none());
}

#[test]
fn a_silent_board_gives_its_pulse_and_no_answer() {
    let valve = ValveSimulator::start().unwrap();
    let mut rig = Rig::open(&valve);
    valve.set_fault(BoardFault::Silent);
    rig.trigger.fire(&reward(1, 1_000)).unwrap();
    assert!(valve.wait_for(PATIENCE, |now| now.board.pulses == 1));
    valve.set_fault(BoardFault::None);
    rig.trigger.heartbeat(5).unwrap();
    // The first thing heard is the answer to what came after the silence.
    assert!(matches!(rig.reply(), BoardReply::Heartbeat { counter: 5, .. }));
}

#[test]
#[allow(clippy::disallowed_methods, reason = "the board's delay is real time")]
fn a_slow_board_opens_at_once_and_answers_late() {
    let valve = ValveSimulator::start().unwrap();
    let mut rig = Rig::open(&valve);
    valve.set_fault(BoardFault::Slow { delay_us: 150_000 });
    let fired = Instant::now();
    rig.trigger.fire(&reward(1, 1_000)).unwrap();
    assert!(matches!(rig.reply(), BoardReply::Ack { status: AckStatus::Accepted, .. }));
    // A lower bound, which no busy machine can break.
    assert!(fired.elapsed() >= Duration::from_millis(150));
    assert!(matches!(rig.reply(), BoardReply::Done { width_us: 1_000, .. }));
}

#[test]
fn a_garbled_board_yields_faults_and_never_a_false_answer() {
    let valve = ValveSimulator::start().unwrap();
    let mut rig = Rig::open(&valve);
    valve.set_fault(BoardFault::Garbled { seed: 11 });
    for counter in 0..50 {
        rig.trigger.heartbeat(counter).unwrap();
    }
    rig.trigger.fire(&reward(1, 1_000)).unwrap();
    assert!(valve.wait_for(PATIENCE, |now| now.board.pulses == 1));
    valve.set_fault(BoardFault::None);
    rig.trigger.heartbeat(1_000).unwrap();
    let mut faults = 0;
    loop {
        match rig.event() {
            DeviceEvent::Fault(DeviceFault::Garbled { dropped_bytes, bad_messages }) => {
                assert!(dropped_bytes + bad_messages > 0);
                faults += 1;
            }
            DeviceEvent::Reply(BoardReply::Heartbeat { counter: 1_000, .. }) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(faults > 0);
}

#[test]
fn a_refusing_board_says_so() {
    let valve = ValveSimulator::start().unwrap();
    let mut rig = Rig::open(&valve);
    valve.set_fault(BoardFault::Refuse);
    rig.trigger.fire(&reward(1, 1_000)).unwrap();
    assert!(matches!(rig.reply(), BoardReply::Ack { status: AckStatus::RefusedBusy, .. }));
    assert_eq!(valve.statistics().board.opened, 0);
}

/// A port in the hands of a host that knows no rules: no SAFE on closing, no heartbeats.
fn raw_host(valve: &ValveSimulator, heartbeat_timeout_ms: u16) -> impl Write {
    let mut port = serialport::new(valve.path().to_str().unwrap(), 115_200).open_native().unwrap();
    let hello = Command::Hello { version: PROTOCOL_VERSION, heartbeat_timeout_ms, session: 5 };
    port.write_all(hello.encode().as_slice()).unwrap();
    port
}

fn trigger_bytes(sequence: u32, width_us: u32) -> Vec<u8> {
    let id = TriggerId { segment: 4, sequence };
    Command::Trigger { line: 0, id, width_us }.encode().as_slice().to_vec()
}

#[test]
fn safe_in_the_middle_of_a_message_closes_the_valve_and_the_message_never_fires() {
    let valve = ValveSimulator::start().unwrap();
    let mut port = raw_host(&valve, 10_000);
    port.write_all(&trigger_bytes(1, 900_000)).unwrap();
    assert!(valve.wait_for(PATIENCE, |now| now.is_open));
    let second = trigger_bytes(2, 900_000);
    port.write_all(&[&second[..10], &[SAFE], &second[10..]].concat()).unwrap();
    port.write_all(Command::Heartbeat { counter: 1 }.encode().as_slice()).unwrap();
    assert!(valve.wait_for(PATIENCE, |now| now.board.heartbeats == 1));
    let statistics = valve.statistics();
    assert_eq!((statistics.board.opened, statistics.board.safe_commands, statistics.is_open), (1, 1, false));
    assert_eq!(statistics.pulses[0].end, PulseEnd::Safe);
}

#[test]
fn the_board_closes_after_the_width_when_the_host_has_closed_the_port() {
    let valve = ValveSimulator::start().unwrap();
    let mut port = raw_host(&valve, 10_000);
    port.write_all(&trigger_bytes(1, 80_000)).unwrap();
    drop(port);
    assert!(valve.wait_for(PATIENCE, |now| now.board.pulses == 1));
    let pulse = valve.statistics().pulses[0];
    assert_eq!((pulse.width_us, pulse.end), (80_000, PulseEnd::Timed));
}

#[test]
fn the_board_closes_without_heartbeats_when_the_host_has_closed_the_port() {
    let valve = ValveSimulator::start().unwrap();
    let mut port = raw_host(&valve, 100);
    port.write_all(&trigger_bytes(1, 1_000_000)).unwrap();
    drop(port);
    assert!(valve.wait_for(PATIENCE, |now| now.board.pulses == 1));
    let statistics = valve.statistics();
    assert!(statistics.pulses[0].width_us <= 100_000, "{:?}", statistics.pulses);
    assert_eq!((statistics.pulses[0].end, statistics.board.heartbeat_losses), (PulseEnd::HeartbeatLost, 1));
}

#[test]
fn dropping_the_trigger_closes_the_valve_at_once() {
    let valve = ValveSimulator::start().unwrap();
    let mut rig = Rig::open(&valve);
    rig.trigger.fire(&reward(1, 1_000_000)).unwrap();
    assert!(matches!(rig.reply(), BoardReply::Ack { .. }));
    drop(rig);
    assert!(valve.wait_for(PATIENCE, |now| now.board.pulses == 1));
    assert_eq!(valve.statistics().pulses[0].end, PulseEnd::Safe);
}

#[test]
fn a_host_that_comes_back_to_the_same_session_cannot_fire_an_id_again() {
    let valve = ValveSimulator::start().unwrap();
    for expected in [AckStatus::Accepted, AckStatus::Duplicate] {
        let mut rig = Rig::open(&valve);
        rig.trigger.fire(&reward(1, 1_000)).unwrap();
        let reply = rig.reply();
        assert!(matches!(reply, BoardReply::Ack { status, .. } if status == expected), "{reply:?}");
    }
    let statistics = valve.statistics();
    assert_eq!(statistics.pulses_by_id.values().copied().collect::<Vec<_>>(), [1]);
}

fn open_error(config: &RewardOutputConfig) -> OpenError {
    match SerialTrigger::open_with_attempts(config, 1, 1) {
        Ok(_) => panic!("opened"),
        Err(error) => error,
    }
}

#[test]
fn a_second_open_says_that_another_program_has_the_port() {
    let valve = ValveSimulator::start().unwrap();
    let rig = Rig::open(&valve);
    let error = open_error(&config(&valve));
    let text = error.to_string();
    assert!(matches!(error, OpenError::Open { in_use: true, .. }), "{text}");
    assert!(text.contains(valve.path().to_str().unwrap()) && text.contains("another program"), "{text}");
    drop(rig);
    Rig::open(&valve);
}

#[test]
fn a_port_that_does_not_exist_is_named_with_those_that_do() {
    let missing = RewardOutputConfig { port: "/dev/ttyNOT_HERE".into(), ..Default::default() };
    let text = open_error(&missing).to_string();
    assert!(text.starts_with("/dev/ttyNOT_HERE: ") && text.contains("serial ports that exist here: "), "{text}");
    assert!(!text.contains("another program"), "{text}");
}

#[test]
fn boards_that_cannot_be_used_are_refused_on_opening() {
    let valve = ValveSimulator::start().unwrap();
    let wide = RewardOutputConfig { width_ms: 1_000.5, ..config(&valve) };
    assert!(matches!(open_error(&wide), OpenError::Width { width_us: 1_000_500, max_us: 1_000_000, .. }));
    valve.set_fault(BoardFault::Silent);
    let text = open_error(&config(&valve)).to_string();
    assert!(text.contains("no answer to HELLO at 115200 baud within 250 ms (0 bytes came)"), "{text}");
    let held = BoardConfig { capabilities: Default::default(), ..Default::default() };
    let valve = ValveSimulator::start_with(&ValveOptions { board: held, ..Default::default() }).unwrap();
    assert!(matches!(open_error(&config(&valve)), OpenError::NotTimed { .. }));
}

#[test]
fn a_board_that_disappears_is_an_error_on_both_halves_and_no_hang() {
    let valve = ValveSimulator::start().unwrap();
    let mut rig = Rig::open(&valve);
    drop(valve);
    assert_eq!(rig.event(), DeviceEvent::Fault(DeviceFault::PortLost));
    for result in [rig.trigger.fire(&reward(1, 1_000)), rig.trigger.heartbeat(1), rig.trigger.safe()] {
        assert!(matches!(result, Err(FireError::PortLost { .. })), "{result:?}");
    }
}

#[test]
fn a_port_that_takes_no_bytes_costs_a_bounded_wait_and_safe_still_gets_through() {
    // A terminal whose other end nobody reads.
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let port = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let config = RewardOutputConfig { port, device: RewardDevice::Serial, ..Default::default() };
    // The answer to HELLO is laid ready; opening would throw it away, so it is given by a thread that sees HELLO.
    let giver = std::thread::spawn(move || {
        rustix::io::read(&master, &mut [0; 64]).unwrap();
        let board = apical::trigger::BoardInfo {
            version: PROTOCOL_VERSION,
            capabilities: BoardConfig::default().capabilities,
            max_pulse_width_us: 1_000_000,
        };
        rustix::io::write(&master, BoardReply::Hello { board, clock_us: 1 }.encode().as_slice()).unwrap();
        master
    });
    let (mut trigger, _reader) = SerialTrigger::open_with_attempts(&config, 1, 8).unwrap();
    let master = giver.join().unwrap();
    let error = (0..100_000).find_map(|counter| trigger.heartbeat(counter).err()).expect("the port never filled");
    assert!(matches!(error, FireError::WriteTimeout { length: 9, timeout_ms: 2, .. }), "{error:?}");
    trigger.safe().unwrap();
    let (mut buffer, mut last) = ([0; 4_096], 0);
    while last != SAFE {
        let length = rustix::io::read(&master, &mut buffer).unwrap();
        last = buffer[length - 1];
    }
}

#[test]
fn the_command_links_logs_and_counts_across_hosts() {
    let folder = tempfile::tempdir().unwrap();
    let (link, log) = (folder.path().join("valve"), folder.path().join("valve.jsonl"));
    std::os::unix::fs::symlink("/nowhere", &link).unwrap();
    let options = ValveOptions { link: Some(link.clone()), log: Some(log.clone()), ..Default::default() };
    let stop = Arc::new(AtomicBool::new(false));
    let (sender, paths) = channel();
    let seen = Arc::clone(&stop);
    let server = std::thread::spawn(move || serve_valve(&options, &seen, |path| sender.send(path.to_owned()).unwrap()));
    let path = paths.recv_timeout(PATIENCE).unwrap();
    assert_eq!(std::fs::read_link(&link).unwrap(), path);
    for (session, width_us) in [(1, 1_000), (2, 2_000)] {
        let port = link.to_str().unwrap().to_owned();
        let config = RewardOutputConfig { device: RewardDevice::Serial, port, ..Default::default() };
        let (mut trigger, reader) = SerialTrigger::open(&config, session).unwrap();
        trigger.fire(&reward(1, width_us)).unwrap();
        let done = AtomicBool::new(false);
        reader.run(
            |event| {
                if matches!(event, DeviceEvent::Reply(BoardReply::Done { .. })) {
                    done.store(true, Ordering::Relaxed);
                }
            },
            &done,
        );
    }
    stop.store(true, Ordering::Release);
    let statistics = server.join().unwrap().unwrap();
    assert_eq!(statistics.board.open_us, 3_000);
    let text = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<ValveLogLine> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seen: Vec<_> = lines.iter().map(|line| (line.pulse.session, line.pulses_of_id, line.open_us)).collect();
    assert_eq!(seen, [(1, 1, 1_000), (2, 1, 3_000)]);
    assert!(!link.exists() && link.symlink_metadata().is_err());
}
