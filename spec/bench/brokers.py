"""The brokers that benchmarks run against, each a process of its own on loopback; and how much memory a client took."""
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
RABBIT = os.path.join(HERE, "..", "rabbit")


def free_port():
    """A port that is free, as are the two that spec/rabbit derives from it."""
    for port in range(21000 + os.getpid() % 4000, 30000):
        try:
            for each in (port, port + 10000, port + 20000):
                with socket.socket() as s:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    s.bind(("127.0.0.1", each))
            return port
        except OSError:
            continue
    sys.exit("bench: no free port")


def accepts(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


class NullBroker:
    def __init__(self, build, size):
        self.port = free_port()
        self.process = subprocess.Popen([f"{build}/nullbroker", "-p", str(self.port), "-s", str(size)],
                                        stderr=subprocess.DEVNULL)
        while not accepts(self.port):
            if self.process.poll() is not None:
                sys.exit("bench: the null broker did not start")
            time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


class Rabbit:
    def __init__(self):
        self.port, self.dir = free_port(), tempfile.mkdtemp(prefix="mxrun-bench.")

    def __enter__(self):
        try:
            subprocess.run([RABBIT, "start", self.dir, str(self.port)], check=True)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        subprocess.run([RABBIT, "stop", self.dir])
        shutil.rmtree(self.dir, ignore_errors=True)

    def delete(self, queue):
        """queue.delete and the handshake around it: what is said, and the method that must answer."""
        def method(channel, class_id, method_id, args=b""):
            payload = struct.pack(">HH", class_id, method_id) + args
            return struct.pack(">BHI", 1, channel, len(payload)) + payload + b"\xce"

        def short(text):
            return bytes([len(text)]) + text

        def hear(stream):
            kind, _, size = struct.unpack(">BHI", stream.read(7))
            payload = stream.read(size + 1)
            return struct.unpack(">HH", payload[:4]) if kind == 1 else None

        login = b"\0guest\0guest"
        start_ok = bytes(4) + short(b"PLAIN") + struct.pack(">I", len(login)) + login + short(b"en_US")
        tune_ok = struct.pack(">HIH", 100, 131072, 0)
        with socket.create_connection(("127.0.0.1", self.port), 30) as s, s.makefile("rb") as stream:
            for said, answer in (
                (b"AMQP\0\0\x09\x01", (10, 10)),
                (method(0, 10, 11, start_ok), (10, 30)),
                (method(0, 10, 31, tune_ok) + method(0, 10, 40, short(b"/") + b"\0\0"), (10, 41)),
                (method(1, 20, 10, b"\0"), (20, 11)),
                (method(1, 50, 40, b"\0\0" + short(queue.encode()) + b"\0"), (50, 41)),
                (method(0, 10, 50, struct.pack(">H", 200) + b"\0" + bytes(4)), (10, 51)),
            ):
                s.sendall(said)
                heard = hear(stream)
                if heard != answer:
                    sys.exit(f"bench: deleting {queue}: the broker said {heard}, not {answer}")
        time.sleep(0.25)


def peak_mb(pid):
    try:
        with open(f"/proc/{pid}/status") as f:
            return max((int(line.split()[1]) / 1024 for line in f if line.startswith("VmHWM")), default=0)
    except (OSError, ValueError):
        return 0
