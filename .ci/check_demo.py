"""Checks what `apical --json demo` printed: every frame decided, trials run, every reward accounted for.

    python check_demo.py demo.json SESSION_DIRECTORY
"""

import json
import pathlib
import sys


def main(result_file, directory):
    """Exit status 1, and one line for each thing that is not as it must be."""
    result = json.loads(pathlib.Path(result_file).read_text())
    directory = pathlib.Path(directory)
    wrong = []

    def expect(holds, sentence):
        if not holds:
            wrong.append(sentence)

    for key in ("frames_refused", "rewards_unknown"):
        expect(result[key] == 0, f"{key}: {result[key]}, expected 0")
    answered = result["frames_decided"] + result["frames_skipped"]
    expect(result["frames_in"] > 0, "frames_in: 0, expected frames")
    expect(answered == result["frames_in"], f"{answered} frames decided or skipped, expected {result['frames_in']}")
    # A busy machine may skip some; a service that skips many does not work.
    expect(result["frames_skipped"] <= 0.05 * result["frames_in"], f"{result['frames_skipped']} frames skipped")
    expect(result["trials"] >= 1, "trials: 0, expected at least one")
    ended = result["hits"] + result["aversive"] + result["misses"]
    expect(result["trials"] - 1 <= ended <= result["trials"], f"{ended} outcomes of {result['trials']} trials")
    told = result["rewards_sent"] + result["rewards_limited"]
    expect(told == result["rewards_intended"], f"{told} rewards sent or limited, {result['rewards_intended']} intended")
    expect(result["rewards_acknowledged"] == result["rewards_sent"], "a reward that was sent is not acknowledged")
    expect(result["latency_us"]["p50"] > 0, "latency_us.p50: 0, expected a latency")
    for name in ("journal-000.mcap", "rig.toml"):
        expect((directory / name).is_file(), f"{directory / name} is missing")
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    p50, p99 = result["latency_us"]["p50"], result["latency_us"]["p99"]
    print(f"{result['frames_decided']} frames, {result['trials']} trials, {result['hits']} hits; {p50} us, 99%: {p99} us")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
