#!/usr/bin/env python3
"""What the published implementation of OASIS gives, frame by frame, for `tests/oasis_reference.rs`.

    python3 -m venv v && v/bin/pip install oasis-deconv==0.3.2 numpy==2.4.6 scipy==1.17.1
    v/bin/python tests/reference/oasis_reference.py            writes oasis.json and oasis_spikes.json beside it

The lag-L output at frame t is s[t] of the trace up to t + L: one run of the package for every frame. oasis.json holds
traces that were made here, whole; oasis_spikes.json, correlations with the true spikes of ../shared's spikefinder cells
(100 Hz; a run sees the last 6,000 frames, twice what the product keeps), and nothing of the recording.
"""
import importlib.metadata
import json
import math
import os
import pathlib
import sys

import numpy as np
from oasis.oasis_methods import oasisAR1, oasisAR2

HERE = pathlib.Path(__file__).resolve().parent
SHARED = pathlib.Path(os.environ.get("APICAL_SHARED", HERE.parent.parent.parent / "shared"))
PINNED = {"oasis-deconv": "0.3.2", "numpy": "2.4.6", "scipy": "1.17.1"}
RUN_FRAMES = 6000


def deconvolved(y, decay, rise):
    if rise == 0:
        return oasisAR1(y, decay)[1]
    return oasisAR2(y, decay + rise, -decay * rise)[1]


def online(y, decay, rise, lags):
    """For each lag, the output at every frame n of the trace up to n: s[n - lag], 0 before there is one."""
    out = {lag: np.zeros(len(y)) for lag in lags}
    for n in range(1, len(y)):
        if n + 1 < 3 and rise:
            continue
        first = max(0, n + 1 - RUN_FRAMES)
        s = deconvolved(y[first:n + 1].copy(), decay, rise)
        for lag in lags:
            if n >= lag:
                out[lag][n] = s[n - lag - first]
    return out


def made(seed, frames, decay, rise, events, noise, level):
    rng = np.random.default_rng(seed)
    s = (rng.random(frames) < events) * (0.5 + rng.random(frames))
    c = np.zeros(frames)
    for t in range(frames):
        c[t] = s[t] + (decay + rise) * (c[t - 1] if t else 0) - decay * rise * (c[t - 2] if t > 1 else 0)
    return np.round(c + level + noise * rng.standard_normal(frames), 4)


def traces():
    pole = lambda tau_s, hz: math.exp(-1 / (tau_s * hz))
    cases = [
        ("ar1", 1, 300, pole(1.0, 30), 0.0, 0.03, 0.2, 0.0),
        ("ar1_noise_alone_below_zero", 2, 200, pole(0.5, 30), 0.0, 0.0, 0.3, -0.1),
        ("ar1_slow", 3, 300, pole(2.0, 100), 0.0, 0.02, 0.3, 0.05),
        ("ar1_missing_frames", 4, 300, pole(1.0, 30), 0.0, 0.03, 0.2, 0.0),
        ("ar2", 5, 300, pole(1.0, 30), pole(0.1, 30), 0.03, 0.2, 0.0),
        ("ar2_noise_alone_below_zero", 6, 200, pole(1.0, 30), pole(0.05, 30), 0.0, 0.3, -0.1),
        ("ar2_slow", 7, 300, pole(2.0, 100), pole(0.2, 100), 0.02, 0.3, 0.05),
    ]
    for name, seed, frames, decay, rise, events, noise, level in cases:
        y = made(seed, frames, decay, rise, events, noise, level)
        if "missing" in name:
            y[40:43] = y[90] = y[120:150] = np.nan
        rates = {lag: np.nan_to_num(values) for lag, values in online(y, decay, rise, [0, 3, 12]).items()}
        yield dict(name=name, decay=decay, rise=rise, y=[None if math.isnan(v) else v for v in y],
                   rates={str(lag): [round(v, 7) for v in values.tolist()] for lag, values in rates.items()})


def binned(x):
    return x[:len(x) // 4 * 4].reshape(-1, 4).sum(1)


def spikes(cell, decay, rise, lags):
    folder = SHARED / "data/real/spikes"
    y, true = (np.genfromtxt(folder / f"5.train.{what}.csv", delimiter=",", skip_header=1)[:, cell]
               for what in ("calcium", "spikes"))
    kept = ~(np.isnan(y) | np.isnan(true))
    y, true = y[kept], true[kept]
    y = y - np.percentile(y, 50, method="hazen")
    rates = online(y, decay, rise, lags)
    found = {}
    for lag in lags:
        # The output at frame n speaks of frame n - lag.
        rate = np.concatenate([rates[lag][lag:], np.zeros(lag)])
        found[str(lag)] = round(float(np.corrcoef(binned(rate), binned(true))[0, 1]), 6)
    whole = float(np.corrcoef(binned(deconvolved(y, decay, rise)), binned(true))[0, 1])
    print("cell", cell, len(y), "frames", found, "whole trace", round(whole, 4), flush=True)
    return dict(cell=cell, decay=decay, rise=rise, correlations=found, whole_trace=round(whole, 6))


def main():
    for name, version in PINNED.items():
        if importlib.metadata.version(name) != version:
            sys.exit(f"{name} {importlib.metadata.version(name)}, expected {version}")
    (HERE / "oasis.json").write_text(json.dumps(dict(versions=PINNED, traces=list(traces()))) + "\n")
    decay = math.exp(-1 / 70)  # 0.7 s
    lags = [0, 5, 10, 20]
    cells = [spikes(cell, decay, 0.0, lags) for cell in range(9)]
    (HERE / "oasis_spikes.json").write_text(json.dumps(dict(versions=PINNED, cells=cells)) + "\n")


if __name__ == "__main__":
    main()
