#!/usr/bin/python3
"""Checks what publishers and consumers remembered against what they were promised.

  spec/fault/history.py [--all-confirmed] [--once] FILE...     prints one line of figures; exit 1 names what broke a promise

The files are lines of words, written by spec/fault/history.lua; times are in seconds, monotonic, the same for all processes:

  published ID TIME                                       about to be published
  ended ID STATE PUBLISHED TIME                           its receipt: confirmed nacked returned timeout closed, or refused:CODE
  delivered ID TIME REDELIVERED ATTEMPT whole|torn        a handler began with it
  handled ID TIME                                         the handler came to its end
  event NAME TIME TEXT                                    of the connection
  killed TIME                                             the process, by the rig: what it had not ended has no end
  wrong ...                                               what a script saw and must not see

Always: a publish ends once; what was confirmed came out; of what came out, some handler came to its end with a copy, and at
most one copy was neither redelivered nor sent again; nothing came out that was not sent; no body was torn. --all-confirmed: no
other end. --once: no second copy at all, and each handler came to its end."""
import argparse
import collections
import sys

STATES = ("confirmed", "nacked", "returned", "timeout", "closed", "refused", "unknown")
SHOWN = 5


class Copies:
    __slots__ = ("plain", "marked", "handled")

    def __init__(self):
        self.plain = self.marked = self.handled = 0


class History:
    def __init__(self):
        self.ends = {}                                    # id: its state; None while it has none
        self.copies = collections.defaultdict(Copies)
        self.offences = collections.defaultdict(list)     # promise: what broke it
        self.begun = set()                                # of one process: what it has published, and not seen the end of
        self.events = collections.Counter()

    def published(self, id, *_):
        if id in self.ends:
            self.offences["was published twice under one id"].append(id)
        self.ends[id] = None
        self.begun.add(id)

    def ended(self, id, state, *_):
        state = state.partition(":")[0]
        if id not in self.ends:
            self.offences["ended without having been published"].append(id)
        elif self.ends[id]:
            self.offences["ended more than once"].append(f"{id} ({self.ends[id]}, then {state})")
        elif state not in STATES:
            self.offences["ended in no state that there is"].append(f"{id} ({state})")
        self.ends[id] = state
        self.begun.discard(id)

    def delivered(self, id, _, redelivered, attempt, whole):
        copies = self.copies[id]
        if redelivered == "1" or int(attempt) > 1:
            copies.marked += 1
        else:
            copies.plain += 1
        if whole != "whole":
            self.offences["came out torn"].append(id)

    def handled(self, id, *_):
        self.copies[id].handled += 1

    def event(self, name, *_):
        self.events[name] += 1

    def killed(self, *_):
        for id in self.begun:
            self.ends[id] = "unknown"

    def wrong(self, *words):
        self.offences["was seen by a script"].append(" ".join(words))

    def read(self, path):
        self.begun = set()
        with open(path) as lines:
            for number, line in enumerate(lines, 1):
                what, *words = line.split()
                try:
                    getattr(self, what)(*words)
                except (TypeError, ValueError, AttributeError):
                    self.offences["is a line that cannot be read"].append(f"{path}:{number}")

    def check(self, all_confirmed=False, once=False):
        """What was promised, over all files."""
        def broken(promise, ids):
            self.offences[promise] += ids
        sent = {id for id, state in self.ends.items() if state != "refused"}
        broken("never ended", [id for id, state in self.ends.items() if state is None])
        broken("is lost: confirmed, and never came out", self.lost())
        broken("came out, and no handler came to its end", [id for id, c in self.copies.items() if not c.handled])
        broken("came out and was never published", [id for id in self.copies if id not in sent])
        broken("came out again as if for the first time", [id for id, c in self.copies.items() if c.plain > 1])
        if all_confirmed:
            broken("was not confirmed", [f"{id} ({s})" for id, s in self.ends.items() if s != "confirmed"])
        if once:
            broken("came out again", [id for id, c in self.copies.items() if c.plain + c.marked > 1])
            broken("was cut off in its handler", [id for id, c in self.copies.items() if c.handled < c.plain + c.marked])
        self.offences = {promise: ids for promise, ids in self.offences.items() if ids}
        return self

    def lost(self):
        return [id for id, state in self.ends.items() if state == "confirmed" and id not in self.copies]

    def duplicates(self):
        return sum(c.plain + c.marked - 1 for c in self.copies.values())

    def figures(self):
        ends = collections.Counter(self.ends.values())
        other = "".join(f" {s} {ends[s]}" for s in STATES[1:] if ends[s])
        return f"published {len(self.ends)} confirmed {ends['confirmed']}{other} lost {len(self.lost())} duplicates {self.duplicates()}"

    def complaints(self):
        for promise, ids in self.offences.items():
            yield f"{len(ids)} {promise}: {', '.join(ids[:SHOWN])}{' ...' if len(ids) > SHOWN else ''}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all-confirmed", action="store_true")
    parser.add_argument("--once", action="store_true")
    parser.add_argument("files", nargs="+")
    options = parser.parse_args()
    history = History()
    # what is published stands in one file, what came of it in others
    for path in options.files:
        history.read(path)
    history.check(options.all_confirmed, options.once)
    print(history.figures())
    for complaint in history.complaints():
        print(complaint)
    sys.exit(1 if history.offences else 0)


if __name__ == "__main__":
    main()
