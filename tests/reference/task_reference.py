#!/usr/bin/env python3
"""The session's arithmetic in plain numpy, written from the description of the experiment and not from the Rust.

    python3 tests/reference/task_reference.py              recompute golden_*.json of every case in cases.json
    python3 tests/reference/task_reference.py --npy F.npy --case NAME --starts starts.json --out out.json
                                                           the same with another matrix (ROIs x frames)

Loops are as in the text, nothing is fast. The draw of the segments is the product's: segment_starts.json holds its
result (see tests/task_reference.rs), everything else is computed here. Recorded traces are read from ../shared and
scaled per ROI to F = 1000 + 500 * (t - min) / (max - min); synthetic ones come from integers alone.
"""
import argparse
import json
import math
import os
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
SHARED = pathlib.Path(os.environ.get("APICAL_SHARED", HERE.parent.parent.parent / "shared"))

DEFAULTS = {
    "activity": dict(f0_percentile=10.0, f0_window_trials=4.0, f0_floor=0.0, detector_offset_counts=0.0),
    "sample": dict(neuropil_coefficient=0.7),
    "decode": dict(signal="dff", smooth_frames=3),
    "ensembles": dict(plus=[], minus=[]),
    "task": dict(trial_frames=750, start_frames=15, hit_hold_frames=60, hit_reward_frame=3, aversive=True,
                 aversive_hold_frames=60, iti_frames=15, miss_iti_frames=90, miss_noise_frame=30, target_deg=90.0,
                 step_count=7, step_deg=15.0, hold_frames=0, hit_rotation_deg=90.0, aversive_rotation_deg=0.0),
    "calibration": dict(segments=200, threshold_step=0.005, target_fraction=0.5, day1_z_half=None, seed=1),
}


# ---------------------------------------------------------------- input

class Lcg:
    """Knuth's MMIX generator; the upper 31 bits of the state."""

    def __init__(self, seed):
        self.state = seed

    def below(self, bound):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % bound


def synthetic(seed, rois, frames):
    """Counts: a resting level, noise, and transients that decay by a sixteenth a frame. Frame by frame, ROI by ROI."""
    lcg = Lcg(seed)
    f = np.zeros((rois, frames))
    fneu = np.zeros((rois, frames))
    doubted = np.zeros(frames, dtype=bool)
    transient = [0] * rois
    for n in range(frames):
        for i in range(rois):
            if lcg.below(97) == 0:
                transient[i] += 200 + lcg.below(400)
            transient[i] -= transient[i] // 16
            f[i, n] = 900 + 20 * i + lcg.below(60) + transient[i]
            fneu[i, n] = 400 + lcg.below(40)
        doubted[n] = lcg.below(23) == 0
    return f, fneu, doubted


def recorded(rows):
    traces = np.load(SHARED / "data/real/cells_170x170_58x3000.npz")["traces"].astype(np.float64)[rows]
    low = traces.min(axis=1, keepdims=True)
    high = traces.max(axis=1, keepdims=True)
    return 1000.0 + 500.0 * ((traces - low) / (high - low))


# ---------------------------------------------------------------- activity

def percentile(values, p):
    return np.percentile(values, p, method="hazen", axis=0)


def window_frames(case):
    return int(math.floor(case["activity"]["f0_window_trials"] * case["task"]["trial_frames"] + 0.5))


def dff_of(f, f0, floor):
    out = np.full(f.shape, np.nan)
    good = f0 > floor
    out[good] = (f[good] - f0[good]) / f0[good]
    return out


def circular_dff(base, case):
    """base: frames x ROIs."""
    frames = len(base)
    out = np.zeros(base.shape)
    for p in range(frames):
        indices = [(p - back) % frames for back in range(window_frames(case))]
        f0 = percentile(base[indices], case["activity"]["f0_percentile"])
        out[p] = dff_of(base[p], f0, case["activity"]["f0_floor"])
    return out


# ---------------------------------------------------------------- decoder

def x_of(values, case):
    plus = values[case["ensembles"]["plus"]]
    plus = plus[~np.isnan(plus)]
    if len(plus) == 0:
        return math.nan
    if not case["ensembles"]["minus"]:
        return max(0.0, float(np.mean(plus)))
    minus = values[case["ensembles"]["minus"]]
    minus = minus[~np.isnan(minus)]
    return math.nan if len(minus) == 0 else float(np.mean(plus) - np.mean(minus))


# ---------------------------------------------------------------- calibration

def calibrate(x, starts, case):
    """x: one value for each frame of the baseline."""
    config, trial = case["calibration"], case["task"]["trial_frames"]
    segments = np.array([[x[(s + j) % len(x)] for j in range(trial)] for s in starts])
    range_low = segments.min()
    peaks = []
    for segment in segments:
        means = []
        for j in range(trial):
            around = segment[max(0, j - 1):min(trial, j + 2)]
            means.append(np.mean(around))
        peaks.append(max(means))
    peaks = np.array(peaks)
    today = None
    k = 0
    while range_low + k * config["threshold_step"] <= segments.max():
        candidate = range_low + k * config["threshold_step"]
        if np.mean(peaks > candidate) <= config["target_fraction"]:
            today = candidate
            break
        k += 1
    pooled = segments.ravel()
    median = np.median(pooled)
    lower = pooled[pooled <= median]
    both = np.concatenate([lower, 2 * median - lower])
    mu, sigma = np.mean(both), np.std(both, ddof=1)
    z_half = (today - mu) / sigma
    day1 = config["day1_z_half"]
    carried = day1 is not None and day1 < z_half
    threshold = mu + sigma * day1 if carried else today
    assert threshold > range_low
    return dict(threshold=float(threshold), range_low=float(range_low), mu_half=float(mu), sigma_half=float(sigma),
                z_half=float(z_half), chance_fraction=float(np.mean(peaks > today)), threshold_today=float(today),
                carried_over=bool(carried), baseline_frames=len(x))


# ---------------------------------------------------------------- feedback

def rotation_of(z, cal):
    r = 90.0 * z / (cal["threshold"] - cal["range_low"])
    return int(math.copysign(math.floor(abs(r) + 0.5), r))


def step_of(z, cal):
    edges = np.linspace(0.0, cal["threshold"] - cal["range_low"], 6)
    edges = [edges[0] - (edges[1] - edges[0]), *edges]
    step = 0
    for i, edge in enumerate(edges):
        if z >= edge:
            step = i
    return step


# ---------------------------------------------------------------- trial

def trials(frames, task):
    """Coroutine in the order of the table: yields (state, shown_deg, events) and is sent (valid, rotation, step)."""
    shown_at = [(task["target_deg"] - (6 - s) * 15.0) % 360.0 for s in range(7)]
    number = 0
    valid, rotation, step = yield
    last_step = 0

    while True:
        number += 1
        outcome = None
        kept = 0
        for n in range(1, task["trial_frames"] + 1):
            events = [["start", number]] if n == 1 else []
            if valid:
                last_step = step
            if n <= task["start_frames"]:
                valid, rotation, step = yield ("S", None, events)
                continue
            kept = kept + 1 if valid and rotation >= task["hit_rotation_deg"] else 0
            if kept and kept >= task["hold_frames"]:
                outcome = "hit"
            elif task["aversive"] and valid and rotation < task["aversive_rotation_deg"]:
                outcome = "aversive"
            elif n == task["trial_frames"]:
                outcome = "miss"
            if outcome:
                events.append([outcome, number])
            if outcome == "aversive":
                events.append(["noise", number])
            valid, rotation, step = yield ("C", shown_at[last_step], events)
            if outcome:
                break
        if outcome == "hit":
            phases = [("H", shown_at[6], task["hit_hold_frames"]), ("I", None, task["iti_frames"])]
        elif outcome == "aversive":
            phases = [("A", shown_at[0], task["aversive_hold_frames"]), ("I", None, task["iti_frames"])]
        else:
            phases = [("I", None, task["miss_iti_frames"])]
        for state, shown, length in phases:
            for n in range(1, length + 1):
                if valid:
                    last_step = step
                events = []
                if state == "H" and n == task["hit_reward_frame"]:
                    events.append(["reward", number])
                if outcome == "miss" and n == task["miss_noise_frame"]:
                    events.append(["noise", number])
                valid, rotation, step = yield (state, shown, events)


# ---------------------------------------------------------------- session

def session(f, fneu, doubted, case, starts):
    activity = case["activity"]
    offset = activity["detector_offset_counts"]
    corrected = f - offset
    if fneu is not None:
        corrected = corrected - case["sample"]["neuropil_coefficient"] * (fneu - offset)
    corrected = corrected.T  # frames x ROIs
    # A doubted frame of the baseline keeps its place in time, with the values of the last good frame (those before the
    # first good one, with its values).
    first = case["baseline_frames"]
    base = corrected[:first].copy()
    good = [n for n in range(first) if not doubted[n]]
    for n in range(first):
        if doubted[n]:
            base[n] = base[n - 1] if n > good[0] else corrected[good[0]]
    dff = circular_dff(base, case)
    mean, sd = np.mean(dff, axis=0), np.std(dff, axis=0, ddof=1)
    is_z = case["decode"]["signal"] == "z"
    signal = (dff - mean) / sd if is_z else dff
    cal = calibrate([x_of(row, case) for row in signal], starts, case)

    history = [base[(len(base) - 1 - back) % len(base)] for back in range(window_frames(case))][::-1]
    machine = trials(len(corrected), case["task"])
    next(machine)
    f0 = percentile(np.array(history), activity["f0_percentile"])
    xs = []
    cursor, rotation, step = 0.0, 0, 0
    out = dict(first_frame=first, calibration=cal, cursor=[], rotation=[], step="", state="", shown=[], events=[],
               sampled=[])
    for n in range(first, len(corrected)):
        x = math.nan
        if not doubted[n]:
            history = history[1:] + [corrected[n]]
            f0 = percentile(np.array(history), activity["f0_percentile"])
            values = dff_of(corrected[n], f0, activity["f0_floor"])
            if is_z:
                values = (values - mean) / sd
            x = x_of(values, case)
        valid = not math.isnan(x)
        if valid:
            xs.append(x)
            smooth = case["decode"]["smooth_frames"]
            cursor = (x if len(xs) < smooth else sum(xs[-smooth:]) / smooth) - cal["range_low"]
            rotation, step = rotation_of(cursor, cal), step_of(cursor, cal)
        state, shown, events = machine.send((valid, rotation, step))
        out["cursor"].append(float("%.12g" % cursor))
        out["rotation"].append(rotation)
        out["step"] += str(step)
        out["state"] += state
        out["shown"].append(shown)
        out["events"] += [[n, *event] for event in events]
        if (n - first) % 100 == 0:
            out["sampled"].append(dict(frame=n, x=x if valid else None, f0=[float(v) for v in f0]))
    out["shown"] = run_lengths(out["shown"])
    out["state"] = run_lengths(out["state"])
    return out


def run_lengths(values):
    runs = []
    for value in values:
        if runs and runs[-1][0] == value:
            runs[-1][1] += 1
        else:
            runs.append([value, 1])
    return runs


def complete(case):
    return {**case, **{part: {**DEFAULTS[part], **case.get(part, {})} for part in DEFAULTS}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--npy")
    parser.add_argument("--case")
    parser.add_argument("--starts")
    parser.add_argument("--out")
    args = parser.parse_args()
    cases = {case["name"]: complete(case) for case in json.loads((HERE / "cases.json").read_text())}
    if args.npy:
        f = np.load(args.npy).astype(np.float64)
        starts = json.loads(pathlib.Path(args.starts).read_text())
        result = session(f, None, np.zeros(f.shape[1], dtype=bool), cases[args.case], starts)
        pathlib.Path(args.out).write_text(json.dumps(result, separators=(",", ":")))
        return
    starts = json.loads((HERE / "segment_starts.json").read_text())
    for name, case in cases.items():
        if args.case and name != args.case:
            continue
        source = case["input"]
        if source["kind"] == "recorded":
            f, fneu = recorded(source["rows"]), None
            doubted = np.zeros(f.shape[1], dtype=bool)
        else:
            f, fneu, doubted = synthetic(source["seed"], source["rois"], source["frames"])
        result = session(f, fneu, doubted, case, starts[name])
        kinds = [event[1] for event in result["events"]]
        print(name, result["calibration"], {kind: kinds.count(kind) for kind in sorted(set(kinds))})
        (HERE / f"golden_{name}.json").write_text(json.dumps(result, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
