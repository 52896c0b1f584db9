#!/usr/bin/python3
"""mxrun and pika, byte for byte: what pika sends to mxrun, and mxrun sends back to pika.

  spec/interop/interop.py MXRUN URL      prints a line "ok - promise" or "not ok - promise" a promise
"""
import datetime
import decimal
import json
import struct
import subprocess
import sys
import os
import time

import pika
from pika import data

HERE = os.path.dirname(os.path.abspath(__file__))
FIXED = {b"t": 1, b"b": 1, b"B": 1, b"s": 2, b"u": 2, b"I": 4, b"i": 4, b"l": 8, b"L": 8, b"f": 4, b"d": 8, b"D": 5, b"T": 8, b"V": 0}
EDGE = 131072 - 8


class Raw(dict):
    """Headers as bytes: pika cannot write all types, and reads some of them wrongly."""
    raw = b""


def raw(content):
    table = Raw()
    table.raw = content
    return table


plain_encode, plain_decode = data.encode_table, data.decode_table


def encode_table(pieces, table):
    if not isinstance(table, Raw):
        return plain_encode(pieces, table)
    pieces.append(struct.pack(">I", len(table.raw)) + table.raw)
    return 4 + len(table.raw)


def decode_table(encoded, offset):
    size = struct.unpack_from(">I", encoded, offset)[0]
    table, end = raw(encoded[offset + 4:offset + 4 + size]), offset + 4 + size
    try:
        table.update(plain_decode(encoded, offset)[0])
    except (struct.error, OverflowError, ValueError):
        pass
    return table, end


data.encode_table, data.decode_table = encode_table, decode_table


def in_order(s, named=True):
    """The same table with its keys in order."""
    entries, i = [], 0
    while i < len(s):
        start = i
        i += 1 + s[i] if named else 0
        letter, i = s[i:i + 1], i + 1
        head, size = s[start:i], FIXED.get(letter)
        if size is None:
            size, i = struct.unpack_from(">I", s, i)[0], i + 4
            value = s[i:i + size]
            if letter in b"FA":
                value = in_order(value, letter == b"F")
            value = struct.pack(">I", len(value)) + value
        else:
            value = s[i:i + size]
        entries.append(head + value)
        i += size
    return b"".join(sorted(entries) if named else entries)


def entry(key, letter, value):
    return bytes([len(key)]) + key.encode() + letter.encode() + value


def blob(b):
    return struct.pack(">I", len(b)) + b


EVERY_TYPE = b"".join([
    entry("t", "t", b"\1"), entry("b", "b", b"\x80"), entry("B", "B", b"\xff"), entry("s", "s", b"\x80\0"), entry("u", "u", b"\xff\xff"),
    entry("I", "I", b"\x80\0\0\0"), entry("i", "i", b"\xff" * 4), entry("l", "l", b"\x80" + b"\0" * 7), entry("L", "L", b"\0" * 7 + b"\5"),
    entry("f", "f", struct.pack(">f", 1.5)), entry("d", "d", struct.pack(">d", 0.1)), entry("d3", "d", struct.pack(">d", 3)),
    entry("D", "D", b"\2" + struct.pack(">i", 150)), entry("S", "S", blob("grün".encode())), entry("T", "T", struct.pack(">Q", 1700000000)),
    entry("A", "A", blob(b"t\0V" + b"S" + blob(b"x") + b"A" + blob(b"") + b"F" + blob(b""))),
    entry("F", "F", blob(entry("deep", "F", blob(entry("s", "s", b"\0\1"))))), entry("V", "V", b""), entry("x", "x", blob(b"\xff\0"))])
AS_READ = {"t": True, "b": -128, "B": 255, "s": -32768, "u": 65535, "I": -2**31, "i": 2**32 - 1, "l": -2**63, "L": 5, "f": 1.5, "d": 0.1,
           "d3": 3, "D": ["decimal", "1.50"], "S": "grün", "T": ["timestamp", "1700000000"], "A": [False, None, "x", [], {}],
           "F": {"deep": {"s": 1}}, "V": None, "x": ["bytes", 2]}
PROPERTIES = {"content_type": "text/plain", "content_encoding": "gzip", "delivery_mode": 2, "priority": 255, "correlation_id": "c" * 255,
              "reply_to": "r", "expiration": "600001", "message_id": "i", "timestamp": 2**53 + 1, "type": "t", "user_id": "guest",
              "app_id": "ä"}


class Peer:
    def __init__(self, mxrun, url):
        connection = pika.BlockingConnection(pika.URLParameters(url + "?blocked_connection_timeout=60"))
        self.channel = connection.channel()
        letters = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "interop.in.dlq"}
        for queue, arguments in ("interop.in", letters), ("interop.in.dlq", None), ("interop.out", None):
            self.channel.queue_delete(queue)
            self.channel.queue_declare(queue, arguments=arguments)
        self.channel.confirm_delivery()
        self.process = subprocess.Popen([mxrun, "-u", url, os.path.join(HERE, "echo.lua")])
        self.failed = 0

    def send(self, body=b"", **properties):
        self.channel.basic_publish("", "interop.in", body, pika.BasicProperties(**properties))

    def echo(self, body=b"", **properties):
        self.send(body, **properties)
        for method, back, text in self.channel.consume("interop.out", auto_ack=True, inactivity_timeout=30):
            if method is None:
                raise AssertionError("nothing came back")
            return back, text

    def get(self, queue):
        for _ in range(1000):
            _, properties, _ = self.channel.basic_get(queue, auto_ack=True)
            if properties:
                return properties
            time.sleep(0.01)

    def case(self, name, ok, detail=""):
        self.failed += not ok
        print(("ok - " if ok else "not ok - ") + name + ("" if ok else ": %r" % (detail,)), flush=True)

    def stop(self):
        self.send(type="stop")
        self.case("interop: mxrun ends well", self.process.wait(60) == 0)


def run(p):
    back, text = p.echo(headers=raw(EVERY_TYPE), type="read")
    p.case("interop: all field types are read", json.loads(text) == AS_READ, text)
    p.case("interop: all field types come back byte for byte", in_order(back.headers.raw) == in_order(EVERY_TYPE), back.headers.raw)

    native = {"s": "text", "x": b"\xff", "t": True, "I": 7, "l": 2**40, "D": decimal.Decimal("1.25"),
              "T": datetime.datetime(2023, 11, 14, 22, 13, 20), "F": {"a": [1, None, {"b": False}]}}
    pieces = []
    plain_encode(pieces, native)
    sent = b"".join(pieces)[4:]
    back, _ = p.echo(headers=native)
    p.case("interop: what pika writes comes back byte for byte", in_order(back.headers.raw) == in_order(sent), back.headers.raw)

    back, _ = p.echo(type="write")
    expected = {"yes": True, "no": False, "int": 7, "big": 2**53 + 1, "double": 0, "text": "grün", "bytes": b"\xff\0",
                "time": datetime.datetime(2023, 11, 14, 22, 13, 20), "decimal": decimal.Decimal("-1.50"), "void": None,
                "list": [1, "two", {}], "table": {"deep": {"x": 1}}, "int16": -300, "uint16": 65535, "int32": -5, "uint32": 2**32 - 1,
                "empty": []}                                  # double: pika cuts the fraction off
    p.case("interop: pika reads what a script writes", dict(back.headers) == expected, dict(back.headers))

    back, _ = p.echo(b"x", **PROPERTIES)
    got = {name: getattr(back, name) for name in PROPERTIES}
    p.case("interop: all properties come back as they went", got == PROPERTIES, got)
    back, _ = p.echo(b"x", message_id="only", delivery_mode=1)
    rest = {k: v for k, v in vars(back).items() if v is not None and k not in ("message_id", "delivery_mode")}
    p.case("interop: a property that was not there is not invented", not any(rest.values()), rest)

    deep = b""
    for _ in range(100):
        deep = b"A" + blob(deep)
    p.send(headers=raw(entry("deep", "A", blob(deep))))              # refused; the next one is well
    p.send(headers=raw(b"".join(entry("", "V", b"") for _ in range(5000))))
    _, text = p.echo(b"after")
    p.case("interop: headers beyond our limits cost one message, not the connection", text == b"after", text)
    dead = p.get("interop.in.dlq")
    p.case("interop: they reach the dead-letter queue as they were", dead and entry("deep", "A", blob(deep)) in dead.headers.raw, dead)

    for size in 0, 1, EDGE - 1, EDGE, EDGE + 1, 2 * EDGE, 2**20, 2**24:
        body = (b"\0\1\2\xcea" * (size // 5 + 1))[:size]
        _, text = p.echo(body)
        p.case("interop: a body of %d bytes" % size, text == body, len(text))


def main():
    p = Peer(*sys.argv[1:3])
    try:
        run(p)
        p.stop()
    finally:
        p.process.kill()
    sys.exit(1 if p.failed else 0)


main()
