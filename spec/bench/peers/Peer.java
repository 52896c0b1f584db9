// What mxrun is measured against, in Java: RabbitMQ's own client, the flags and the line of JSON of peer.c.
import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.ConfirmListener;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.DefaultConsumer;
import com.rabbitmq.client.Envelope;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.Locale;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.LockSupport;

public class Peer {
    static int port = 5672, size = 64, count = 0, window = 256, prefetch = 256, perAck = 1, rate = 1000;
    static double seconds = 4;
    static boolean durable = false;
    static String queue = "bench", more = "";
    static ConnectionFactory factory = new ConnectionFactory();
    static long done, start, nanos;

    static void parse(String[] args) {
        for (int i = 1; i < args.length; i++) {
            switch (args[i]) {
            case "-P": durable = true; break;
            case "-p": port = Integer.parseInt(args[++i]); break;
            case "-s": size = Integer.parseInt(args[++i]); break;
            case "-t": seconds = Double.parseDouble(args[++i]); break;
            case "-n": count = Integer.parseInt(args[++i]); break;
            case "-w": window = Integer.parseInt(args[++i]); break;
            case "-q": queue = args[++i]; break;
            case "-f": prefetch = Integer.parseInt(args[++i]); break;
            case "-a": perAck = Integer.parseInt(args[++i]); break;
            case "-r": rate = Integer.parseInt(args[++i]); break;
            default: throw new IllegalArgumentException(args[i]);
            }
        }
    }

    static boolean isOver(long n) {
        return count > 0 ? n >= count : n % 64 == 0 && System.nanoTime() - start >= seconds * 1e9;
    }

    /** Confirms come in any order and shape: tags below from are confirmed, beyond it the set ones. */
    static class Confirms implements ConfirmListener {
        final Semaphore free = new Semaphore(window);
        final boolean[] isSet = new boolean[1 << 20];
        long from = 1;

        public void handleAck(long tag, boolean multiple) {
            int fresh = 0;
            for (long t = multiple ? from : tag; t <= tag; t++) {
                int place = (int) (t % isSet.length);
                if (!isSet[place]) fresh++;
                isSet[place] = true;
            }
            for (; isSet[(int) (from % isSet.length)]; from++) isSet[(int) (from % isSet.length)] = false;
            free.release(fresh);
        }

        public void handleNack(long tag, boolean multiple) {
            System.err.println("peer: publish: refused");
            Runtime.getRuntime().halt(1);
        }
    }

    static void publish(Channel channel) throws Exception {
        Confirms confirms = new Confirms();
        channel.confirmSelect();
        channel.addConfirmListener(confirms);
        AMQP.BasicProperties properties = new AMQP.BasicProperties.Builder().deliveryMode(durable ? 2 : 1).build();
        byte[] body = new byte[size];
        start = System.nanoTime();
        for (; !isOver(done); done++) {
            confirms.free.acquire();
            channel.basicPublish("", queue, properties, body);
        }
        confirms.free.acquire(window);
        nanos = System.nanoTime() - start;
    }

    static void consume(Channel channel) throws Exception {
        CountDownLatch over = new CountDownLatch(1);
        if (perAck > 0) channel.basicQos(prefetch);
        start = System.nanoTime();
        channel.basicConsume(queue, perAck == 0, new DefaultConsumer(channel) {
            @Override
            public void handleDelivery(String tag, Envelope e, AMQP.BasicProperties p, byte[] body) throws IOException {
                if (over.getCount() == 0) return;
                done++;
                if (body.length != size) throw new IOException("bodies were not of " + size + " bytes");
                if (perAck > 0 && done % perAck == 0) channel.basicAck(e.getDeliveryTag(), perAck > 1);
                if (!isOver(done)) return;
                nanos = System.nanoTime() - start;
                over.countDown();
            }
        });
        if (!over.await(60, TimeUnit.SECONDS)) throw new IOException("only " + done + " messages came");
    }

    /** Steady sending, each publish with its confirm; a connection of its own consumes. Microseconds to the confirm and to here. */
    static void latency(Channel channel) throws Exception {
        int want = (int) (seconds * rate);
        double[] confirmed = new double[want], consumed = new double[want];
        CountDownLatch arrived = new CountDownLatch(want);
        Channel consumer = factory.newConnection().createChannel();
        consumer.basicQos(prefetch);
        consumer.basicConsume(queue, false, new DefaultConsumer(consumer) {
            @Override
            public void handleDelivery(String tag, Envelope e, AMQP.BasicProperties p, byte[] body) throws IOException {
                consumed[(int) done++] = (System.nanoTime() - ByteBuffer.wrap(body).getLong()) / 1e3;
                consumer.basicAck(e.getDeliveryTag(), false);
                arrived.countDown();
            }
        });
        channel.confirmSelect();
        Thread.sleep(300);
        AMQP.BasicProperties properties = new AMQP.BasicProperties.Builder().deliveryMode(1).build();
        start = System.nanoTime();
        for (int i = 0; i < want; i++) {
            for (long left; (left = start + (long) (i * 1e9 / rate) - System.nanoTime()) > 0;) LockSupport.parkNanos(left);
            byte[] body = new byte[size];
            long sent = System.nanoTime();
            ByteBuffer.wrap(body).putLong(sent);
            channel.basicPublish("", queue, properties, body);
            channel.waitForConfirmsOrDie(10000);
            confirmed[i] = (System.nanoTime() - sent) / 1e3;
        }
        if (!arrived.await(10, TimeUnit.SECONDS)) throw new IOException("only " + done + " messages came");
        nanos = System.nanoTime() - start;
        more = quantiles("conf", confirmed) + quantiles("cons", consumed);
    }

    static String quantiles(String name, double[] list) {
        Arrays.sort(list);
        return String.format(Locale.ROOT, ",\"%s_p50\":%.1f,\"%s_p99\":%.1f,\"%s_p999\":%.1f", name, list[(int) ((list.length - 1) * .5)],
                             name, list[(int) ((list.length - 1) * .99)], name, list[(int) ((list.length - 1) * .999)]);
    }

    static double cpu() {
        return ((com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean()).getProcessCpuTime() / 1e3;
    }

    public static void main(String[] args) throws Exception {
        parse(args);
        factory.setHost("127.0.0.1");
        factory.setPort(port);
        Channel channel = factory.newConnection().createChannel();
        channel.queueDeclare(queue, durable, false, false, null);
        double before = cpu();
        if (args[0].equals("pub")) publish(channel);
        else if (args[0].equals("con")) consume(channel);
        else latency(channel);
        double secs = nanos / 1e9;
        System.out.printf(Locale.ROOT, "{\"client\":\"java\",\"mode\":\"%s\",\"size\":%d,\"n\":%d,\"secs\":%.3f,\"rate\":%.0f,"
                              + "\"cpu_us\":%.3f,\"rss_mb\":0%s}%n",
                          args[0], size, done, secs, done / secs, (cpu() - before) / done, more);
        System.out.flush();
        Runtime.getRuntime().halt(0); // closing would take in all that is still on its way
    }
}
