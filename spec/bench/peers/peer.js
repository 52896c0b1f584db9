// What mxrun is measured against, in JavaScript: amqplib, the flags and the line of JSON of peer.c.
"use strict";
const amqp = require("amqplib");

const opt = { p: 5672, s: 64, t: 4, n: 0, w: 256, P: false, q: "bench", f: 256, a: 1, r: 1000 };
const mode = process.argv[2];
for (let i = 3; i < process.argv.length; i++) {
  const name = process.argv[i].slice(1);
  opt[name] = name === "P" ? true : name === "q" ? process.argv[++i] : Number(process.argv[++i]);
}

const now = () => Number(process.hrtime.bigint()) / 1e9;
const isOver = (start, n) => opt.n ? n >= opt.n : n % 64 === 0 && now() - start >= opt.t;

function publish(channel) {
  return new Promise((resolve, reject) => {
    const body = Buffer.alloc(opt.s, "x"), properties = { deliveryMode: opt.P ? 2 : 1 }, start = now();
    let sent = 0, confirmed = 0, over = false, filling = false;
    const fill = () => {
      filling = false;
      while (!over && sent - confirmed < opt.w && !(over = isOver(start, sent))) {
        channel.publish("", opt.q, body, properties, onConfirm);
        sent++;
      }
      if (over && confirmed === sent) resolve([confirmed, now() - start]);
    };
    const onConfirm = error => {
      if (error) return reject(error);
      confirmed++;
      if (!filling) process.nextTick(fill);
      filling = true;
    };
    fill();
  });
}

function consume(channel) {
  return new Promise(async resolve => {
    if (opt.a) await channel.prefetch(opt.f);
    const start = now();
    let n = 0, over = false;
    await channel.consume(opt.q, message => {
      if (over) return;
      n++;
      if (message.content.length !== opt.s) throw new Error("bodies were not of " + opt.s + " bytes");
      if (opt.a && n % opt.a === 0) channel.ack(message, opt.a > 1);
      if ((over = isOver(start, n))) resolve([n, now() - start]);
    }, { noAck: opt.a === 0 });
  });
}

// Steady sending by a timer; a connection of its own consumes. Microseconds to the confirm and to here.
async function latency(channel) {
  const want = Math.floor(opt.t * opt.r), confirmed = [], consumed = [], consumer = await (await connect()).createChannel();
  await consumer.prefetch(opt.f);
  let sent = 0, start, done;
  const over = new Promise(resolve => { done = () => consumed.length === want && confirmed.length === want && resolve(); });
  await consumer.consume(opt.q, message => {
    consumed.push(1e6 * (now() - message.content.readDoubleLE(0)));
    consumer.ack(message);
    done();
  });
  const send = () => {
    for (; sent < want && now() - start >= sent / opt.r; sent++) {
      const body = Buffer.alloc(opt.s), at = now();
      body.writeDoubleLE(at, 0);
      channel.publish("", opt.q, body, { deliveryMode: 1 }, error => {
        if (error) throw error;
        confirmed.push(1e6 * (now() - at));
        done();
      });
    }
    if (sent < want) setTimeout(send, 1);
  };
  await new Promise(resolve => setTimeout(resolve, 300));
  start = now();
  send();
  await over;
  const secs = now() - start;
  for (const [name, list] of [["conf", confirmed], ["cons", consumed]]) {
    list.sort((a, b) => a - b);
    for (const [key, q] of [["p50", 0.5], ["p99", 0.99], ["p999", 0.999]]) more[name + "_" + key] = list[Math.floor((list.length - 1) * q)];
  }
  return [consumed.length, secs];
}

const more = {};
const connect = () => amqp.connect({ hostname: "127.0.0.1", port: opt.p, username: "guest", password: "guest" }, { noDelay: true });
(async () => {
  const conn = await connect();
  const channel = await (mode !== "con" ? conn.createConfirmChannel() : conn.createChannel());
  await channel.assertQueue(opt.q, { durable: opt.P });
  const before = process.cpuUsage(), [n, secs] = await { pub: publish, con: consume, lat: latency }[mode](channel);
  const cpu = process.cpuUsage(before), cpu_us = (cpu.user + cpu.system) / n;
  console.log(JSON.stringify({ client: "amqplib", mode, size: opt.s, n, secs, rate: n / secs, cpu_us, rss_mb: 0, ...more }));
  process.exit(0); // closing would take in all that is still on its way
})().catch(e => { console.error("peer:", e.message); process.exit(1); });
