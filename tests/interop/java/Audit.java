// Reads a log in its order: java -cp 'out:lib/*' Audit URL SEED_FILE STREAM FIRST; a line of JSON for each event
import io.nats.client.*;
import io.nats.client.api.*;
import io.nats.client.impl.*;
import io.nats.client.support.*;
import java.nio.file.*;
import java.time.*;
import java.util.*;

public class Audit {
    public static void main(String[] args) throws Exception {
        char[] seed = Files.readString(Path.of(args[1])).trim().toCharArray();
        Options.Builder options = Options.builder().server(args[0]).authHandler(Nats.staticCredentials(null, seed));
        long first = Long.parseLong(args[3]);
        OrderedConsumerConfiguration start = new OrderedConsumerConfiguration().deliverPolicy(DeliverPolicy.ByStartSequence).startSequence(first);
        try (Connection bus = Nats.connect(options.connectionTimeout(Duration.ofSeconds(10)).noReconnect().build())) {
            StreamContext stream = bus.getStreamContext(args[2]);
            long left = stream.getStreamInfo().getStreamState().getLastSequence() - first + 1;
            IterableConsumer log = stream.createOrderedConsumer(start).iterate();
            while (left > 0) {
                Message msg = log.nextMessage(Duration.ofSeconds(10));
                if (msg == null) throw new java.io.IOException("not read to the end: no answer within 10 seconds");
                System.out.println(line(msg));
                left = msg.metaData().pendingCount();
            }
        }
        System.exit(Chain.broken ? 1 : 0);
    }

    static String line(Message msg) {
        JsonValueUtils.MapBuilder line = JsonValueUtils.mapBuilder().put("seq", msg.metaData().streamSequence()).put("subject", msg.getSubject());
        try {
            Event ce = new Event(msg);
            String time = ce.time.isEmpty() ? msg.metaData().timestamp().toInstant().toString() : ce.time;
            line.put("time", time).put("source", ce.source).put("id", ce.id).put("type", ce.type).put("chain", Chain.state(ce, msg)).put("data", ce.data);
        } catch (Exception error) {
            line.put("error", "a dead letter: " + error);
        }
        return line.toJson();
    }
}
