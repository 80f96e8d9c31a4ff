"""Every message, field, enum, enum value, service and method in proto/ has a comment, and that of a field says its unit.

    python check_proto.py proto

A unit is one of the words below; fields without one say "no unit".
"""

import pathlib
import re
import sys

UNITS = re.compile(
    r"no unit|nanosecond|microsecond|millisecond|second|hertz|pixel|micrometre|degree|detector counts|\bcounts?\b"
    r"|\bind(ex|ices)\b|\bratio\b|\b0 to 1\b|\b0 or 1\b|standard deviation|units of x|\bcode\b|bytes|unit that the kind says"
)
FIELD = re.compile(r"^(?:repeated |optional )?[\w.]+ \w+ = \d+;")
TITLED = re.compile(r"^(?:message|enum|service|oneof|rpc) \w+|^\w+ = \d+;")


def faults(file):
    """One line for each thing without a comment, or without a unit."""
    comment, found = [], []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        text = line.strip()
        if text.startswith("//"):
            comment.append(text[2:].strip())
            continue
        code, _, tail = text.partition("//")
        said = " ".join([*comment, tail]).strip()
        where = f"{file}:{number}: {code.strip()}"
        if FIELD.match(code):
            if not said:
                found.append(f"{where}: expected a comment")
            elif not UNITS.search(said):
                found.append(f"{where}: expected a unit in its comment, or the words 'no unit'")
        elif TITLED.match(code) and not said:
            found.append(f"{where}: expected a comment")
        if text:
            comment = []
    return found


def main(folder):
    """Checks a folder."""
    files = sorted(pathlib.Path(folder).rglob("*.proto"))
    found = [fault for file in files for fault in faults(file)]
    print("\n".join(found) or f"{len(files)} files, every field has a comment with its unit")
    return 1 if found or not files else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
