"""Rows of the fault matrix: what is done to mxrun, and by scripts. Each is called with its scene and how often it is to act."""
import os
import signal
import time

from rig import Failure, preload, wait
from rows_broker import unknown


def stopped(scene, times):
    for i in range(times):
        p = scene.start("publisher", f"p{i}", rate=2000, window=500)
        c = scene.start("consumer", f"c{i}", concurrency=100, prefetch=300, hold=0.2)
        scene.publishers, scene.consumers = [p], [c]
        scene.flows()
        at = time.monotonic()
        if c.stop() or p.stop():
            raise Failure(f"exit {c.process.returncode}, {p.process.returncode}: {c.said()} {p.said()}")
        if c.look().handled < c.deliveries:
            raise Failure(f"{c.deliveries - c.handled} handlers were cut off")
        scene.recoveries.append(time.monotonic() - at)
    scene.publishers, scene.consumers = [], [scene.start("consumer", "rest")]


def died(scene, times):
    """kill -9 of a publisher or of a consumer, and another in its place."""
    scene.load(rate=300, hold=0.002, prefetch=50)
    for i in range(times):
        time.sleep(0.1)
        kind, who = (("publisher", scene.publishers), ("consumer", scene.consumers))[i % 2]
        script = who[i // 2 % 2]
        at = script.die()
        scene.again(kind, script)
        scene.recovered(at)


ROUND = 31                              # seconds; a worker that lived for 30 is started again at once


def latencies(scene, away):
    """From a publish to the handler's start, of what came only once: while a worker was away, and else."""
    def lines(script, what):
        with open(script.history) as file:
            return [words for words in map(str.split, file) if words[0] == what]
    delivered = [(id, float(at)) for _, id, at, redelivered, *_ in lines(scene.consumers[0], "delivered") if redelivered == "0"]
    published = {id: float(at) for p in scene.publishers for _, id, at in lines(p, "published")}
    during, otherwise = [], []
    for id, at in delivered:
        (during if any(a <= at <= b for a, b in away) else otherwise).append(at - published[id])
    return during, otherwise


def percentile(values, percent):
    return sorted(values)[int(len(values) * percent / 100)] if values else 0.0


def workers(scene, times):
    """One of four crashes, leaves, is killed or runs where nothing stops it, in turn: another is there, the three go on meanwhile."""
    scene.publishers = [scene.start("publisher", f"p{i}", rate=300) for i in range(2)]
    group = scene.start("worker", "w", options=("-w", "4", "--turn-limit", "0.2"), hold=0.002, prefetch=20, concurrency=4)
    scene.consumers, away, died_at = [group], [], {}
    wait("the workers", lambda: group.look().times("up") == 4)
    scene.flows()
    for i in range(times):
        number, how = i % 4 + 1, ("crash", "runaway", "leave", "killed")[(i + i // 4) % 4]
        time.sleep(max(1, died_at.get(number, 0) + ROUND - time.monotonic()))
        with scene.broker.connect() as connection:
            connection.channel().basic_publish("", f"fault-die-{number}", how.encode())
        wait(f"{how} of worker {number}", lambda: group.times("dies") == i + 1)
        since = max(at for event, at, _ in group.events if event == "dies")
        wait("it to be gone", lambda: group.log().count("a worker died, starting another") == i + 1)
        died_at[number] = time.monotonic()
        scene.soon("another", lambda: group.times("up") == 5 + i, died_at[number], 1)
        away.append((since, time.monotonic()))
    during, otherwise = latencies(scene, away)
    three, four = percentile(during, 99), percentile(otherwise, 99)
    scene.remark = f"p99 {1000 * three:.1f} ms of {len(during)} while one is away, {1000 * four:.1f} ms of {len(otherwise)} else"
    if three > 1 + 20 * four:
        raise Failure("the others are held up: " + scene.remark)


def settled_twice(scene, times):
    """What a script settles twice, in other ways, or long after the connection that brought it, is no business of the broker's."""
    scene.broker.lines()
    scene.load(rate=500, twice=1, keep=1.5)
    while sum(c.look().handled for c in scene.consumers) < times:
        time.sleep(1)
        scene.recovered(scene.proxy("kill rst"))
    time.sleep(2)
    unknown(scene)


def wrong_time(scene, times):
    """Hours and years are not noticed; a stop for longer than the broker waits costs one connection, once."""
    clock = os.path.join(scene.folder, "clock")
    environment = {"LD_PRELOAD": preload(scene.options.mxrun), "NTH_CLOCK": clock}
    scene.load(rate=200, heartbeat=2, environment=environment)
    for _ in range(times):
        for off in (3600, -3600, 365 * 86400, -365 * 86400):
            with open(clock, "w") as f:
                f.write(str(off))
            time.sleep(0.5)
            scene.flows()
    if any(s.happened("down") for s in scene.scripts):
        raise Failure("a connection was lost when the wall clock was set")
    for i in range(1, times + 1):
        for s in scene.scripts:
            s.process.send_signal(signal.SIGSTOP)
        wait("the broker to give them up", lambda: not scene.broker.ctl("list_connections", "pid").strip())
        for s in scene.scripts:
            s.process.send_signal(signal.SIGCONT)
        scene.recovered(time.monotonic())
        wait("all connections", lambda: all(s.times("recovered") == i for s in scene.scripts))
    time.sleep(3)
    if any(s.times("down") != times for s in scene.scripts):
        raise Failure(f"lost {[s.times('down') for s in scene.scripts]} times, stopped {times} times")
