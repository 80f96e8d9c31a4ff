#!/usr/bin/env python3
"""F of the same cells of the same movie by suite2p and by apical: correlation with the truth, printed side by side.

    python3 -m venv v && v/bin/pip install suite2p==1.1.0
    python3 make_movie.py --seed 1 --out DIR
    v/bin/python benches/suite2p_traces.py DIR [--apical target/release/apical] [--baseline 300]

suite2p registers (default settings, rigid alone and with its blocks) to the reference image of the masks, and extracts
F and neuropil with default settings, and with overlapping pixels kept. apical replays the file as a session with the
first frames as its baseline. dF/F over a fixed F0 correlates as F - 0.7 Fneu does, so that is what both are judged by,
on the frames behind the baseline; apical's own running dF/F stands beside it. The median over the 20 most active cells,
and over all.
"""
import argparse
import csv
import pathlib
import subprocess
import tempfile

import numpy as np
import tifffile
import torch
from suite2p import default_settings
from suite2p.extraction.extract import extract_traces
from suite2p.extraction.masks import create_masks
from suite2p.registration.register import registration_wrapper

CPU = torch.device("cpu")


def suite2p_traces(movie, stat, reference, nonrigid, keep_overlap):
    settings = default_settings()["registration"] | {"nonrigid": nonrigid}
    moved = movie.copy()
    registration_wrapper(moved, refImg=reference, settings=settings, device=CPU)
    masks, annuli = create_masks(stat, *movie.shape[1:], allow_overlap=keep_overlap)
    return extract_traces(moved, masks, annuli, device=CPU)


def apical_traces(program, folder, baseline, more):
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        replay = [program, "replay", folder / "movie.tif", "--rois", folder / "stat.npy", "--baseline-frames", str(baseline),
                  "--session-dir", scratch / "session", "--json", *more]
        subprocess.run(replay, check=True, stdout=subprocess.DEVNULL)
        subprocess.run([program, "export", scratch / "session", "--csv", scratch / "tables"], check=True,
                       stdout=subprocess.DEVNULL)
        with (scratch / "tables" / "activity.csv").open() as table:
            rows = csv.reader(table)
            names = next(rows)
            values = np.array([[float(v) if v else np.nan for v in row] for row in rows])
    column = lambda prefix: values[:, [k for k, name in enumerate(names) if name.rsplit("_", 1)[0] == prefix]].T
    return column("F"), column("Fneu"), column("dff")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("movie", type=pathlib.Path)
    p.add_argument("--apical", default="target/release/apical")
    p.add_argument("--baseline", type=int, default=300)
    a = p.parse_args()
    truth = np.load(a.movie / "truth.npz")["traces"][:, a.baseline:]
    movie = tifffile.imread(a.movie / "movie.tif").astype(np.int16)
    stat = np.load(a.movie / "stat.npy", allow_pickle=True)
    reference = np.load(a.movie / "ops.npy", allow_pickle=True).item()["meanImg"].astype(np.int16)
    active = np.argsort(-truth.var(axis=1))[:20]

    def told(name, traces):
        with np.errstate(invalid="ignore"):
            found = np.array([np.corrcoef(t[np.isfinite(t)], u[np.isfinite(t)])[0, 1] for t, u in zip(traces, truth)])
        print(f"{name:62s} {np.median(found[active]):10.4f} {np.nanmedian(found):10.4f}", flush=True)

    print(f"{'correlation with the truth, median of':62s} {'20 cells':>10s} {'all':>10s}")
    for nonrigid in (False, True):
        for keep in (False, True):
            f, neuropil = suite2p_traces(movie, stat, reference, nonrigid, keep)
            how = ("rigid and blocks" if nonrigid else "rigid") + (", overlap kept" if keep else "")
            told(f"suite2p, {how}: F - 0.7 Fneu", (f - 0.7 * neuropil)[:, a.baseline:])
    for more in ([], ["--set", 'sample.overlap="leave_out"'], ["--set", 'sample.mode="demix"']):
        f, neuropil, dff = apical_traces(a.apical, a.movie, a.baseline, more)
        how = " ".join(more[1:]) or "default"
        told(f"apical, {how}: F - 0.7 Fneu", (f - 0.7 * neuropil)[:, a.baseline:])
        told(f"apical, {how}: dF/F as decided on", dff[:, a.baseline:])


if __name__ == "__main__":
    main()
