// Publishes one event: java -cp 'out:lib/*' Publish URL plain|structured|binary SUBJECT ID < data.json
import io.nats.client.*;
import io.nats.client.api.PublishAck;
import io.nats.client.impl.*;
import io.nats.client.support.*;
import java.time.Duration;
import java.util.*;

public class Publish {
    public static void main(String[] args) throws Exception {
        try {
            PublishAck ack = publish(args[0], args[1], args[2], args[3], System.in.readAllBytes());
            System.out.println(ack.getStream() + ":" + ack.getSeqno() + (ack.isDuplicate() ? " duplicate" : ""));
        } catch (Exception error) {
            System.err.println("not published: " + error);
            System.exit(1);
        }
    }

    static PublishAck publish(String url, String form, String subject, String id, byte[] data) throws Exception {
        String[] part = subject.split("\\."); // far v1 site evt cluster stem token event
        String source = String.format("/%s/%s/%s/cmdb", part[2], part[4], part[5]), type = part[5] + "." + part[7];
        Map<String, String> about = Map.of("specversion", "1.0", "id", id, "source", source, "type", type);
        Headers head = new Headers().put("Nats-Msg-Id", part[4] + "/" + id); // the log stores what is repeated under it once
        if (form.equals("structured")) {
            head.put("content-type", "application/cloudevents+json");
            Map<String, JsonValue> event = new HashMap<>(Map.of("data", JsonParser.parse(data)));
            about.forEach((name, value) -> event.put(name, new JsonValue(value)));
            data = new JsonValue(event).toJson().getBytes("UTF-8");
        } else if (form.equals("binary")) {
            head.put("content-type", "application/json");
            about.forEach((name, value) -> head.put("ce-" + name, value));
        } else if (!form.equals("plain")) {
            throw new IllegalArgumentException(form + " is no form");
        }
        Options options = Options.builder().server(url).connectionTimeout(Duration.ofSeconds(10)).noReconnect().build();
        try (Connection bus = Nats.connect(options)) {
            JetStreamOptions patience = JetStreamOptions.builder().requestTimeout(Duration.ofSeconds(10)).build();
            return bus.jetStream(patience).publish(NatsMessage.builder().subject(subject).headers(head).data(data).build());
        }
    }
}
