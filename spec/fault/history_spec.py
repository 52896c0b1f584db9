#!/usr/bin/python3
"""What history.py must find: each made-up history breaks one promise, or none."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from history import History                                             # noqa: E402


def sent(id, state="confirmed"):
    return [f"published {id} 1.0", f"ended {id} {state} 1.0 2.0"]


def came(id, redelivered=0, attempt=1, whole="whole"):
    return [f"delivered {id} 3.0 {redelivered} {attempt} {whole}", f"handled {id} 3.1"]


CASES = [
    ("all is well", sent("a") + came("a"), None),
    ("a copy that was delivered again", sent("a") + came("a") + came("a", redelivered=1), None),
    ("a copy that was sent again", sent("a") + came("a") + came("a", attempt=2), None),
    ("what timed out may have come out or not", sent("a", "timeout") + sent("b", "timeout") + came("b"), None),
    ("what was refused was not sent", sent("a", "refused:closed"), None),
    ("a lost one", sent("a") + sent("b") + came("b"), "is lost"),
    ("a copy that does not say so", sent("a") + came("a") + came("a"), "as if for the first time"),
    ("two outcomes", sent("a") + ["ended a nacked 1.0 2.0"] + came("a"), "ended more than once"),
    ("no outcome", ["published a 1.0"] + came("a"), "never ended"),
    ("one that nobody sent", came("a"), "was never published"),
    ("one that was refused and came all the same", sent("a", "refused:closed") + came("a"), "was never published"),
    ("a process that was killed has no end of what it began", ["published a 1.0", "killed 2.0"], None),
    ("no handler that ended", sent("a") + ["delivered a 3.0 0 1 whole"], "no handler came to its end"),
    ("half a message", sent("a") + came("a", whole="torn"), "came out torn"),
    ("a state that there is not", sent("a", "lost") + came("a"), "in no state"),
    ("an id of two messages", sent("a") + sent("a") + came("a"), "twice under one id"),
    ("a line cut short", sent("a") + came("a") + ["delivered"], "cannot be read"),
    ("what a script saw", sent("a") + came("a") + ["wrong a was settled again by ack"], "was seen by a script"),
]


def complaints(lines):
    history, path = History(), f"/tmp/mxrun-history-{os.getpid()}"
    with open(path, "w") as file:
        file.write("\n".join(lines) + "\n")
    history.read(path)
    os.remove(path)
    return list(history.check().complaints())


def main():
    bad = 0
    for name, lines, expected in CASES:
        found = complaints(lines)
        good = len(found) == 1 and expected in found[0] if expected else not found
        bad += not good
        print(f"{'ok' if good else 'not ok'} - history: {name}" + ("" if good else f": {found}"))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
