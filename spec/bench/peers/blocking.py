#!/usr/bin/python3
"""What mxrun is measured against, in Python: pika's BlockingConnection, the flags and the line of JSON of peer.c.

A publish of BlockingConnection returns with its confirm, so that -w is 1 whatever is asked for."""
import getopt
import json
import os
import resource
import struct
import subprocess
import sys
import time

import pika

mode = sys.argv[1]
given = dict(getopt.getopt(sys.argv[2:], "p:s:t:n:w:Pq:f:a:r:")[0])
port, size, seconds, count = int(given.get("-p", 5672)), int(given.get("-s", 64)), float(given.get("-t", 4)), int(given.get("-n", 0))
queue, prefetch, per_ack, durable = given.get("-q", "bench"), int(given.get("-f", 256)), int(given.get("-a", 1)), "-P" in given


def is_over(start, n):
    return n >= count if count else n % 16 == 0 and time.monotonic() - start >= seconds


def publish(channel):
    channel.confirm_delivery()
    body, properties, n, start = b"x" * size, pika.BasicProperties(delivery_mode=2 if durable else 1), 0, time.monotonic()
    while not is_over(start, n):
        channel.basic_publish("", queue, body, properties)
        n += 1
    return n, time.monotonic() - start


def consume(channel):
    if per_ack:
        channel.basic_qos(prefetch_count=prefetch)
    n, start = 0, time.monotonic()
    for method, _, body in channel.consume(queue, auto_ack=per_ack == 0, inactivity_timeout=5):
        if method is None:
            break
        n += 1
        assert len(body) == size
        if per_ack and n % per_ack == 0:
            channel.basic_ack(method.delivery_tag, multiple=per_ack > 1)
        if is_over(start, n):
            break
    return n, time.monotonic() - start


def quantiles(name, took):
    took.sort()
    return {f"{name}_{key}": took[int((len(took) - 1) * q)] for key, q in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999))}


def consume_stamps(channel):
    """What the second process of lat does: microseconds from the stamp in a body to here."""
    channel.basic_qos(prefetch_count=prefetch)
    took = []
    for method, _, body in channel.consume(queue, inactivity_timeout=5):
        if method is None:
            break
        took.append((time.monotonic_ns() - struct.unpack_from("<q", body)[0]) / 1e3)
        channel.basic_ack(method.delivery_tag)
        if len(took) == want:
            break
    print(json.dumps({"n": len(took), **quantiles("cons", took)}), flush=True)
    os._exit(0)


def latency(channel):
    channel.confirm_delivery()
    other = subprocess.Popen([sys.executable, __file__, "stamps", *sys.argv[2:]], stdout=subprocess.PIPE, text=True)
    time.sleep(1)
    took, properties, start = [], pika.BasicProperties(delivery_mode=1), time.monotonic()
    for i in range(want):
        left = start + i / rate - time.monotonic()
        if left > 0:
            time.sleep(left)
        sent = time.monotonic_ns()
        channel.basic_publish("", queue, struct.pack("<q", sent).ljust(size, b"x"), properties)
        took.append((time.monotonic_ns() - sent) / 1e3)
    said = json.loads(other.communicate()[0])
    more.update(quantiles("conf", took), **{k: v for k, v in said.items() if k != "n"})
    return said["n"], time.monotonic() - start


more, rate = {}, int(given.get("-r", 1000))
want = int(seconds * rate)
connection = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port, heartbeat=0))
ch = connection.channel()
ch.queue_declare(queue, durable=durable)
before = resource.getrusage(resource.RUSAGE_SELF)
done, took = {"pub": publish, "con": consume, "lat": latency, "stamps": consume_stamps}[mode](ch)
after = resource.getrusage(resource.RUSAGE_SELF)
cpu = (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1e6 / max(done, 1)
print(json.dumps({"client": "pika", "mode": mode, "size": size, "n": done, "secs": took, "rate": done / took, "cpu_us": cpu,
                  "rss_mb": after.ru_maxrss / 1024, **more}), flush=True)
os._exit(0)  # closing would take in all that is still on its way
