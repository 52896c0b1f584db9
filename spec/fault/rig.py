"""What faults act on: a private broker, a proxy in front of it, and mxrun processes that keep histories."""
import os
import random
import re
import signal
import socket
import subprocess
import time

import pika

HERE = os.path.dirname(os.path.abspath(__file__))
RABBIT = os.path.join(os.path.dirname(HERE), "rabbit")
PATIENCE = 40                           # seconds; what takes longer does not come any more


class Failure(Exception):
    """A promise that was not kept."""


def wait(what, condition, seconds=PATIENCE):
    """What the condition answers, once that is true."""
    due = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > due:
            raise Failure(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.01)


def is_free(port):
    with socket.socket() as s:
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port():
    """Of a broker: Erlang's two ports are 10000 and 20000 above it (spec/rabbit)."""
    while True:
        port = random.randrange(10000, 12700)         # all below those that the kernel gives away
        if all(is_free(port + more) for more in (0, 10000, 20000)):
            return port


def is_open(port):
    with socket.socket() as s:
        s.settimeout(1)
        return s.connect_ex(("127.0.0.1", port)) == 0


def preload(mxrun):
    """What puts nth.so, which lies beside mxrun, under it: the environment's setting."""
    shim = os.path.join(os.path.dirname(os.path.abspath(mxrun)), "nth.so")
    needs = subprocess.run(["ldd", mxrun], capture_output=True, text=True, check=True).stdout
    asan = re.search(r"=> (\S*libasan\S*)", needs)              # has to be the first of all
    return f"{asan.group(1)} {shim}" if asan else shim


class Broker:
    def __init__(self, folder, epmd_of=None):
        """epmd_of: the broker that this one is to be clustered with."""
        self.folder, self.port, self.starting, self.frozen, self.read = folder, free_port(), None, False, 0
        self.node = f"mx{self.port}@localhost"
        if epmd_of:
            os.makedirs(folder)
            with open(os.path.join(folder, "epmd"), "w") as file:
                file.write(str(epmd_of.port + 10000))

    def start(self):
        """Answers at once."""
        self.starting = subprocess.Popen([RABBIT, "start", self.folder, str(self.port)], stdout=subprocess.DEVNULL)

    def started(self):
        if self.starting.wait() != 0:
            raise Failure("the broker did not start")

    def pid(self):
        return int(subprocess.check_output([RABBIT, "pid", self.folder]))

    def kill(self):
        """When that was."""
        os.kill(self.pid(), signal.SIGKILL)
        at = time.monotonic()
        wait("the broker's port to close", lambda: not is_open(self.port))
        return at

    def freeze(self):
        os.kill(self.pid(), signal.SIGSTOP)
        self.frozen = True

    def thaw(self):
        os.kill(self.pid(), signal.SIGCONT)
        self.frozen = False

    def ctl(self, *args):
        done = subprocess.run([RABBIT, "ctl", self.folder, "-q", *args], capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise Failure(f"rabbitmqctl {args[0]}: {done.stderr.strip()}")
        return done.stdout

    def clear(self):
        """No queue is left."""
        with self.connect() as connection:
            channel = connection.channel()
            for name in self.ctl("list_queues", "name").split():
                if name != "name":
                    channel.queue_delete(name)

    def connect(self):
        return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", self.port, heartbeat=0))

    def lines(self):
        """What it has logged since the last call."""
        path = os.path.join(self.folder, "log", self.node + ".log")
        with open(path, errors="replace") as log:
            log.seek(self.read)
            text = log.read()
            self.read = log.tell()
        return text.splitlines()

    def stop(self):
        if not self.starting:
            return
        if self.frozen:
            self.thaw()
        self.starting.wait()
        subprocess.run([RABBIT, "stop", self.folder])


class Silent:
    """An address that does not answer: its queue is full, so that the kernel drops what knocks."""

    def __init__(self, address, port):
        self.sockets = [socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) for _ in range(4)]
        listener, *fillers = self.sockets
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(0)
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex((address, port))

    def stop(self):
        for s in self.sockets:
            s.close()


class Proxy:
    def __init__(self, to, folder):
        self.log, file = os.path.join(folder, "proxy.log"), os.path.join(folder, "proxy.port")
        self.process = subprocess.Popen([os.path.join(HERE, "proxy"), "--to", str(to), "--port-file", file, "--log", self.log],
                                        stdin=subprocess.PIPE, text=True)
        wait("the proxy", lambda: os.path.exists(file))
        with open(file) as f:
            self.port = int(f.read())

    def count(self, word):
        """How often the word is the first one of a line of its log."""
        with open(self.log) as log:
            return sum(line.split(" ", 2)[1].strip() == word for line in log if line.endswith("\n"))

    def __call__(self, order):
        """Gives an order; it holds when this returns: at what time."""
        before = self.count("order")
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        wait("the proxy to obey", lambda: self.count("order") > before)
        return time.monotonic()

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()


class Script:
    """A workload script under mxrun, and what it has remembered so far."""

    def __init__(self, mxrun, url, script, name, folder, options=(), environment=None, **settings):
        self.name, self.history, self.settings = name, os.path.join(folder, name + ".history"), settings
        self.read, self.rest = 0, ""
        self.confirmed = self.delivered = 0.0           # when the last one was published that is confirmed; the last delivery
        self.failed = 0.0                               # when a publish last ended otherwise
        self.deliveries = self.waiting = 0              # how many; of what was published, not ended
        self.running = self.handled = 0                 # handlers that have begun, and ended
        self.events = []                                # (name, time, text)
        open(self.history, "w").close()
        self.errors = open(os.path.join(folder, name + ".err"), "w")
        urls = [part for u in ([url] if isinstance(url, str) else url) for part in ("-u", u)]
        given = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        self.process = subprocess.Popen([mxrun, *urls, *options, *given, os.path.join(HERE, script), name, self.history],
                                        stdout=self.errors, stderr=self.errors, stdin=subprocess.DEVNULL,
                                        env={**os.environ, **(environment or {})})
        self.process.stopped = False

    def look(self):
        """Reads on in its history."""
        with open(self.history) as file:
            file.seek(self.read)
            text = self.rest + file.read()
            self.read = file.tell()
        *lines, self.rest = text.split("\n")
        for line in lines:
            what, *words = line.split(" ", 3)
            if what == "published":
                self.waiting += 1
            elif what == "ended":
                self.waiting -= 1
                if words[1] == "confirmed":
                    self.confirmed = max(self.confirmed, float(words[2].split()[0]))
                else:
                    self.failed = float(words[2].split()[1])
            elif what == "delivered":
                self.deliveries, self.delivered = self.deliveries + 1, float(words[1])
            elif what == "handled":
                self.handled += 1
            elif what == "event":
                self.events.append((words[0], float(words[1]), " ".join(words[2:])))
        if self.process.poll() is not None and not self.process.stopped:
            raise Failure(f"{self.name} exited {self.process.returncode}: {self.said()}")
        return self

    def log(self):
        with open(self.errors.name) as file:            # not self.errors: the process writes where that stands
            return file.read()

    def said(self):
        return " / ".join(self.log().strip().splitlines()[-3:])

    def happened(self, event, since=0):
        """When the event was first seen from a time on; None: not yet."""
        return next((at for name, at, _ in self.look().events if name == event and at >= since), None)

    def times(self, event):
        return sum(name == event for name, _, _ in self.look().events)

    def peak(self):
        """The most memory that it has had, in MB."""
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) // 1024

    def is_sanitized(self):
        with open(f"/proc/{self.process.pid}/maps") as maps:
            return "libasan" in maps.read()

    def die(self):
        """kill -9; its history says so, and ends with a whole line."""
        self.process.stopped = True
        self.process.kill()
        self.process.wait()
        with open(self.history, "r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
            file.seek(0, os.SEEK_END)
            file.write(b"killed %.6f\n" % time.monotonic())
        return time.monotonic()

    def stop(self, seconds=PATIENCE, number=signal.SIGTERM):
        """Its exit code."""
        self.process.stopped = True
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name} did not end within {seconds} s of SIGTERM") from None

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.errors.close()
