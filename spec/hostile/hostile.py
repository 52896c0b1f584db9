#!/usr/bin/python3
"""A hostile broker on loopback: what it sends ends in one logged disconnect, without a crash and without much memory.

  spec/hostile/hostile.py MXRUN      prints a line "ok - promise" or "not ok - promise" a case

The numbers H1 ... name the kinds of attack; H8 costs one message only, since RabbitMQ itself delivers such headers.
"""
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SECRET = "S3cr3tPassw0rd"
GROWTH_KB = 4096
METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8


def frame(kind, channel, payload, end=b"\xce"):
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + end


def method(channel, cls, number, arguments=b""):
    return frame(METHOD, channel, struct.pack(">HH", cls, number) + arguments)


def short(text):
    return bytes([len(text)]) + text


def blob(text):
    return struct.pack(">I", len(text)) + text


def deliver(tag, number=1):
    return method(1, 60, 60, short(tag) + struct.pack(">QB", number, 0) + short(b"") + short(b"q"))


def header(size, properties=b"\0\0"):
    return frame(HEADER, 1, struct.pack(">HHQ", 60, 0, size) + properties)


def headers(content):
    return b"\x20\0" + blob(content)


def message(tag, body, properties=b"\0\0", number=1):
    return deliver(tag, number) + header(len(body), properties) + (frame(BODY, 1, body) if body else b"")


def start(mechanisms=b"PLAIN AMQPLAIN", properties=b""):
    return method(0, 10, 10, b"\0\x09" + blob(properties) + blob(mechanisms) + blob(b"en_US"))


def tune(channel_max=2047, frame_max=131072, heartbeat=60):
    return method(0, 10, 30, struct.pack(">HIH", channel_max, frame_max, heartbeat))


def nested(depth):
    content = b""
    for _ in range(depth):
        content = b"A" + blob(content)
    return b"\1k" + content


class Case:
    """What a broker does: fields that are None mean as it should be."""

    def __init__(self, name, expected, attack=None, greeting=None, tuning=None, confirm=None, what="consume", stays=False, said=None):
        self.name, self.expected, self.attack, self.greeting = name, expected, attack, greeting
        self.tuning, self.confirm, self.what, self.stays, self.said = tuning, confirm, what, stays, said


class Broker:
    def __init__(self, case):
        self.case, self.attacked, self.hung_up, self.ready = case, threading.Event(), threading.Event(), threading.Event()
        self.pid = self.before = self.peak = 0
        self.silent, self.tags = None, {}       # the channel on which nothing is confirmed; what was published on each
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def attack(self):
        if not self.attacked.is_set():
            self.before = memory(self.pid, "VmHWM")
            self.attacked.set()

    def serve(self, peer):
        first = not self.attacked.is_set()
        try:
            self.talk(peer, first)
        except OSError:
            pass
        if first and self.attacked.is_set():
            self.hung_up.set()
        peer.close()

    def talk(self, peer, first):
        peer.recv(8)
        if self.case.greeting:
            self.attack()
            for piece in self.case.greeting():
                if piece is None:
                    time.sleep(0.2)
                else:
                    peer.sendall(piece)
        else:
            peer.sendall(start())
        pending = b""
        while True:
            data = peer.recv(65536)
            if not data:
                return
            pending += data
            while len(pending) >= 7:
                kind, channel, size = struct.unpack_from(">BHI", pending)
                if len(pending) < size + 8:
                    break
                payload, pending = pending[7:7 + size], pending[8 + size:]
                if kind == METHOD:
                    self.answer(peer, channel, struct.unpack_from(">HH", payload), payload[4:], first)

    def answer(self, peer, channel, what, arguments, first):
        case = self.case
        replies = {(10, 40): (10, 41, b"\0"), (20, 10): (20, 11, b"\0\0\0\0"), (60, 10): (60, 11, b""), (85, 10): (85, 11, b"\0"),
                   (20, 40): (20, 41, b""), (10, 50): (10, 51, b"")}
        if what == (10, 11):
            if case.tuning:
                self.attack()
            peer.sendall(tune(*case.tuning) if case.tuning else tune())
        elif what == (60, 20):
            tag = arguments[3 + arguments[2]:][1:1 + arguments[3 + arguments[2]]]
            peer.sendall(method(channel, 60, 21, short(tag)))
            if case.attack and first:
                self.ready.wait(10)
                self.attack()
                for piece in case.attack(tag):
                    peer.sendall(piece)
        elif what == (60, 40) and case.confirm and first and not self.attacked.is_set():
            self.attack()
            peer.sendall(b"".join(case.confirm(channel)))
        elif what == (60, 40) and case.what == "silence":
            self.attack()
            self.silent = self.silent or channel
            self.tags[channel] = self.tags.get(channel, 0) + 1
            if channel != self.silent:
                peer.sendall(method(channel, 60, 80, struct.pack(">QB", self.tags[channel], 0)))
        elif what == (60, 30):
            peer.sendall(method(channel, 60, 31, arguments[:1 + arguments[0]]))
        elif what in replies:
            cls, number, rest = replies[what]
            peer.sendall(method(channel, cls, number, rest))


def memory(pid, key):
    try:
        with open("/proc/%d/status" % pid) as status:
            return int(re.search(key + r":\s+(\d+)", status.read()).group(1))
    except (OSError, AttributeError):
        return 0


def watch(process, broker, done):
    """How far the memory rises above what it was before the attack."""
    while not done.is_set():
        if broker.attacked.is_set():
            broker.peak = max(broker.peak, memory(process.pid, "VmHWM"))
        time.sleep(0.001)


def end(process):
    """Its exit code: 0 or above when it ended by itself or was told to."""
    for how in signal.SIGTERM, signal.SIGTERM, signal.SIGKILL:
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                pass
    return process.returncode


def outcome(case, broker, out, err, code, peak, sanitized):
    """What is wrong, or nothing."""
    disconnects = len(re.findall(LOST, err))
    if "Sanitizer" in err or "runtime error:" in err:
        return "the sanitizer speaks: " + err
    if code < 0 and code not in (-signal.SIGTERM, -signal.SIGKILL):             # those are ours
        return "it died by signal %d: %s" % (-code, err)
    if SECRET in err + out:
        return "the password is shown"
    if re.search("[\x00-\x09\x0b-\x1f]", err):
        return "control characters are shown: %r" % err
    if not case.stays and (not broker.hung_up.is_set() or disconnects != 1):
        return "%d disconnects logged, hung up: %s: %s" % (disconnects, broker.hung_up.is_set(), err)
    if case.stays and disconnects:
        return "it did not stay: " + err
    if case.expected and not re.search(case.expected, err):
        return "it did not say %r: %s" % (case.expected, err)
    if case.said and not re.search(case.said, out):
        return "the script did not say %r: %s" % (case.said, out[-300:])
    if peak > GROWTH_KB and not sanitized:
        return "memory grew by %d KB" % peak


LOST = "connection lost|cannot connect|disconnected|reconnecting"


def until(process, seconds, happened):
    deadline = time.time() + seconds
    while time.time() < deadline and process.poll() is None and not happened():
        time.sleep(0.01)


def run(mxrun, case, sanitized):
    broker, done = Broker(case), threading.Event()
    url = "amqp://guest:%s@127.0.0.1:%d" % (SECRET, broker.port)
    with tempfile.NamedTemporaryFile("w+") as out, tempfile.NamedTemporaryFile("w+") as err:
        def said(pattern, file):
            with open(file.name, errors="replace") as text:
                return re.search(pattern, text.read())
        process = subprocess.Popen([mxrun, os.path.join(HERE, "victim.lua"), url, case.what], stdout=out, stderr=err)
        broker.pid = process.pid
        threading.Thread(target=watch, args=(process, broker, done), daemon=True).start()
        if case.attack:
            until(process, 30, lambda: said("ready", out))
            broker.ready.set()
        if case.stays:
            until(process, 30, lambda: said(case.said, out))
        else:
            broker.hung_up.wait(30)
            until(process, 10, lambda: said(LOST, err))
        code = end(process)
        done.set()
        broker.listener.close()
        with open(out.name, errors="replace") as o, open(err.name, errors="replace") as e:
            return outcome(case, broker, o.read(), e.read(), code, broker.peak - broker.before, sanitized)


def raw(*pieces):
    return lambda tag: pieces


def after_deliver(*pieces):
    return lambda tag: (deliver(tag),) + pieces


def with_headers(content):
    return lambda tag: (message(tag, b"x", headers(content)),)


def and_then(properties, body=b"next"):
    return lambda tag: (message(tag, b"bad", properties), message(tag, body, number=2))


def confirms(*pairs):
    return lambda channel: [method(channel, 60, number, struct.pack(">QB", tag, 0)) for number, tag in pairs]


def forever(first, piece):
    def pieces():
        yield first
        while True:
            yield piece
            yield None
    return pieces


def one_by_one(data):
    def pieces():
        for i in range(len(data)):
            yield data[i:i + 1]
            yield None
    return pieces


def once(*pieces):
    return lambda: pieces


CLOSE = b"\x01\x40" + short(b"bye \x1b[31m" + SECRET.encode() + b"\r\n\x00") + b"\0\0\0\0"

CASES = [
    Case("H1 a frame of 4 GiB", "frame larger than negotiated", raw(struct.pack(">BHI", METHOD, 1, 2**32 - 1))),
    Case("H2 a body frame above frame_max", "frame larger than negotiated", after_deliver(header(200000), frame(BODY, 1, b"x" * 131065))),
    Case("H3 a body of 2^63 bytes", "a body of impossible size", after_deliver(header(2**63))),
    Case("H3 a body of 2^64-1 bytes", "a body of impossible size", after_deliver(header(2**64 - 1))),
    Case("H4 more body than announced", "body larger than announced", after_deliver(header(3), frame(BODY, 1, b"xxxx"))),
    Case("H5 a header without its method", "header without its method", raw(header(1))),
    Case("H5 a body without its header", "body without its header", after_deliver(frame(BODY, 1, b"x"))),
    Case("H6 a channel that is not open", "a channel that is not open", raw(*[method(n, 20, 11, b"\0\0\0\0") for n in range(65535, 60000, -1)])),
    Case("H9 a header that overruns its table", "broken properties", with_headers(b"\1kS\0\0\0\x09")),
    Case("H10 a string of 4 GiB in a header", "broken properties", with_headers(b"\1kS\xff\xff\xff\xff")),
    Case("H10 bytes of 4 GiB in a header", "broken properties", with_headers(b"\1kx\xff\xff\xff\xff")),
    Case("H11 a frame_max of 1", "frames below 4096", tuning=(2047, 1, 60)),
    Case("H11 a frame_max of 4095", "frames below 4096", tuning=(2047, 4095, 60)),
    Case("H11 no limits and a heartbeat of 65535", None, tuning=(0, 0, 65535), attack=lambda tag: (message(tag, b"fine"),), stays=True,
         said="got\tfine"),
    Case("H12 an ack of what was never published", "a confirm for what was not published", confirm=confirms((80, 99)),
         what="publish"),
    Case("H12 an ack given twice", "a confirm for what was not published", confirm=confirms((80, 1), (80, 1)), what="publish"),
    Case("a channel on which nothing is confirmed any more", None, what="silence", stays=True, said="got\ttrue"),
    Case("H13 a wrong end octet, then a megabyte", "wrong end octet", raw(frame(METHOD, 1, b"\0\x14\0\x0b\0\0\0\0", b"B") + b"A" * 2**20)),
    Case("H14 a second word of property flags", "broken properties", after_deliver(header(1, b"\0\1\0\0"))),
    Case("H15 heartbeats for ever instead of a greeting", "cannot connect", greeting=forever(b"", frame(HEARTBEAT, 0, b""))),
    Case("H15 heartbeats for ever after the greeting", "cannot connect",
         greeting=forever(start(), frame(HEARTBEAT, 0, b"")), tuning=None),
    Case("H17 connection.secure", "unexpected method", raw(method(0, 10, 20, blob(b"?")))),
    Case("H17 connection.redirect", "decode a method|unexpected method", raw(method(0, 10, 42, short(b"h") + short(b"k")))),
    Case("H17 a method that does not exist", "decode a method", raw(method(1, 60, 999))),
    Case("H17 a class that does not exist", "decode a method", raw(method(1, 999, 1))),
    Case("H17 connection.tune once more", "unexpected method", raw(tune())),
    Case("H18 no mechanism of ours", "does not offer PLAIN", greeting=once(start(b"EXTERNAL PLAINER"))),
    Case("H19 control characters and the password in a reply text", r"bye \?\[31m\*+", raw(method(0, 10, 50, CLOSE))),
    Case("H20 a greeting of 5 bytes a second", "cannot connect", greeting=one_by_one(start() * 10)),
    Case("nested server properties", "broken table", greeting=once(start(properties=nested(5000)))),
    Case("another version of AMQP", "another version", greeting=once(b"AMQP\0\0\x0a\0")),
    Case("HTTP instead of AMQP", "unknown frame type|larger than negotiated", greeting=once(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
    Case("H8 headers nested 26,000 deep cost one message", "nested deeper than 32", and_then(headers(nested(26000))), stays=True, said="got\tnext"),
    Case("headers of an unknown type cost one message", "unknown type", and_then(headers(b"\1k?abc")), stays=True, said="got\tnext"),
    Case("a NaN of any bits is a number", None, lambda tag: (message(tag, b"nan", headers(b"\1kd" + b"\xff" * 8)),), stays=True,
         said="got\tnan\t3\t-?nan"),
    Case("H16 a million heartbeats do not stop the timers", None, lambda tag: [frame(HEARTBEAT, 0, b"") * 1000] * 1000 + [message(tag, b"end")],
         what="flood", stays=True, said=r"(?s)tick.*got\tend.*(tick.*){5}"),
]
CASES += [Case("H7 a method frame of %d bytes" % n, "method frame too short", raw(frame(METHOD, 1, b"\0" * n))) for n in (0, 3)]
CASES += [Case("H7 a header frame of %d bytes" % n, "header frame too short", after_deliver(frame(HEADER, 1, b"\0" * n))) for n in (0, 13)]


def main():
    mxrun = sys.argv[1]
    with open(mxrun, "rb") as binary:
        sanitized = b"__asan_init" in binary.read()
    failed, lock, queue = [], threading.Lock(), list(CASES)

    def work():
        while True:
            with lock:
                if not queue:
                    return
                case = queue.pop(0)
            wrong = run(mxrun, case, sanitized)
            with lock:
                print(("not ok" if wrong else "ok") + " - hostile: " + case.name + (": " + wrong if wrong else ""), flush=True)
                failed.append(case) if wrong else None
    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    sys.exit(1 if failed else 0)


main()
