"""Coverage in a few lines: by folder, the files below a share, and all.

python -m coverage json -o - | python tests/support/covered.py
"""

import json
import sys
from collections import Counter
from pathlib import PurePath

LOW = 0.8  # files below this share are named


def share(counts):
    """Covered lines and branches of all."""
    done = counts["covered_lines"] + counts["covered_branches"]
    return done / max(1, counts["num_statements"] + counts["num_branches"])


def lines_of(report):
    """A line a folder, then low files, then the sum."""
    folders, low, total = {}, [], Counter()
    for name, file in sorted(report["files"].items()):
        counts = Counter({key: value for key, value in file["summary"].items() if isinstance(value, int)})
        folders.setdefault(str(PurePath(name).parent), Counter()).update(counts)
        total.update(counts)
        if counts["num_statements"] and share(counts) < LOW:
            low.append(f"{name} {share(counts):.0%}")
    yield from (
        f"{share(counts):5.0%} of {counts['num_statements']:5} lines  {name}" for name, counts in folders.items()
    )
    if low:
        yield f"below {LOW:.0%}: {', '.join(low)}"
    yield f"{share(total):5.0%} of {total['num_statements']:5} lines  in all"


if __name__ == "__main__":
    print("\n".join(lines_of(json.load(sys.stdin))))
