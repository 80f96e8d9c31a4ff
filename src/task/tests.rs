//! Tests of the trial machine, each named by its sentence.

use super::*;
use proptest::prelude::*;

const NOISE: TaskEvent = TaskEvent::NoiseCue { duration: Duration::from_secs(2) };

/// A machine of a short table: start 3, trial 10, holds 5, intervals 2 and 6, noise at the 4th frame.
fn short() -> TaskConfig {
    TaskConfig {
        trial_frames: 10,
        start_frames: 3,
        hit_hold_frames: 5,
        aversive_hold_frames: 5,
        iti_frames: 2,
        miss_iti_frames: 6,
        miss_noise_frame: 4,
        ..Default::default()
    }
}

fn begun(config: &TaskConfig) -> Task {
    let mut task = Task::new(config);
    task.begin_trials();
    task
}

fn at(rotation_deg: f64) -> TaskInput {
    TaskInput { valid: true, rotation_deg, step: 3 }
}

fn doubted(rotation_deg: f64) -> TaskInput {
    TaskInput { valid: false, ..at(rotation_deg) }
}

/// Steps through `frames` frames at a rotation, and returns the last output.
fn run(task: &mut Task, frames: usize, input: TaskInput) -> TaskOutput {
    let mut last = task.missed(0);
    for _ in 0..frames {
        last = task.step(input);
    }
    last
}

/// A transcript: one line for each run of frames that differ in nothing but their number.
fn transcript(task: &mut Task, inputs: impl IntoIterator<Item = TaskInput>) -> Vec<String> {
    let mut lines: Vec<(String, usize)> = Vec::new();
    for input in inputs {
        let out = task.step(input);
        let shown = out.shown_deg.map_or("-".to_owned(), |deg| deg.to_string());
        let line = format!("{:?} {} {:?} {shown} {:?}", out.state, out.trial_number, out.screen, out.events);
        match lines.last_mut() {
            Some((last, count)) if *last == line => *count += 1,
            _ => lines.push((line, 1)),
        }
    }
    lines.into_iter().map(|(line, count)| format!("{count} x {line}")).collect()
}

#[test]
fn the_default_table_is_that_of_the_experiment() {
    let mut task = begun(&TaskConfig::default());
    // A hit on the first frame of control, then an aversive end on its first frame, then a miss.
    let inputs = [(16, 90.0), (60 + 15, 45.0), (16, -1.0), (60 + 15, 45.0), (750 + 90 + 1, 45.0)];
    let inputs = inputs.into_iter().flat_map(|(frames, deg)| std::iter::repeat_n(at(deg), frames));
    let expected = [
        "1 x Start 1 Grey - [TrialStart]",
        "14 x Start 1 Grey - []",
        "1 x Control 1 Grating 45 [Hit]",
        "2 x Hit 1 Grating 90 []",
        "1 x Hit 1 Grating 90 [RewardDue]",
        "57 x Hit 1 Grating 90 []",
        "15 x Iti 1 Grey - []",
        "1 x Start 2 Grey - [TrialStart]",
        "14 x Start 2 Grey - []",
        "1 x Control 2 Grating 45 [Aversive, NoiseCue { duration: 2s }]",
        "60 x Aversive 2 Grating 0 []",
        "15 x Iti 2 Grey - []",
        "1 x Start 3 Grey - [TrialStart]",
        "14 x Start 3 Grey - []",
        "734 x Control 3 Grating 45 []",
        "1 x Control 3 Grating 45 [Miss]",
        "29 x Iti 3 Black - []",
        "1 x Iti 3 Black - [NoiseCue { duration: 2s }]",
        "60 x Iti 3 Black - []",
        "1 x Start 4 Grey - [TrialStart]",
    ];
    assert_eq!(transcript(&mut task, inputs), expected);
    assert_eq!(task.counts(), TaskCounts { hits: 1, aversives: 1, misses: 1 });
}

#[test]
fn a_hit_needs_rotation_of_90() {
    let mut task = begun(&short());
    run(&mut task, 3, at(0.0));
    assert_eq!(task.step(at(89.0)).events.as_slice(), []);
    let out = task.step(at(90.0));
    assert_eq!((out.state, out.events.as_slice()), (TaskState::Control, &[TaskEvent::Hit][..]));
    let next = task.step(at(0.0));
    assert_eq!((next.state, next.phase_frame, next.shown_deg), (TaskState::Hit, 1, Some(90.0)));
}

#[test]
fn an_aversive_end_needs_rotation_below_0() {
    let mut task = begun(&short());
    run(&mut task, 3, at(0.0));
    assert_eq!(task.step(at(0.0)).events.as_slice(), []);
    assert_eq!(task.step(at(-0.0)).events.as_slice(), []);
    let out = task.step(at(-1.0));
    assert_eq!(out.state, TaskState::Control);
    assert_eq!(out.events.as_slice(), [TaskEvent::Aversive, NOISE], "the noise begins at once");
    let next = task.step(at(50.0));
    assert_eq!((next.state, next.shown_deg), (TaskState::Aversive, Some(0.0)));
}

#[test]
fn without_aversive_ends_a_rotation_below_0_ends_nothing() {
    let mut task = begun(&TaskConfig { aversive: false, ..short() });
    assert_eq!(run(&mut task, 10, at(-50.0)).events.as_slice(), [TaskEvent::Miss]);
}

#[test]
fn the_frame_that_decides_shows_its_step() {
    let mut task = begun(&short());
    run(&mut task, 3, at(0.0));
    let out = task.step(TaskInput { valid: true, rotation_deg: 95.0, step: 5 });
    assert_eq!((out.state, out.screen, out.shown_deg), (TaskState::Control, Screen::Grating, Some(75.0)));
}

#[test]
fn during_the_start_no_rotation_decides() {
    for deg in [90.0, -1.0] {
        let mut task = begun(&short());
        let out = run(&mut task, 3, at(deg));
        assert_eq!((out.state, out.phase_frame, out.screen), (TaskState::Start, 3, Screen::Grey));
        assert_eq!(task.counts(), TaskCounts::default());
    }
}

#[test]
fn a_miss_is_the_trials_last_frame() {
    let mut task = begun(&short());
    assert_eq!(run(&mut task, 9, at(10.0)).events.as_slice(), []);
    let out = task.step(at(10.0));
    assert_eq!((out.state, out.phase_frame, out.events.as_slice()), (TaskState::Control, 7, &[TaskEvent::Miss][..]));
    let out = task.step(at(10.0));
    assert_eq!((out.state, out.phase_frame, out.screen), (TaskState::Iti, 1, Screen::Black));
}

#[test]
fn on_the_last_frame_a_hit_comes_before_a_miss() {
    let mut task = begun(&short());
    run(&mut task, 9, at(10.0));
    assert_eq!(task.step(at(90.0)).events.as_slice(), [TaskEvent::Hit]);
}

#[test]
fn the_reward_falls_on_the_third_frame_of_the_hold() {
    let mut task = begun(&short());
    run(&mut task, 4, at(90.0));
    for frame in 1..=5 {
        let out = task.step(at(0.0));
        let expected: &[TaskEvent] = if frame == 3 { &[TaskEvent::RewardDue] } else { &[] };
        assert_eq!((out.state, out.phase_frame, out.events.as_slice()), (TaskState::Hit, frame, expected));
    }
    assert_eq!(task.step(at(0.0)).state, TaskState::Iti);
}

#[test]
fn the_noise_of_a_miss_falls_on_its_frame_of_the_interval() {
    let mut task = begun(&short());
    run(&mut task, 10, at(10.0));
    let frames: Vec<usize> = (1..=6).filter(|_| task.step(at(10.0)).events.as_slice() == [NOISE]).collect();
    assert_eq!(frames, [4]);
    assert_eq!(task.step(at(10.0)).events.as_slice(), [TaskEvent::TrialStart]);
}

#[test]
fn the_interval_after_an_aversive_end_has_no_second_noise() {
    let mut task = begun(&TaskConfig { iti_frames: 6, ..short() });
    run(&mut task, 4, at(-1.0));
    for _ in 0..5 + 6 {
        assert_eq!(task.step(at(10.0)).events.as_slice(), []);
    }
}

#[test]
fn a_doubted_frame_never_ends_a_trial() {
    for deg in [90.0, 1e9, -1.0, f64::NAN] {
        let mut task = begun(&short());
        let out = run(&mut task, 9, doubted(deg));
        assert_eq!((out.state, task.counts()), (TaskState::Control, TaskCounts::default()));
        assert_eq!(task.step(doubted(deg)).events.as_slice(), [TaskEvent::Miss], "but for a miss: its frames count");
    }
    let mut task = begun(&short());
    assert_eq!(run(&mut task, 10, at(f64::INFINITY)).events.as_slice(), [TaskEvent::Miss], "not finite: doubted");
}

#[test]
fn a_doubted_frame_shows_the_step_that_was_shown() {
    let mut task = begun(&short());
    run(&mut task, 4, at(45.0));
    let out = task.step(TaskInput { valid: false, rotation_deg: 80.0, step: 6 });
    assert_eq!(out.shown_deg, Some(45.0));
}

#[test]
fn a_hit_needs_the_rotation_for_hold_frames() {
    let mut task = begun(&TaskConfig { hold_frames: 3, ..short() });
    run(&mut task, 3, at(90.0));
    let events: Vec<bool> = [90.0, 90.0, 80.0, 90.0, 90.0, 90.0]
        .map(|deg| task.step(at(deg)).events.as_slice() == [TaskEvent::Hit])
        .to_vec();
    assert_eq!(events, [false, false, false, false, false, true]);
}

#[test]
fn a_doubted_or_missed_frame_resets_the_hold_counter() {
    let config = TaskConfig { hold_frames: 2, ..short() };
    for twitch in [true, false] {
        let mut task = begun(&config);
        run(&mut task, 4, at(90.0));
        if twitch {
            task.step(doubted(90.0))
        } else {
            task.missed(1)
        };
        assert_eq!(task.step(at(90.0)).events.as_slice(), []);
        assert_eq!(task.step(at(90.0)).events.as_slice(), [TaskEvent::Hit]);
    }
    let mut task = begun(&config);
    run(&mut task, 4, at(90.0));
    task.pause();
    task.resume();
    assert_eq!(task.step(at(90.0)).events.as_slice(), [], "nor does a pause keep it");
}

#[test]
fn missed_frames_count_towards_the_lengths() {
    let mut one = begun(&short());
    let mut other = one.clone();
    for _ in 0..40 {
        one.missed(3);
        for _ in 0..3 {
            other.step(doubted(90.0));
        }
        assert_eq!(one.state, other.state);
    }
    assert!(one.counts().misses > 3);
}

#[test]
fn a_reward_that_falls_due_on_a_missed_frame_is_given() {
    let mut task = begun(&short());
    run(&mut task, 4, at(90.0));
    let out = task.missed(4);
    assert_eq!((out.state, out.phase_frame, out.events.as_slice()), (TaskState::Hit, 4, &[TaskEvent::RewardDue][..]));
    assert_eq!(task.step(at(0.0)).events.as_slice(), []);
    let out = task.missed(2 + 10 + 6 + 1);
    let cycle = [TaskEvent::TrialStart, TaskEvent::Miss, NOISE, TaskEvent::TrialStart];
    assert_eq!(out.events.as_slice(), cycle);
    let mut long = begun(&short());
    long.missed(16_000);
    assert_eq!(long.counts().misses, 1000);
}

#[test]
fn paused_the_clock_stands_still_and_the_screen_is_grey() {
    let mut task = begun(&short());
    run(&mut task, 4, at(90.0));
    run(&mut task, 2, at(0.0));
    task.pause();
    assert!(task.is_paused());
    for _ in 0..50 {
        let out = task.step(at(90.0));
        assert_eq!((out.state, out.phase_frame, out.screen, out.shown_deg), (TaskState::Paused, 2, Screen::Grey, None));
        assert_eq!(out.events.as_slice(), []);
    }
    task.missed(7);
    task.resume();
    let out = task.step(at(0.0));
    assert_eq!((out.state, out.phase_frame, out.events.as_slice()), (TaskState::Hit, 3, &[TaskEvent::RewardDue][..]));
}

#[test]
fn baseline_and_idle_are_grey_and_decide_nothing() {
    let mut task = Task::new(&short());
    let out = run(&mut task, 5, at(90.0));
    assert_eq!((out.state, out.phase_frame, out.trial_number, out.screen), (TaskState::Idle, 0, 0, Screen::Grey));
    task.begin_baseline();
    let out = run(&mut task, 500, at(90.0));
    assert_eq!((out.state, out.phase_frame, out.trial_number), (TaskState::Baseline, 500, 0));
    task.begin_trials();
    let out = task.step(at(90.0));
    assert_eq!((out.state, out.trial_number, out.phase_frame), (TaskState::Start, 1, 1));
    run(&mut task, 3, at(90.0));
    task.stop();
    let out = task.step(at(90.0));
    assert_eq!((out.state, out.trial_number, task.counts().hits), (TaskState::Idle, 1, 1), "the counts can be read");
    task.begin_trials();
    assert_eq!((task.step(at(0.0)).trial_number, task.counts().hits), (1, 0));
}

#[test]
fn phases_of_no_frames_are_passed_through() {
    let none = TaskConfig { start_frames: 0, aversive_hold_frames: 0, iti_frames: 0, ..short() };
    let mut task = begun(&none);
    let out = task.step(at(-1.0));
    assert_eq!((out.state, out.phase_frame), (TaskState::Control, 1));
    assert_eq!(out.events.as_slice(), [TaskEvent::TrialStart, TaskEvent::Aversive, NOISE]);
    let out = task.step(at(5.0));
    assert_eq!(
        (out.state, out.trial_number, out.events.as_slice()),
        (TaskState::Control, 2, &[TaskEvent::TrialStart][..])
    );
}

#[test]
fn a_state_that_cannot_be_read_is_refused() {
    let mut task = begun(&short());
    assert!(task.load(&[]).is_err());
    assert!(task.load(&[99; 4]).is_err());
    assert_eq!(task.step(at(0.0)).state, TaskState::Start);
}

/// Long walks: any mixture of frames, doubted ones, missing ones, and pauses.
fn walk() -> impl Strategy<Value = Vec<(u8, f64, usize)>> {
    prop::collection::vec(
        (0u8..40, -8i32..101, 0usize..9).prop_map(|(kind, deg, step)| (kind, f64::from(deg), step)),
        1..2000,
    )
}

fn act(task: &mut Task, (kind, rotation_deg, step): (u8, f64, usize)) -> TaskOutput {
    match kind {
        0 => task.pause(),
        1..4 => task.resume(),
        4 => return task.missed(step as u32),
        _ => {}
    }
    task.step(TaskInput { valid: kind % 4 != 1, rotation_deg, step })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn snapshot_load_and_go_on_equals_uninterrupted(walk in walk(), hold_frames in 0u32..3) {
        let config = TaskConfig { hold_frames, ..short() };
        let mut one = begun(&config);
        let mut two = one.clone();
        for &action in &walk {
            let mut bytes = vec![7];
            two.save(&mut bytes).unwrap();
            two = Task::new(&config);
            prop_assert_eq!(two.load(&bytes[1..]).unwrap(), bytes.len() - 1);
            prop_assert_eq!(act(&mut one, action), act(&mut two, action));
        }
        prop_assert_eq!(one.state, two.state);
    }

    #[test]
    fn every_trial_has_one_outcome_and_every_hit_one_reward(walk in walk()) {
        let mut task = begun(&short());
        let (mut starts, mut ends, mut hits, mut rewards, mut noises) = (0, 0, 0, 0, 0);
        for &action in &walk {
            let out = act(&mut task, action);
            prop_assert_eq!(out.events.lost(), 0);
            for event in out.events.as_slice() {
                match event {
                    TaskEvent::TrialStart => starts += 1,
                    TaskEvent::Hit => { hits += 1; ends += 1 }
                    TaskEvent::Aversive | TaskEvent::Miss => ends += 1,
                    TaskEvent::RewardDue => rewards += 1,
                    TaskEvent::NoiseCue { .. } => noises += 1,
                }
            }
            prop_assert!(starts == ends || starts == ends + 1);
            prop_assert!(hits == rewards || hits == rewards + 1);
            prop_assert!(noises <= ends - hits);
            prop_assert!((out.screen == Screen::Grating) == out.shown_deg.is_some());
        }
        let counts = task.counts();
        prop_assert_eq!(counts.hits + counts.aversives + counts.misses, ends);
    }
}
