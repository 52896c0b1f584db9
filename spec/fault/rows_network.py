"""Rows of the fault matrix: what the network does. Each is called with its scene and how often it is to act."""
import json
import os
import random
import subprocess
import time

from rig import HERE, Failure, Silent, wait


def reset(scene, times):
    scene.load(rate=500, size="mixed")
    for _ in range(times):
        time.sleep(random.random() * 0.3)
        at = scene.proxy("kill " + random.choice(("rst", "fin")))
        if random.random() < 0.3:
            scene.recovered(at)
    scene.recovered(time.monotonic())


def cut_inside(scene, times):
    scene.load(rate=300, size="mixed", heartbeat=1, connect_timeout=1)
    kinds = [f"{k} {how} {way}" for k in ("method", "header", "body") for how in ("fin", "rst", "stall") for way in ("up", "down")]
    for order in [f"inside {k}" for k in kinds][:max(6, times)]:
        scene.proxy(order)
        time.sleep(0.3)
        scene.recovered(scene.proxy("calm"))
    for n in range(1, 2001, max(1, 400 // times)):
        scene.proxy(f"{random.choice(('cut', 'reset'))} {n}")
        scene.proxy("kill rst")
        time.sleep(0.15)
        at = scene.proxy("calm")
        scene.proxy("kill rst")
        scene.recovered(at)


def frozen(scene, times):
    scene.load(rate=200, heartbeat=1)
    for i in range(times):
        at = scene.proxy("freeze " + ("up", "down", "both")[i % 3])
        wait("the dead peer to be noticed", lambda: all(s.happened("down", at) for s in scene.scripts), 15)
        took = max(s.happened("down", at) for s in scene.scripts) - at
        if took > 3.5:
            raise Failure(f"noticed after {took:.1f} s with a heartbeat of 1 s")
        at = scene.proxy("calm")
        scene.proxy("kill rst")
        scene.recovered(at)
        wait("all connections", lambda: all(is_up(s) for s in scene.scripts))


def is_up(script):
    return [name for name, _, _ in script.look().events if name in ("up", "down", "recovered")][-1] != "down"


def slow(scene, times):
    scene.load(rate=100, heartbeat=2)
    for order in ("latency 50", "slice 1", "rate 20000", "latency 10 300")[:max(2, times)]:
        scene.proxy(order)
        time.sleep(3)
        scene.proxy("calm")
    if any(s.happened("down") for s in scene.scripts):
        raise Failure("a connection that was only slow was given up")
    scene.recovered(time.monotonic())


def full(scene, times):
    """The kernel takes no more of what a publisher writes, while the broker's heartbeats still come; or it takes all, and nothing
    is confirmed. What is kept for later has its limit."""
    scene.consumers = [scene.start("consumer", f"c{i}", scene.direct) for i in range(2)]
    p = scene.start("publisher", "p", rate=2000, size=20000, window=10000, heartbeat=2)
    scene.publishers = [p]
    scene.flows()
    for i in range(max(2, times)):
        at = scene.proxy(("full", "freeze down")[i % 2])
        wait("it to be noticed", lambda: p.happened("down", at), 20)
        took = p.happened("down", at) - at
        if took > 7:                    # 2 x 2 s and 1 s, and what it takes to fill
            raise Failure(f"noticed after {took:.1f} s with a heartbeat of 2 s")
        scene.proxy("calm")
        scene.recovered(at)
        wait("all connections", lambda: is_up(p))
    scene.remark = f"at most {p.peak()} MB"
    if p.failed:
        raise Failure("a publish ended otherwise than confirmed")
    if p.peak() > 130 and not p.is_sanitized():
        raise Failure(f"the publisher took {p.peak()} MB, of which 64 and 8 are for what it keeps")


NAMES = [("dead-good.test", 1), ("dead6-good.test", 1), ("dead-dead6-good.test", 2), ("", 2), ("hang.test", 2)]


def resolver(folder):
    """The environment in which the names of resolver.c are known."""
    library = os.path.join(folder, "resolver.so")
    if not os.path.exists(library):
        subprocess.run(["cc", "-shared", "-fPIC", "-D_GNU_SOURCE", "-o", library, os.path.join(HERE, "resolver.c")], check=True)
    return {"LD_PRELOAD": library, "ASAN_OPTIONS": "verify_asan_link_order=0"}


def addresses(scene, times):
    """Of a name, or of a list of three, some do not answer; or the resolver itself."""
    port, environment = scene.broker.port, resolver(scene.folder)
    scene.at_end = [Silent(address, port).stop for address in ("127.0.0.2", "127.0.0.3", "::1")]
    def url(host):
        return f"amqp://guest:guest@{host}:{port}/"
    for i in range(times):
        name, dead = NAMES[i % len(NAMES)]
        urls = [url(name)] if name else [url("127.0.0.2"), url("127.0.0.3"), url("127.0.0.1")]
        if name == "hang.test":
            urls.append(url("127.0.0.1"))
        at = time.monotonic()
        p = scene.start("publisher", f"p{i}", rate=100, urls=json.dumps(urls), connect_timeout=10, environment=environment)
        wait(f"a connection to {name or 'a list'}", lambda: p.happened("up"), 20)
        took = p.happened("up") - at
        scene.recoveries.append(took)
        if took > 3 * dead + 1:
            raise Failure(f"connected to {name or 'a list'} after {took:.1f} s, {dead} did not answer")
        wait("a confirm", lambda: p.look().confirmed)
        at = time.monotonic()
        p.stop()
        if time.monotonic() - at > 5:
            raise Failure(f"did not end while {name or 'a list'} was looked up")
    scene.consumers = [scene.start("consumer", "c")]
