"""Rows of the fault matrix: what the broker does, or is asked to do. Each is called with its scene and how often it is to act."""
import os
import time

from rig import Broker, Failure, wait


def killed(scene, times):
    if times < 50:
        scene.load(rate=300)
    else:                               # a million messages by the end
        scene.load(publishers=4, consumers=4, rate=2200)
    kill(scene, times)


def killed_quorum(scene, times):
    """A node killed within three minutes of the declaration does not know its queue any more: Ra's directory is a dets table, which
    is written as late as that. Then the queue comes back as an empty one, whatever was confirmed."""
    scene.load(rate=300, type="quorum")
    scene.broker.ctl("eval", "[dets:sync(T) || T <- dets:all()].")
    kill(scene, times)


def kill(scene, times):
    for _ in range(times):
        scene.broker.kill()
        scene.broker.start()
        scene.broker.started()
        scene.recovered(time.monotonic())


def still(scene, times):
    scene.load(rate=200, heartbeat=4)
    for _ in range(times):
        scene.broker.freeze()
        time.sleep(5)
        scene.broker.thaw()
        scene.recovered(time.monotonic())
    if any(s.happened("down") for s in scene.scripts):
        raise Failure("5 s of silence ended a connection with a heartbeat of 4 s")


def deleted(scene, times):
    """Each consumer says so, makes the queue again and goes on; what lay in it went with it, so nothing is published meanwhile."""
    def consumed():
        return "fault\t2" in scene.broker.ctl("list_queues", "name", "consumers")
    scene.consumers = [scene.start("consumer", f"c{i}") for i in range(2)]
    wait("the consumers", consumed)
    for _ in range(times):
        at = time.monotonic()
        scene.broker.ctl("delete_queue", "fault")
        wait("the event", lambda: all(c.happened("cancelled", at) for c in scene.consumers), 5)
        wait("the consumers to be back", consumed, 20)
        scene.recoveries.append(time.monotonic() - at)
    scene.publishers = [scene.start("publisher", "p", rate=300)]
    scene.flows()


def exchange_gone(scene, times):
    """Its publisher hears of it within a second, and goes on once it is there again."""
    scene.consumers = [scene.start("consumer", "c")]
    for i in range(times):
        p = scene.start("publisher", f"p{i}", rate=100, exchange="fault.gone")
        scene.publishers = [p]
        scene.flows()
        with scene.broker.connect() as connection:
            channel = connection.channel()
            channel.exchange_delete("fault.gone")
            at = time.monotonic()
            scene.soon("the publisher to hear of its exchange", lambda: p.look().failed > at, at, 1)
            channel.exchange_declare("fault.gone", "direct", durable=True)
            channel.queue_bind("fault", "fault.gone", "fault")
        scene.flows()
        p.stop()
    scene.stays()


def forbidden(scene, times):
    """Whoever connects again without a permission hears of it, and goes on once it has it back."""
    ctl = scene.broker.ctl
    ctl("add_user", "fault", "fault")
    scene.at_end = [lambda: ctl("delete_user", "fault")]
    ctl("set_permissions", "fault", ".*", ".*", ".*")
    scene.url = scene.url.replace("guest:guest", "fault:fault")
    scene.load(1, 1, rate=100)
    p, c = scene.publishers[0], scene.consumers[0]
    for _ in range(times):
        ctl("set_permissions", "fault", ".*", "", "")
        at = time.monotonic()           # before the proxy has told that it obeyed, all may be over
        scene.proxy("kill rst")
        wait("the publisher to be back", lambda: p.happened("recovered", at))
        wait("the consumer to be back", lambda: c.happened("recovered", at))
        back = time.monotonic()
        scene.soon("the publisher to hear of it", lambda: p.look().failed > at, back, 1)
        scene.soon("the consumer to hear of it", lambda: c.happened("cancelled", at), back, 1)
        ctl("set_permissions", "fault", ".*", ".*", ".*")
        scene.flows()


ALARMS = {"memory": (("set_vm_memory_high_watermark", "0.00000001"), ("set_vm_memory_high_watermark", "absolute", "2GB")),
          "disk": (("set_disk_free_limit", "1000GB"), ("set_disk_free_limit", "20MB"))}


def alarmed(scene, times):
    """Consumers go on; publishers wait, also one whose first publish this is; who leaves does so at once."""
    ctl = scene.broker.ctl
    window = 500
    scene.consumers = [scene.start("consumer", f"c{i}", concurrency=10, hold=0.05) for i in range(2)]
    scene.publishers = [scene.start("publisher", f"p{i}", rate=300, window=window) for i in range(2)]
    scene.flows()
    for i in range(times):
        kinds = (("memory",), ("disk",), ("memory", "disk"))[i % 3]
        at = time.monotonic()
        for kind in kinds:
            ctl(*ALARMS[kind][0])
        late = scene.start("publisher", f"late{i}", rate=300, count=50, timeout=1)
        wait("publishers to be blocked", lambda: all(p.happened("blocked", at) for p in [*scene.publishers, late]))
        at = time.monotonic()
        wait("deliveries in the alarm", lambda: all(c.look().delivered > at for c in scene.consumers), 5)
        wait("publishers to be full", lambda: all(p.look().waiting >= window for p in scene.publishers), 10)
        time.sleep(0.5)
        if max(p.look().waiting for p in scene.publishers) > window + 1:
            raise Failure("more was in flight than may be")
        leave(scene, late)
        for kind in kinds:
            ctl(*ALARMS[kind][1])
        at = time.monotonic()
        scene.recovered(at)
    scene.stays(*scene.publishers, *scene.consumers)


def leave(scene, late):
    """It ends once its last publish has run out of time, and closes without the broker's consent."""
    late.process.stopped = True
    if late.process.wait(10):
        raise Failure(f"{late.name} exited {late.process.returncode}: {late.said()}")
    took = time.monotonic() - late.look().failed
    scene.remark = f"left after {took:.1f} s"
    if took > 3:
        raise Failure(f"closing took {took:.1f} s while the broker was blocked, 2 s is the limit")


LIMITS = "application:set_env(rabbit, consumer_timeout, {}), application:set_env(rabbit, channel_tick_interval, {})."


def too_slow(scene, times):
    """The broker takes back what a handler holds for too long, and closes its channel."""
    scene.broker.lines()
    scene.broker.ctl("eval", LIMITS.format(3000, 1000))
    try:
        c = scene.start("consumer", "c", slow=100, slow_hold=10, concurrency=5, prefetch=20)
        scene.consumers, scene.publishers = [c], [scene.start("publisher", "p", rate=20)]
        scene.flows()
        since = 0
        for _ in range(times):
            wait("the broker to end the consumer", lambda: c.happened("cancelled", since + 0.001), 60)
            since = c.happened("cancelled", since + 0.001)
            scene.soon("the consumer to go on", lambda: c.look().delivered > since, since, 5)
        time.sleep(8)                   # the last one's handler comes to its end, too late
        scene.stays()
        unknown(scene)
    finally:
        scene.broker.ctl("eval", LIMITS.format(1800000, 60000))


def unknown(scene):
    """Nothing was settled that the broker does not know."""
    for line in scene.broker.lines():
        if "unknown delivery tag" in line:
            raise Failure("the broker says: " + line)


def own_queues(scene, times):
    """Exclusive and server-named queues come back whole, however often the connection goes."""
    def bound():
        return sorted(scene.broker.ctl("list_bindings", "source_name", "destination_name", "routing_key").splitlines())
    def consumed():
        rows = scene.broker.ctl("list_queues", "name", "consumers").splitlines()[1:]
        return len(rows) == 10 and all(row.endswith("\t1") for row in rows)
    s = scene.start("exclusive", "s", count=10)
    wait("the queues", consumed)
    before = bound()
    if sum(row.startswith("fault.own\t") for row in before) != 20:
        raise Failure(f"bindings: {before}")
    for i in range(times):
        at = scene.proxy("kill " + ("rst", "fin")[i % 2])
        scene.soon("the connection to be back", lambda: s.happened("recovered", at), at, 30)
        if i % 5 < 4 and i < times - 1:
            continue
        wait("each queue to be consumed", consumed)
        if bound() != before:
            raise Failure(f"{len(bound())} bindings, there were {len(before)}")
    scene.publishers, scene.consumers = [s], []


def cluster(scene, times):
    """Three nodes and a quorum queue; each node is killed in its turn. Who comes back takes 2 s for it: RabbitMQ 3.10.8 sends what a
    channel publishes before there is a new leader to the old one, and never again, nor anything that follows on that channel."""
    first = scene.broker
    nodes = [first] + [Broker(os.path.join(scene.folder, f"node{i}"), first) for i in (2, 3)]
    scene.at_end = [node.stop for node in nodes[1:]]
    for node in nodes[1:]:
        node.start()
        node.started()
        for step in (("stop_app",), ("join_cluster", first.node), ("start_app",)):
            node.ctl(*step)
    settings = {"url": [f"amqp://guest:guest@127.0.0.1:{node.port}/" for node in nodes], "type": "quorum", "rate": 100,
                "base": 2, "jitter": 0}
    scene.load(2, 2, **settings)
    for i in range(times):
        node = nodes[i % 3]
        scene.recovered(node.kill())
        if scene.recoveries[-1] > 30:
            raise Failure(f"went on {scene.recoveries[-1]:.0f} s after a node was killed")
        node.start()
        node.started()
        wait("the queue to be whole", lambda: members(node) == 3)


def members(node):
    for row in node.ctl("list_queues", "name", "online").splitlines():
        name, _, online = row.partition("\t")
        if name == "fault":
            return online.count("@")
    return 0
