#!/usr/bin/python3
"""The order pipeline on real input: pika publishes JSON orders, mxrun's examples/orders.lua handles them, pika checks.

  spec/bench/orders.py [--mxrun build/mxrun] [-n 200000]

Starts a private RabbitMQ, and expects: every good order is an invoice exactly once, every bad one is in orders.dlq with
its reason, nothing is left anywhere else, and mxrun exits 0 on SIGTERM."""
import argparse, json, random, signal, subprocess, sys, tempfile, time
import pika

PORT = 21777


def connect():
    c = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", PORT, heartbeat=0))
    return c, c.channel()


def orders(count):
    """(body, reason or None) for each order; the seed makes every run the same."""
    rnd = random.Random(42)
    for i in range(1, count + 1):
        kind = rnd.random()
        good = {"id": i, "total": round(rnd.uniform(1, 999), 2), "country": rnd.choice(["PL", "DE", "FR"]), "items": []}
        if kind < 0.97:
            yield json.dumps(good), None
        elif kind < 0.98:
            yield json.dumps(dict(good, total=-1)), "negative total"
        elif kind < 0.99:
            yield '{"id": %d, "total": ' % i, "serialization"
        else:
            yield json.dumps({"id": i}), "no total"


def drain(ch, queue):
    got = []
    for method, props, body in ch.consume(queue, auto_ack=True, inactivity_timeout=1):
        if method is None:
            break
        got.append((props, body))
    ch.cancel()
    return got


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--mxrun", default="build/mxrun")
    a.add_argument("-n", type=int, default=200000)
    o = a.parse_args()
    data = tempfile.mkdtemp(prefix="mxrun-orders.")
    subprocess.run(["spec/rabbit", "start", data, str(PORT)], check=True)
    try:
        return pipeline(o)
    finally:
        subprocess.run(["spec/rabbit", "stop", data])
        subprocess.run(["rm", "-rf", data])


def pipeline(o):
    run = subprocess.Popen([o.mxrun, "-u", f"amqp://guest:guest@127.0.0.1:{PORT}", "--log-level", "error", "examples/orders.lua"],
                           stderr=subprocess.DEVNULL)
    time.sleep(1)
    c, ch = connect()
    expected = list(orders(o.n))
    start = time.time()
    props = pika.BasicProperties(content_type="application/json", delivery_mode=2)
    for body, _ in expected:
        ch.basic_publish("", "orders", body, props)
    published = time.time() - start
    bad = [i for i, (_, reason) in enumerate(expected, 1) if reason]
    due = time.time() + 300
    while time.time() < due:
        done = sum(ch.queue_declare(q, passive=True).method.message_count for q in ("invoices", "orders.dlq"))
        if done >= o.n:
            break
        time.sleep(0.2)
    took = time.time() - start
    run.send_signal(signal.SIGTERM)
    code = run.wait(30)
    problems = []
    if code != 0:
        problems.append(f"mxrun exited {code}")
    left = ch.queue_declare("orders", passive=True).method.message_count
    if left:
        problems.append(f"{left} messages left in orders")
    ids = [json.loads(body)["id"] for _, body in drain(ch, "invoices")]
    good = [i for i, (_, reason) in enumerate(expected, 1) if not reason]
    if sorted(ids) != good:
        problems.append(f"invoices: {len(ids)} of {len(good)}, {len(ids) - len(set(ids))} twice, {len(set(good) - set(ids))} missing")
    dead = drain(ch, "orders.dlq")
    reasons = sorted(str(p.headers.get("x-mx-error")) for p, _ in dead)
    wanted = {}
    for _, reason in expected:
        if reason:
            wanted[reason] = wanted.get(reason, 0) + 1
    seen = {}
    for r in reasons:
        key = r if r in wanted else "serialization"
        seen[key] = seen.get(key, 0) + 1
    if seen != wanted:
        problems.append(f"dead letters: {seen}, expected {wanted}")
    c.close()
    for p in problems:
        print("FAILED:", p)
    print(f"{o.n} orders, {len(ids)} invoices, {len(dead)} dead letters of {len(bad)}, published in {published:.1f} s, done in {took:.1f} s, exit {code}")
    return 1 if problems else 0


sys.exit(main())
