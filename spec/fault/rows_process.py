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
