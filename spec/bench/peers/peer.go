// What mxrun is measured against, in Go: amqp091-go, the flags and the line of JSON of peer.c.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sort"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

var (
	port     = flag.Int("p", 5672, "port")
	size     = flag.Int("s", 64, "bytes of a body")
	seconds  = flag.Float64("t", 4, "seconds")
	count    = flag.Int("n", 0, "messages; 0: until the seconds are over")
	window   = flag.Int("w", 256, "unconfirmed messages")
	durable  = flag.Bool("P", false, "persistent")
	queue    = flag.String("q", "bench", "queue")
	prefetch = flag.Int("f", 256, "prefetch")
	perAck   = flag.Int("a", 1, "messages an ack; 0: no ack")
	rate     = flag.Int("r", 1000, "messages a second of lat")
)

func expect(err error, what string) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "peer: %s: %v\n", what, err)
		os.Exit(1)
	}
}

func isOver(start time.Time, n int) bool {
	if *count > 0 {
		return n >= *count
	}
	return n%64 == 0 && time.Since(start).Seconds() >= *seconds
}

func publish(ch *amqp.Channel) (int, time.Duration) {
	expect(ch.Confirm(false), "confirm.select")
	confirms := ch.NotifyPublish(make(chan amqp.Confirmation, *window))
	message := amqp.Publishing{Body: make([]byte, *size), DeliveryMode: amqp.Transient}
	if *durable {
		message.DeliveryMode = amqp.Persistent
	}
	sent, confirmed, start := 0, 0, time.Now()
	await := func(left int) {
		for ; sent-confirmed > left; confirmed++ {
			if !(<-confirms).Ack {
				expect(fmt.Errorf("refused"), "publish")
			}
		}
	}
	for ; !isOver(start, sent); sent++ {
		await(*window - 1)
		expect(ch.PublishWithContext(context.Background(), "", *queue, false, false, message), "publish")
	}
	await(0)
	return confirmed, time.Since(start)
}

func consume(ch *amqp.Channel) (int, time.Duration) {
	if *perAck > 0 {
		expect(ch.Qos(*prefetch, 0, false), "basic.qos")
	}
	deliveries, err := ch.Consume(*queue, "", *perAck == 0, false, false, false, nil)
	expect(err, "basic.consume")
	n, start := 0, time.Now()
	for d := range deliveries {
		n++
		if len(d.Body) != *size {
			expect(fmt.Errorf("%d bytes", len(d.Body)), "body")
		}
		if *perAck > 0 && n%*perAck == 0 {
			expect(d.Ack(*perAck > 1), "basic.ack")
		}
		if isOver(start, n) {
			break
		}
	}
	return n, time.Since(start)
}

// Steady sending, each publish with its confirm; a connection of its own consumes. Microseconds to the confirm and to here.
func latency(ch *amqp.Channel) (int, time.Duration) {
	want, began := int(*seconds*float64(*rate)), time.Now()
	expect(ch.Confirm(false), "confirm.select")
	confirms, consumer, arrived := ch.NotifyPublish(make(chan amqp.Confirmation, 1)), open(), make(chan bool)
	expect(consumer.Qos(*prefetch, 0, false), "basic.qos")
	deliveries, err := consumer.Consume(*queue, "", false, false, false, false, nil)
	expect(err, "basic.consume")
	confirmed, consumed := make([]float64, 0, want), make([]float64, 0, want)
	go func() {
		for d := range deliveries {
			consumed = append(consumed, float64(int64(time.Since(began))-int64(binary.LittleEndian.Uint64(d.Body)))/1e3)
			expect(d.Ack(false), "basic.ack")
			if len(consumed) == want {
				break
			}
		}
		arrived <- true
	}()
	time.Sleep(300 * time.Millisecond)
	body, start := make([]byte, *size), time.Now()
	for i := 0; i < want; i++ {
		time.Sleep(time.Until(start.Add(time.Duration(float64(i) * 1e9 / float64(*rate)))))
		sent := time.Since(began)
		binary.LittleEndian.PutUint64(body, uint64(sent))
		expect(ch.PublishWithContext(context.Background(), "", *queue, false, false, amqp.Publishing{Body: body, DeliveryMode: 1}), "publish")
		<-confirms
		confirmed = append(confirmed, float64(time.Since(began)-sent)/1e3)
	}
	<-arrived
	took := time.Since(start)
	quantiles("conf", confirmed)
	quantiles("cons", consumed)
	return len(consumed), took
}

func quantiles(name string, list []float64) {
	sort.Float64s(list)
	for key, q := range map[string]float64{"p50": 0.5, "p99": 0.99, "p999": 0.999} {
		result[name+"_"+key] = list[int(float64(len(list)-1)*q)]
	}
}

func cpu() float64 {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Sec+u.Stime.Sec)*1e6 + float64(u.Utime.Usec+u.Stime.Usec)
}

var result = map[string]interface{}{"client": "go", "rss_mb": 0}

func open() *amqp.Channel {
	conn, err := amqp.Dial(fmt.Sprintf("amqp://guest:guest@127.0.0.1:%d/", *port))
	expect(err, "connect")
	ch, err := conn.Channel()
	expect(err, "channel.open")
	return ch
}

func main() {
	mode := os.Args[1]
	expect(flag.CommandLine.Parse(os.Args[2:]), "flags")
	ch := open()
	_, err := ch.QueueDeclare(*queue, *durable, false, false, false, nil)
	expect(err, "queue.declare")
	before, run := cpu(), map[string]func(*amqp.Channel) (int, time.Duration){"pub": publish, "con": consume, "lat": latency}[mode]
	n, took := run(ch)
	result["mode"], result["size"], result["n"], result["secs"] = mode, *size, n, took.Seconds()
	result["rate"], result["cpu_us"] = float64(n)/took.Seconds(), (cpu()-before)/float64(n)
	json.NewEncoder(os.Stdout).Encode(result)
	os.Exit(0) // closing would take in all that is still on its way
}
