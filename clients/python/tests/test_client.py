"""The client against a live service.

Starts ``apical serve`` (the program that the environment variable APICAL_BIN names, target/release/apical without it)
on a free port of the loopback address, and uses it as a microscope and an operator would.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import grpc
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
CLIENT = HERE.parent
REPOSITORY = CLIENT.parents[1]
sys.path.insert(0, str(CLIENT / "src"))

from apical_client.generate import generate  # noqa: E402

generate(REPOSITORY / "proto")

from apical_client import Rig, RigError, disc, v1  # noqa: E402

BINARY = pathlib.Path(os.environ.get("APICAL_BIN", REPOSITORY / "target" / "release" / "apical"))
SIDE = 128
RATE_HZ = 30.0
BASELINE = 200
CENTRES = ((32, 32), (32, 96), (96, 32), (96, 96))
SETTINGS = """
[rig]
name = "test"
[service]
listen = "127.0.0.1:0"
[record]
directory = {directory}
[baseline]
frames = 200
[activity]
detector_offset_counts = 100.0
f0_floor = 0.5
[ensembles]
plus = [0, 1]
minus = [2, 3]
[calibration]
segments = 100
[task]
trial_frames = 20
start_frames = 3
hit_hold_frames = 3
hit_reward_frame = 1
aversive_hold_frames = 3
iti_frames = 2
miss_iti_frames = 2
miss_noise_frame = 1
[outputs.reward]
device = "simulated"
width_ms = 20.0
[engine]
overload = "every"
"""


class Service:
    """A service process, with a folder for its sessions."""

    def __init__(self, folder, extra=""):
        self.folder = pathlib.Path(folder)
        config = self.folder / "rig.toml"
        # A JSON string is a TOML string.
        config.write_text(SETTINGS.format(directory=json.dumps(str(self.folder / "sessions"))) + extra)
        command = [BINARY, "--json", "serve", "--config", config]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        text = ""
        while True:
            line = self.process.stdout.readline()
            if not line:
                raise AssertionError(f"the service ended: {self.process.stderr.read()}")
            text += line
            try:
                self.address = json.loads(text)["listen"]
                break
            except json.JSONDecodeError:
                continue

    def rig(self, operator="tester"):
        return Rig(self.address, operator=operator, timeout_s=30.0)

    def end(self, how=signal.SIGTERM, within_s=10.0):
        """Ends the process; returns its exit status, what it said, and the seconds that it took."""
        start = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            _, said = self.process.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise AssertionError(f"the service did not end within {within_s} s of signal {how}") from None
        return self.process.returncode, said, time.monotonic() - start


def frames(count, seed=1):
    """Blinking blobs on textured ground under photon noise: count x SIDE x SIDE uint16."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    ground = 40.0 + 0.0 * x
    for row, col, width in zip(*random.uniform(4, SIDE - 4, (2, 60)), random.uniform(1.5, 4.0, 60)):
        ground += 60.0 * np.exp(-((y - row) ** 2 + (x - col) ** 2) / (2 * width**2))
    blobs = [np.exp(-((y - row) ** 2 + (x - col) ** 2) / (2 * 3.0**2)) for row, col in CENTRES]
    activity = np.zeros((count, len(CENTRES)))
    for t in range(1, count):
        activity[t] = 0.8 * activity[t - 1] + (random.random(len(CENTRES)) < 0.08)
    for t in range(count):
        bright = ground + sum(120.0 * (1.0 + 1.5 * a) * blob for a, blob in zip(activity[t], blobs))
        yield (100 + 4 * random.poisson(bright)).astype(np.uint16)


FRAMES = list(frames(420))


class Collector(threading.Thread):
    """Takes every message of a subscription, until it ends."""

    def __init__(self, subscription):
        super().__init__(daemon=True)
        self.subscription, self.messages, self.error = subscription, [], None
        self.start()

    def run(self):
        try:
            for message in self.subscription:
                self.messages.append(message)
        except RigError as error:
            self.error = error

    def all(self, timeout_s=15.0):
        """Every message, once the stream has ended."""
        self.join(timeout_s)
        if self.is_alive():
            raise AssertionError(f"the subscription did not end in {timeout_s} s")
        return self.messages


def wait_for(condition, what, timeout_s=10.0):
    """Waits until a condition holds."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(0.02)


class ServiceTest(unittest.TestCase):
    """One service for each test: a fresh rig."""

    maxDiff = None

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="apical-client-")
        self.service = Service(self.folder.name)
        self.rig = self.service.rig()

    def tearDown(self):
        self.rig.close()
        if self.service.process.poll() is None:
            status, said, _ = self.service.end()
            self.assertEqual(status, 0, said)
            self.assertNotIn("panicked", said)
        self.folder.cleanup()

    def refused(self, code, act, *words):
        """The act is refused with a code and a sentence that has these words in it."""
        with self.assertRaises(RigError) as caught:
            act()
        self.assertEqual(caught.exception.code, code, caught.exception)
        for word in words:
            self.assertIn(word, caught.exception.message)
        return caught.exception

    def upload(self):
        self.rig.upload_rois([disc(row, col, 5) for row, col in CENTRES], SIDE, SIDE)

    def open(self, **more):
        return self.rig.open_stream(SIDE, SIDE, "uint16", RATE_HZ, **more)

    def created(self, set=(), name=""):
        answer = self.rig.create(set=set, name=name)
        self.upload()
        return pathlib.Path(answer.directory)

    def into_task(self, stream):
        """Baseline, calibration, start of the task; frames 0 to BASELINE - 1 are used."""
        self.rig.start_baseline()
        for frame in FRAMES[:BASELINE]:
            stream.send(frame)
        stream.wait(BASELINE)
        self.rig.calibrate()
        self.rig.start_task(accept_template=True)


class WholeSession(ServiceTest):
    """From the configuration to the record."""

    def test_a_session_from_baseline_to_record(self):
        directory = self.created()
        with self.open() as stream:
            self.assertEqual(stream.accepted.next_index, 0)
            feedback, events = Collector(self.rig.feedback()), Collector(self.rig.events())
            activity = Collector(self.rig.activity(rois=[3, 0]))
            started = self.rig.start_baseline()
            self.assertEqual(started.frames, BASELINE)
            for frame in FRAMES[:BASELINE]:
                stream.send(frame)
            acks = stream.wait(BASELINE)
            # The command comes before the first frame, and its answer names its own input.
            self.assertEqual(started.effect.frame_index, 0)
            self.assertLess(started.effect.input_seq, acks[0].input_seq)
            wait_for(lambda: self.rig.state().phase == v1.SESSION_PHASE_IDLE, "the end of the baseline")
            found = self.rig.calibrate()
            self.assertEqual(found.effect.frame_index, BASELINE)
            self.assertGreater(found.effect.input_seq, acks[-1].input_seq)
            self.assertGreater(found.calibration.threshold, found.calibration.range_low)
            begun = self.rig.start_task(accept_template=True)
            self.assertEqual(begun.effect.input_seq, found.effect.input_seq + 1)
            state = self.rig.state()
            self.assertEqual(state.threshold, found.calibration.threshold)
            self.assertEqual((list(state.plus), list(state.minus), state.roi_count), ([0, 1], [2, 3], 4))
            self.assertEqual(self.rig.preview().shape, (SIDE, SIDE))
            for frame in FRAMES[BASELINE:300]:
                stream.send(frame)
            acks = stream.wait(300)
            (offset_ns, uncertainty_ns), (again_ns, also_ns) = stream.ping(), stream.ping()
            self.assertLessEqual(abs(again_ns - offset_ns), uncertainty_ns + also_ns, "clocks that tick alike")
            last = acks[-1].input_seq
            wait_for(lambda: self.rig.state().durable_through >= last, "every acknowledged frame is durable")
        stopped = self.rig.stop()
        self.check_acks(acks)
        self.check_feedback(feedback.all(), acks)
        self.check_events(events.all(), found)
        shown = activity.all()
        self.assertEqual([m.frame_index for m in shown], list(range(300)))
        self.assertEqual(list(shown[0].rois), [3, 0])
        self.assertEqual(len(shown[0].f_counts), 2)
        self.assertEqual(stopped.frames_decided, 300)
        self.assertEqual(pathlib.Path(stopped.directory), directory)
        self.assertEqual(self.rig.state().phase, v1.SESSION_PHASE_ENDED)
        for name in ("journal-000.mcap", "rig.toml"):
            self.assertTrue((directory / name).is_file(), name)
        verified = subprocess.run([BINARY, "verify", directory], capture_output=True, text=True)
        self.assertEqual(verified.returncode, 0, verified.stderr)

    def check_acks(self, acks):
        self.assertEqual([a.index for a in acks], list(range(300)))
        odd = [(a.index, v1.FrameVerdict.Name(a.verdict), a.reason) for a in acks if a.verdict != 1]
        self.assertEqual(odd, [], "every frame is decided")
        decided = [a.decided_through for a in acks]
        self.assertEqual(decided, sorted(set(decided)), "decided_through rises")
        durable = [a.durable_through for a in acks if a.HasField("durable_through")]
        self.assertEqual(durable, sorted(durable))
        self.assertTrue(all(a.durable_through <= a.decided_through for a in acks))

    def check_feedback(self, feedback, acks):
        of_frames = [m for m in feedback if m.received_host_ns]
        self.assertEqual([m.frame_index for m in of_frames], list(range(300)))
        self.assertEqual([m.input_seq for m in of_frames], [a.input_seq for a in acks])
        self.assertEqual(sum(m.missed_before for m in feedback), 0)
        self.assertTrue(all(m.decided_host_ns >= m.received_host_ns for m in of_frames))
        self.assertFalse(any(m.HasField("cursor") for m in of_frames[:BASELINE]), "no cursor before a calibration")
        self.assertTrue(all(m.HasField("cursor") for m in of_frames[BASELINE:]))
        self.assertEqual({m.state for m in of_frames[:BASELINE]}, {v1.TRIAL_STATE_BASELINE})
        self.assertIn(v1.TRIAL_STATE_CONTROL, {m.state for m in of_frames[BASELINE:]})

    def check_events(self, events, found):
        self.assertEqual([e.event_seq for e in events], list(range(len(events))), "numbered without gaps")
        kinds = [e.kind for e in events]
        order = [
            v1.EVENT_KIND_BASELINE_STARTED,
            v1.EVENT_KIND_BASELINE_DONE,
            v1.EVENT_KIND_CALIBRATED,
            v1.EVENT_KIND_TASK_STARTED,
            v1.EVENT_KIND_TRIAL_STARTED,
            v1.EVENT_KIND_STOPPED,
        ]
        places = [kinds.index(kind) for kind in order]
        self.assertEqual(places, sorted(places))
        calibrated = events[kinds.index(v1.EVENT_KIND_CALIBRATED)]
        self.assertEqual((calibrated.value, calibrated.input_seq), (found.calibration.threshold, found.effect.input_seq))
        self.assertGreaterEqual(kinds.count(v1.EVENT_KIND_TRIAL_STARTED), 3)
        again = list(self.rig.events(from_seq=3))
        self.assertEqual(again, events[3:], "whoever was away goes on from a number")
        self.assertEqual(list(self.rig.events(from_seq=len(events))), [])
        self.refused(grpc.StatusCode.OUT_OF_RANGE, lambda: list(self.rig.events(len(events) + 1)), "from_event_seq")
        rewards = kinds.count(v1.EVENT_KIND_REWARD_INTENDED)
        self.assertEqual(rewards, kinds.count(v1.EVENT_KIND_HIT))
        self.assertEqual(
            rewards, kinds.count(v1.EVENT_KIND_REWARD_SENT) + kinds.count(v1.EVENT_KIND_REWARD_LIMITED)
        )

    def test_ten_lines_of_python_are_enough(self):
        example = CLIENT / "examples" / "ten_lines.py"
        text = example.read_text()
        self.assertEqual(len(text.splitlines()), 10)
        self.assertIn(text, (CLIENT / "README.md").read_text())
        environment = {**os.environ, "PYTHONPATH": str(CLIENT / "src")}
        command = [sys.executable, example, self.service.address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("100 frames decided", done.stdout)

    def test_roi_values_are_taken_instead_of_pixels(self):
        self.rig.create()
        random = np.random.default_rng(2)
        with self.rig.open_values(4, RATE_HZ) as stream:
            self.rig.start_baseline()
            for _ in range(BASELINE):
                stream.send(200 + 20 * random.standard_normal(4))
            stream.wait(BASELINE)
            stream.send([1.0, 2.0])
            stream.send([1.0, 2.0, np.nan, 4.0])
            refused = stream.wait(BASELINE + 2)[-2:]
            self.assertEqual([a.verdict for a in refused], [v1.FRAME_VERDICT_REFUSED] * 2)
            self.assertIn("2 finite ROI values, expected 4", refused[0].reason)
            self.assertIn("3 finite ROI values, expected 4", refused[1].reason)
            self.rig.calibrate()
            self.rig.start_task()
            for _ in range(50):
                stream.send(200 + 20 * random.standard_normal(4))
            acks = stream.wait(BASELINE + 52)
        self.assertEqual({a.verdict for a in acks[-50:]}, {v1.FRAME_VERDICT_DECIDED})
        directory = self.rig.stop().directory
        verified = subprocess.run([BINARY, "verify", directory], capture_output=True, text=True)
        self.assertEqual(verified.returncode, 0, verified.stderr)


class Commands(ServiceTest):
    """What commands promise."""

    def test_a_repeated_key_is_answered_again_and_not_done_again(self):
        self.created()
        with self.open() as stream:
            stream.send(FRAMES[0])
            stream.wait(1)
            first = self.rig.manual_reward(key="reward-1")
            again = self.rig.manual_reward(key="reward-1")
            self.assertFalse(first.effect.repeated)
            self.assertTrue(again.effect.repeated)
            again.effect.repeated = False
            self.assertEqual(first, again)
            self.refused(grpc.StatusCode.ALREADY_EXISTS, lambda: self.rig.pause(key="reward-1"), "reward-1")
            other = self.service.rig(operator="somebody else")
            self.refused(grpc.StatusCode.ALREADY_EXISTS, lambda: other.manual_reward(key="reward-1"), "reward-1")
            other.close()
            stream.send(FRAMES[1])
            stream.wait(2)
            self.assertEqual(self.rig.state().counters.rewards_intended, 1)
        self.rig.stop()

    def test_a_command_whose_caller_gave_up_is_not_done_twice(self):
        self.created()
        with self.open() as stream:
            stream.send(FRAMES[0])
            stream.wait(1)
            for number in range(20):
                key = f"hasty-{number}"
                q = v1.ManualRewardRequest()
                q.command.idempotency_key, q.command.operator_name = key, "tester"
                call = self.rig._session.ManualReward.future(q)
                time.sleep(0.0003 * number)
                call.cancel()
                self.rig.manual_reward(key=key)
            counters = self.rig.state().counters
            self.assertEqual(counters.rewards_intended, 20)
        self.rig.stop()

    def test_one_command_sent_by_many_at_once_is_done_once(self):
        self.created()
        with self.open() as stream:
            stream.send(FRAMES[0])
            stream.wait(1)
            answers = []
            callers = [threading.Thread(target=lambda: answers.append(self.rig.manual_reward("one"))) for _ in range(8)]
            for caller in callers:
                caller.start()
            for caller in callers:
                caller.join()
            self.assertEqual(sorted(a.effect.repeated for a in answers), [False] + [True] * 7)
            self.assertEqual(len({a.effect.input_seq for a in answers}), 1)
            self.assertEqual(self.rig.state().counters.rewards_intended, 1)
        self.rig.stop()

    def test_commands_out_of_turn_say_what_comes_first(self):
        early = grpc.StatusCode.FAILED_PRECONDITION
        self.refused(grpc.StatusCode.NOT_FOUND, self.rig.start_baseline, "CreateSession")
        self.refused(early, self.open, "CreateSession")
        self.created()
        self.refused(early, self.rig.start_baseline, "stream")
        self.refused(early, self.rig.feedback, "stream")
        with self.open() as stream:
            self.refused(early, self.rig.calibrate, "baseline")
            self.refused(early, self.rig.start_task, "baseline")
            self.refused(early, self.rig.pause)
            self.refused(early, self.upload, "stream")
            self.refused(grpc.StatusCode.ALREADY_EXISTS, self.rig.create, "stop it first")
            stream.send(FRAMES[0])
            stream.wait(1)
        self.rig.stop()
        self.refused(early, self.rig.pause, "ended")
        self.refused(early, self.open, "ended")

    def test_bad_values_are_refused_with_what_was_expected(self):
        bad = grpc.StatusCode.INVALID_ARGUMENT
        self.refused(bad, lambda: self.rig.create(set=["task.trial_frames=0"]), "task.trial_frames")
        self.refused(bad, lambda: self.rig.create(set=["no.such.key=1"]), "no")
        self.refused(bad, lambda: self.rig.create("[rig"), "")
        self.refused(bad, lambda: self.rig.create(name="../out"), "")
        self.created()
        outside = [([SIDE], [0])]
        self.refused(bad, lambda: self.rig.upload_rois(outside, SIDE, SIDE), str(SIDE))
        self.refused(bad, lambda: self.rig.set_ensembles([0], [0]), "0")
        self.refused(bad, lambda: self.rig.open_stream(0, SIDE), "height_px")
        self.refused(bad, lambda: self.rig.open_stream(SIDE, SIDE, frame_rate_hz=-1.0), "frame_rate_hz")
        self.refused(grpc.StatusCode.FAILED_PRECONDITION, lambda: self.rig.open_stream(64, 64), "128 x 128", "64 x 64")
        nameless = self.service.rig()
        nameless.operator = ""
        self.refused(bad, nameless.create, "operator_name")
        nameless.close()

    def test_pause_stands_still_and_resume_goes_on(self):
        self.created()
        with self.open() as stream:
            feedback = Collector(self.rig.feedback())
            self.into_task(stream)
            for frame in FRAMES[BASELINE : BASELINE + 10]:
                stream.send(frame)
            stream.wait(BASELINE + 10)
            self.rig.pause()
            self.assertEqual(self.rig.state().phase, v1.SESSION_PHASE_PAUSED)
            self.refused(grpc.StatusCode.FAILED_PRECONDITION, self.rig.pause)
            for frame in FRAMES[BASELINE + 10 : BASELINE + 20]:
                stream.send(frame)
            stream.wait(BASELINE + 20)
            resumed = self.rig.resume()
            self.assertEqual(resumed.effect.frame_index, BASELINE + 20)
            for frame in FRAMES[BASELINE + 20 : BASELINE + 30]:
                stream.send(frame)
            stream.wait(BASELINE + 30)
        self.rig.stop()
        by_frame = {m.frame_index: m for m in feedback.all() if m.received_host_ns}
        still = [by_frame[index] for index in range(BASELINE + 10, BASELINE + 20)]
        self.assertEqual({m.state for m in still}, {v1.TRIAL_STATE_PAUSED})
        self.assertEqual({m.screen for m in still}, {v1.SCREEN_GREY})
        self.assertNotEqual(by_frame[BASELINE + 20].state, v1.TRIAL_STATE_PAUSED)

    def test_the_threshold_can_be_changed_by_hand(self):
        self.created()
        with self.open() as stream:
            self.into_task(stream)
            self.rig.change_threshold(0.75, range_low=-0.25)
            state = self.rig.state()
            self.assertEqual((state.threshold, state.range_low), (0.75, -0.25))
            bad = grpc.StatusCode.INVALID_ARGUMENT
            self.refused(bad, lambda: self.rig.change_threshold(float("nan")))
            self.refused(bad, lambda: self.rig.change_threshold(-1.0))
            self.assertEqual(self.rig.state().threshold, 0.75)
        self.rig.stop()


class Frames(ServiceTest):
    """What becomes of frames, good and bad."""

    def test_bad_frames_are_refused_in_band_and_the_stream_lives_on(self):
        self.created()
        with self.open(planes=2, detector_offset_counts=100.0) as stream:
            self.assertTrue(stream.accepted.notes)
            stream.send(FRAMES[0], index=5)
            stream.send_bytes(FRAMES[1].tobytes()[:-2], index=6)
            stream.send(FRAMES[1], index=5)
            stream.send(FRAMES[1], index=6, plane=7)
            stream.send(FRAMES[1], index=6, plane=1)
            stream.send_strip(FRAMES[1][64:], 64, index=6)
            stream.send(FRAMES[1], index=7)
            acks = stream.wait(7)
            self.assertTrue(stream.is_open)
        reasons = {a.reason: a for a in acks}
        decided = [a.index for a in acks if a.verdict == v1.FRAME_VERDICT_DECIDED]
        doubted = [a.index for a in acks if a.verdict == v1.FRAME_VERDICT_DOUBTED]
        self.assertEqual(sorted(decided + doubted), [5, 7])
        self.assertEqual(sum(a.verdict == v1.FRAME_VERDICT_NOT_USED for a in acks), 1)
        refused = [a.reason for a in acks if a.verdict == v1.FRAME_VERDICT_REFUSED]
        self.assertEqual(len(refused), 4, list(reasons))
        for words in (("32766", "32768"), ("5", "above 5"), ("7", "below 2"), ("64",)):
            self.assertTrue(any(all(w in reason for w in words) for reason in refused), (words, refused))
        self.assertEqual(self.rig.state().counters.frames_refused, 4)
        self.rig.stop()

    def test_strips_are_assembled_to_frames(self):
        def f_of(cut):
            self.created()
            with self.open() as stream:
                activity = Collector(self.rig.activity())
                for index, frame in enumerate(FRAMES[:20]):
                    edges = [0, SIDE] if not cut else [0, 1, 17, 64, 100, SIDE]
                    for top, bottom in zip(edges, edges[1:]):
                        stream.send_strip(frame[top:bottom], top, index)
                stream.wait(20)
            self.rig.stop()
            return [list(m.f_counts) for m in activity.all()]

        whole, strips = f_of(cut=False), f_of(cut=True)
        self.assertEqual(len(whole), 20)
        self.assertEqual(whole, strips)

    def test_a_frame_that_breaks_off_is_refused_when_the_next_begins(self):
        self.created()
        with self.open() as stream:
            stream.send_strip(FRAMES[0][:32], 0, index=0)
            stream.send(FRAMES[1], index=1)
            acks = stream.wait(2)
        self.assertEqual([a.index for a in acks], [0, 1])
        self.assertEqual(acks[0].verdict, v1.FRAME_VERDICT_REFUSED)
        self.assertIn("32 of 128 rows", acks[0].reason)
        self.rig.stop()

    def test_under_overload_skipped_frames_are_acknowledged_too(self):
        self.created(set=["engine.overload='latest'", "record.report=false"])
        with self.open() as stream:
            pixels = FRAMES[0].tobytes()
            for index in range(3_000):
                stream.send_bytes(pixels, index=index)
            acks = stream.wait(3_000)
        self.assertEqual([a.index for a in acks], list(range(3_000)))
        skipped = sum(a.verdict == v1.FRAME_VERDICT_SKIPPED for a in acks)
        counters = self.rig.state().counters
        self.assertEqual((counters.frames_in, counters.frames_skipped), (3_000, skipped))
        self.assertEqual(counters.frames_decided, 3_000 - skipped)
        self.rig.stop()

    def test_missing_frames_are_counted(self):
        self.created()
        with self.open() as stream:
            stream.send(FRAMES[0], index=0)
            stream.send(FRAMES[1], index=4)
            stream.wait(2)
        self.assertEqual(self.rig.state().counters.frames_skipped, 3)
        self.rig.stop()

    def test_a_second_header_ends_the_stream_with_a_status(self):
        self.created()
        stream = self.open()
        stream.send(FRAMES[0])
        stream.wait(1)
        stream._put(v1.IngestFramesRequest(header=v1.StreamHeader()))
        self.refused(grpc.StatusCode.INVALID_ARGUMENT, stream.close, "header")
        with self.open() as again:
            again.send(FRAMES[1])
            again.wait(1)
        self.rig.stop()

    def test_a_message_that_is_too_long_ends_the_stream_with_a_status(self):
        self.created()
        with Rig(self.service.address, operator="tester") as rig:
            rig._channel.close()
            rig._channel = grpc.insecure_channel(self.service.address, [("grpc.max_send_message_length", -1)])
            rig._ingest = v1.IngestServiceStub(rig._channel)
            stream = rig.open_stream(SIDE, SIDE, "uint16", RATE_HZ)
            stream.send_bytes(bytes(65 << 20), index=0)
            caught = self.refused(grpc.StatusCode.OUT_OF_RANGE, lambda: stream.wait(1))
            self.assertIn("expected at most 67108864", caught.message)
        self.rig.stop()


class Streams(ServiceTest):
    """Streams that end, break, and come again; and what ends them."""

    def test_a_stream_closed_half_way_is_opened_again(self):
        self.created()
        with self.open() as stream:
            for frame in FRAMES[:50]:
                stream.send(frame)
        self.assertEqual(stream.acked, 50, "closing waits for every acknowledgement")
        with self.open() as stream:
            self.assertEqual(stream.accepted.next_index, 50)
            for frame in FRAMES[50:100]:
                stream.send(frame)
            acks = stream.wait(50)
        self.assertEqual([a.index for a in acks], list(range(50, 100)))
        self.assertEqual(self.rig.state().counters.frames_decided, 100)
        with self.open() as stream:
            stream.send(FRAMES[0], index=0)
            ack = stream.wait(1)[0]
        self.assertEqual(ack.verdict, v1.FRAME_VERDICT_REFUSED)
        self.assertIn("above 99", ack.reason)
        self.rig.stop()

    def test_a_stream_that_breaks_leaves_nothing_to_the_next(self):
        self.created()
        for _ in range(5):
            stream = self.open()
            first = stream.accepted.next_index
            for number in range(12):
                stream.send(FRAMES[number])
            stream.cancel()
            with self.open() as stream:
                start = stream.accepted.next_index
                self.assertGreaterEqual(start, first)
                for number in range(10):
                    stream.send(FRAMES[number])
            self.assertEqual([a.index for a in stream.acks], list(range(start, start + 10)))
        self.rig.stop()

    def test_a_stream_given_up_while_its_session_opens_leaves_a_session_that_can_be_used(self):
        directory = self.created()
        for number in range(12):
            header = v1.StreamHeader(stream_id="frames", planes=1, channels=1, height_px=SIDE, width_px=SIDE)
            header.pixel_type, header.frame_rate_hz, header.adapter = v1.PIXEL_TYPE_UINT16, RATE_HZ, "hasty"
            call = self.rig._ingest.IngestFrames(iter([v1.IngestFramesRequest(header=header)]))
            time.sleep(0.001 * number)
            call.cancel()
            if number == 11:
                break
            wait_for(lambda: self.rig.state().phase != v1.SESSION_PHASE_NONE, "a state")
            if self.rig.state().phase == v1.SESSION_PHASE_IDLE:
                self.assertEqual(pathlib.Path(self.rig.stop().directory), directory)
                directory = self.created(name=f"hasty-{number}")
        if self.rig.state().phase == v1.SESSION_PHASE_IDLE:
            self.rig.stop()
            self.created(name="last")
        with self.open() as stream:
            stream.send(FRAMES[0])
            stream.wait(1)
        self.rig.stop()

    def test_a_stream_with_another_header_is_refused(self):
        self.created()
        with self.open() as stream:
            stream.send(FRAMES[0])
        other = lambda: self.rig.open_stream(SIDE, SIDE, "uint16", 15.0)  # noqa: E731
        self.refused(grpc.StatusCode.FAILED_PRECONDITION, other, "another header")
        self.rig.stop()

    def test_a_second_adapter_is_refused_and_the_first_goes_on(self):
        self.created()
        with self.open() as stream:
            stream.send(FRAMES[0])
            stream.wait(1)
            with self.service.rig() as other:
                act = lambda: other.open_stream(SIDE, SIDE, "uint16", RATE_HZ)  # noqa: E731
                self.refused(grpc.StatusCode.ALREADY_EXISTS, act, "another adapter")
            for frame in FRAMES[1:20]:
                stream.send(frame)
            self.assertEqual([a.index for a in stream.wait(20)], list(range(20)))
        self.rig.stop()

    def pushing(self, stream, refuse=False):
        """Frames as fast as they go, on a thread, until the stream ends."""

        def push():
            number = 0
            try:
                while True:
                    if refuse:
                        stream.send_bytes(b"12", index=number)
                    else:
                        stream.send(FRAMES[number % len(FRAMES)], index=number)
                    number += 1
            except RigError:
                pass

        thread = threading.Thread(target=push, daemon=True)
        thread.start()
        return thread

    def ends_while_pushing(self, end, refuse=False):
        directory = self.created()
        stream = self.open()
        events = Collector(self.rig.events())
        thread = self.pushing(stream, refuse)
        stream.wait(100)
        start = time.monotonic()
        end()
        took_s = time.monotonic() - start
        thread.join(10.0)
        self.assertFalse(thread.is_alive(), "the stream of frames does not end")
        stream.close(10.0)
        self.assertLess(took_s, 10.0)
        kinds = [e.kind for e in events.all()]
        self.assertEqual(self.rig.state().phase, v1.SESSION_PHASE_ENDED)
        indices = [a.index for a in stream.acks]
        self.assertEqual(indices, list(range(len(indices))), "acknowledged in order, none left out before the last")
        verified = subprocess.run([BINARY, "verify", directory], capture_output=True, text=True)
        self.assertEqual(verified.returncode, 0, verified.stderr)
        return kinds

    def test_stop_while_frames_come(self):
        self.assertIn(v1.EVENT_KIND_STOPPED, self.ends_while_pushing(self.rig.stop))
        # The rig is free for the next session.
        self.created()
        with self.open() as stream:
            stream.send(FRAMES[0])
            stream.wait(1)
        self.rig.stop()

    def test_stop_while_refused_frames_come(self):
        self.assertIn(v1.EVENT_KIND_STOPPED, self.ends_while_pushing(self.rig.stop, refuse=True))

    def test_abort_while_frames_come(self):
        self.assertIn(v1.EVENT_KIND_ABORTED, self.ends_while_pushing(self.rig.abort))

    def test_commands_at_the_moment_of_the_stop_do_not_hang(self):
        self.created()
        with self.open() as stream:
            stream.send(FRAMES[0])
            stream.wait(1)
            slowest, done = [0.0], threading.Event()

            def nag():
                while not done.is_set():
                    start = time.monotonic()
                    try:
                        self.rig.manual_reward()
                    except RigError as error:
                        self.codes.add(error.code)
                    slowest[0] = max(slowest[0], time.monotonic() - start)

            self.codes = set()
            callers = [threading.Thread(target=nag) for _ in range(4)]
            for caller in callers:
                caller.start()
            time.sleep(0.2)
            self.rig.stop()
            done.set()
            for caller in callers:
                caller.join()
            self.assertLess(slowest[0], 5.0)
            self.assertLessEqual(self.codes, {grpc.StatusCode.FAILED_PRECONDITION})

    def test_two_aborts_at_once_both_return(self):
        self.created()
        with self.open() as stream:
            stream.send(FRAMES[0])
            stream.wait(1)
            said = []

            def abort():
                try:
                    self.rig.abort()
                    said.append("aborted")
                except RigError as error:
                    said.append(error.code)

            callers = [threading.Thread(target=abort) for _ in range(3)]
            start = time.monotonic()
            for caller in callers:
                caller.start()
            for caller in callers:
                caller.join()
            self.assertLess(time.monotonic() - start, 5.0)
            self.assertIn("aborted", said)
            self.assertLessEqual(set(said), {"aborted", grpc.StatusCode.FAILED_PRECONDITION})

    def test_a_slow_reader_of_feedback_is_told_what_it_missed_and_delays_nobody(self):
        self.created(set=["record.report=false"])
        with self.open() as stream:
            feedback = self.rig.feedback()
            for number in range(6_000):
                stream.send_bytes(FRAMES[0].tobytes(), index=number)
            self.assertEqual(stream.wait(6_000)[-1].index, 5_999)
            collector = Collector(feedback)
        self.rig.stop()
        messages = collector.all()
        of_frames = [m for m in messages if m.received_host_ns]
        numbers = [m.frame_index for m in of_frames]
        self.assertEqual(numbers, sorted(set(numbers)))


class TheProcess(ServiceTest):
    """The service as a process: its end, its addresses, its health."""

    def test_sigterm_while_a_session_runs_closes_the_journal(self):
        directory = self.created()
        stream = self.open()
        feedback = Collector(self.rig.feedback())
        thread = threading.Thread(target=self.push_until_it_ends, args=(stream,), daemon=True)
        thread.start()
        stream.wait(50)
        status, said, took_s = self.service.end(signal.SIGTERM, within_s=10.0)
        self.assertEqual(status, 0, said)
        self.assertNotIn("panicked", said)
        self.assertLess(took_s, 10.0)
        print(f"SIGTERM to exit with a session running: {took_s:.2f} s", file=sys.stderr)
        thread.join(10.0)
        feedback.all()
        verified = subprocess.run([BINARY, "verify", directory], capture_output=True, text=True)
        self.assertEqual(verified.returncode, 0, verified.stderr)
        try:
            from mcap.reader import make_reader
        except ImportError:
            return
        with open(directory / "journal-000.mcap", "rb") as file:
            summary = make_reader(file).get_summary()
        topics = {summary.channels[i].topic: n for i, n in summary.statistics.channel_message_counts.items()}
        self.assertGreaterEqual(topics["/decisions"], 50)
        self.assertEqual(topics["/head"], 1)

    def push_until_it_ends(self, stream):
        try:
            while True:
                for frame in FRAMES:
                    stream.send(frame)
        except RigError:
            pass

    def test_after_kill_9_everything_that_was_durable_is_in_the_journal(self):
        directory = self.created()
        stream = self.open()
        for frame in FRAMES[:100]:
            stream.send(frame)
        durable = 0

        def enough():
            nonlocal durable
            durable = self.rig.state().durable_through
            return durable >= 90

        wait_for(enough, "90 inputs are durable")
        thread = threading.Thread(target=self.push_until_it_ends, args=(stream,), daemon=True)
        thread.start()
        stream.wait(150)
        self.service.end(signal.SIGKILL)
        thread.join(10.0)
        durable = max([durable, *(a.durable_through for a in stream.acks if a.HasField("durable_through"))])
        try:
            from mcap.reader import NonSeekingReader
            from mcap.exceptions import McapError
            from mcap_protobuf.decoder import DecoderFactory
        except ImportError:
            self.skipTest("mcap and mcap-protobuf-support are not here")
        found = {}
        with open(directory / "journal-000.mcap", "rb") as file:
            reader = NonSeekingReader(file, decoder_factories=[DecoderFactory()])
            try:
                for _, channel, _, message in reader.iter_decoded_messages(log_time_order=False):
                    found.setdefault(channel.topic, []).append(message)
            except McapError:
                # The end is missing; what was synced is not.
                pass
        for topic in ("/inputs", "/decisions"):
            numbers = [m.input_seq for m in found[topic]]
            self.assertEqual(numbers, list(range(len(numbers))))
            self.assertGreater(len(numbers), durable, topic)
        verified = subprocess.run([BINARY, "--json", "verify", directory], capture_output=True, text=True)
        report = json.loads(verified.stdout)
        self.assertEqual((report["differences"], report["segments"]), (0, 1), report)
        self.assertGreater(report["inputs_compared"], durable)

    def test_sigterm_at_once_is_heard(self):
        for _ in range(5):
            status, said, _ = Service(self.folder.name).end()
            self.assertEqual(status, 0, said)

    def test_an_address_beyond_loopback_is_refused_with_the_reason(self):
        command = [BINARY, "serve", "--set", "service.listen=0.0.0.0:0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        self.assertEqual(done.returncode, 1)
        self.assertIn("0.0.0.0:0", done.stderr)
        self.assertIn("TLS", done.stderr)
        self.assertIn("loopback", done.stderr)

    def test_health_says_serving(self):
        try:
            from grpc_health.v1 import health_pb2, health_pb2_grpc
        except ImportError:
            self.skipTest("grpcio-health-checking is not here")
        stub = health_pb2_grpc.HealthStub(self.rig._channel)
        for name in ("Ingest", "Session", "Feedback", "Events", "Activity"):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=f"apical.v1.{name}Service"), timeout=10)
            self.assertEqual(answer.status, health_pb2.HealthCheckResponse.SERVING)

    def test_reflection_lists_the_services(self):
        try:
            from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
        except ImportError:
            self.skipTest("grpcio-reflection is not here")
        services = set(ProtoReflectionDescriptorDatabase(self.rig._channel).get_services())
        ours = {f"apical.v1.{name}Service" for name in ("Ingest", "Session", "Feedback", "Events", "Activity")}
        self.assertLessEqual(ours | {"grpc.health.v1.Health"}, services)


if __name__ == "__main__":
    unittest.main(verbosity=2)
