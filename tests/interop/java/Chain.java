import static java.nio.charset.StandardCharsets.UTF_8;

import io.nats.client.Message;
import java.nio.ByteBuffer;
import java.security.MessageDigest;
import java.util.*;

/** The chain of each source and epoch: every event names the hash of the one before it. */
class Chain {
    static final Map<String, String> heads = new HashMap<>(); // the sequence and the hash of the last event of each
    static boolean broken = false;

    /** SHA-256 over the fields of an event, each after its length. */
    static String hash(Event ce, Message msg) throws Exception {
        MessageDigest all = MessageDigest.getInstance("SHA-256");
        byte[] prev = HexFormat.of().parseHex(ce.prev), body = MessageDigest.getInstance("SHA-256").digest(msg.getData());
        List<byte[]> fields = new ArrayList<>();
        for (String text : List.of("farside chain v1", ce.source, ce.id, ce.type, msg.getSubject(), ce.time, ce.epoch, ce.seq)) fields.add(text.getBytes(UTF_8));
        fields.addAll(List.of(prev, body));
        for (byte[] field : fields) all.update(ByteBuffer.allocate(4 + field.length).putInt(field.length).put(field).flip());
        return HexFormat.of().formatHex(all.digest());
    }

    /** Whether an event follows the last one of its source and epoch; "first": that one was not read. */
    static String state(Event ce, Message msg) throws Exception {
        if (ce.seq == null) return "unchained";
        String own = ce.seq + " " + hash(ce, msg), before = (Long.parseLong(ce.seq) - 1) + " " + ce.prev;
        String head = heads.put(ce.source + " " + ce.epoch, own);
        if (head == null && !ce.seq.equals("1")) return "first";
        if (own.equals(head) || before.equals(head == null ? "0 " + "0".repeat(64) : head)) return "ok";
        broken = true;
        return "broken";
    }
}
