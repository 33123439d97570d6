import static io.nats.client.support.JsonParser.Option.KEEP_NULLS;

import io.nats.client.Message;
import io.nats.client.support.*;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.util.*;
import java.util.regex.*;

/** A message of any of the three forms as one event. */
class Event {
    final String source, id, type, time, epoch, seq, prev;
    final JsonValue data;

    Event(Message msg) throws Exception {
        String[] part = msg.getSubject().split("\\."); // far v1 site evt cluster stem token event
        Map<String, String> ce = new TreeMap<>(String.CASE_INSENSITIVE_ORDER);
        if (msg.hasHeaders()) msg.getHeaders().forEach((name, values) -> ce.put(name, unescaped(values.get(0))));
        JsonValue body = JsonParser.parse(msg.getData(), KEEP_NULLS), inner = body;
        if (ce.getOrDefault("content-type", "").toLowerCase().startsWith("application/cloudevents") || !ce.containsKey("ce-specversion")) {
            ce.clear();
            if (body.map != null && body.map.keySet().containsAll(List.of("specversion", "id", "source", "type"))) {
                body.map.forEach((name, value) -> ce.put("ce-" + name, value.string));
                inner = body.map.containsKey("data_base64") ? JsonParser.parse(Base64.getDecoder().decode(ce.get("ce-data_base64"))) : body.map.get("data");
            }
        }
        source = ce.getOrDefault("ce-source", String.format("/%s/%s/%s/plain", part[2], part[4], part[5]));
        id = ce.getOrDefault("ce-id", msg.metaData().getStream() + ":" + msg.metaData().streamSequence());
        type = ce.getOrDefault("ce-type", part[5] + "." + part[7]);
        time = ce.getOrDefault("ce-time", "");
        epoch = ce.get("ce-farepoch");
        seq = ce.get("ce-farseq");
        prev = ce.get("ce-farprev");
        data = inner;
    }

    private static String unescaped(String text) {
        return Pattern.compile("(%[0-9a-fA-F]{2})+").matcher(text).replaceAll(m -> Matcher.quoteReplacement(URLDecoder.decode(m.group(), StandardCharsets.UTF_8)));
    }
}
