"""A row of the fault matrix: its broker, proxy and processes."""
import time

from history import History
from rig import PATIENCE, Failure, Proxy, Script, wait


class Scene:
    def __init__(self, options, folder, broker):
        self.options, self.folder, self.broker = options, folder, broker
        self.proxy = Proxy(broker.port, folder)
        self.url = f"amqp://guest:guest@127.0.0.1:{self.proxy.port}/"
        self.direct = f"amqp://guest:guest@127.0.0.1:{broker.port}/"        # past the proxy
        self.scripts, self.publishers, self.consumers, self.recoveries = [], [], [], []
        self.all_confirmed, self.at_end, self.remark = False, [], ""        # at_end: what is called after all have stopped

    def start(self, script, name, url=None, **settings):
        s = Script(self.options.mxrun, url or self.url, script + ".lua", name, self.folder, **settings)
        self.scripts.append(s)
        return s

    def load(self, publishers=2, consumers=2, **settings):
        self.publishers = [self.start("publisher", f"p{i}", **settings) for i in range(publishers)]
        self.consumers = [self.start("consumer", f"c{i}", **settings) for i in range(consumers)]
        self.flows()

    def flows(self, since=None, seconds=PATIENCE):
        """Everybody's work goes on: published after since, confirmed; delivered. How long that took."""
        since = since or time.monotonic()
        wait("confirms", lambda: all(p.look().confirmed > since for p in self.publishers), seconds)
        wait("deliveries", lambda: max(c.look().delivered for c in self.consumers) > since, seconds)
        return time.monotonic() - since

    def recovered(self, since):
        self.recoveries.append(self.flows(since))

    def soon(self, what, condition, since, seconds):
        """Within so many seconds since then; a second more for the rig to see it."""
        wait(what, condition, seconds + 1 - (time.monotonic() - since))
        self.recoveries.append(time.monotonic() - since)

    def again(self, what, script):
        """Another process in the place of one that was killed."""
        stem, _, count = script.name.partition("-")
        fresh = self.start(what, f"{stem}-{int(count or 0) + 1}", **script.settings)
        for list in (self.publishers, self.consumers):
            if script in list:
                list[list.index(script)] = fresh

    def stays(self, *scripts):
        for s in scripts or self.scripts:
            if s.happened("down"):
                raise Failure(f"{s.name} gave its connection up")

    def finish(self):
        """Publishers end first, so that consumers can take the rest."""
        for p in self.publishers:
            if p.stop():
                raise Failure(f"{p.name} exited {p.process.returncode}: {p.said()}")
        if self.consumers:
            wait("the queue to be empty", self.is_empty, 3 * PATIENCE)
        for c in self.consumers:
            if c.stop():
                raise Failure(f"{c.name} exited {c.process.returncode}: {c.said()}")
        history = History()
        for s in self.scripts:
            history.read(s.history)
        return history.check(self.all_confirmed)

    def is_empty(self):
        time.sleep(0.2)
        rows = self.broker.ctl("list_queues", "name", "messages").split("\n")
        return not any(row.split("\t")[-1].strip() not in ("0", "messages") for row in rows if row.startswith("fault"))

    def stop(self):
        for s in self.scripts:
            s.kill()
        for f in self.at_end:
            f()
        self.proxy.stop()
