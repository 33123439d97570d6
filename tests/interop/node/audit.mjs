// Reads a log in its order: node audit.mjs URL SEED_FILE STREAM [FIRST]; a line of JSON for each event
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { connect, nkeyAuthenticator } from "@nats-io/transport-node";
import { jetstream } from "@nats-io/jetstream";

const heads = new Map(); // the sequence and the hash of the last event of each source and epoch
const sha256 = (bytes) => createHash("sha256").update(bytes).digest();
const sized = (field) => Buffer.concat([Buffer.of(...[24, 16, 8, 0].map((bits) => field.length >> bits)), field]);
const decoded = (text) => text.replace(/(%[0-9a-f]{2})+/gi, decodeURIComponent);

function chain({ source, id, type, time = "", farepoch, farseq, farprev }, subject, body) {
  const texts = ["farside chain v1", source, id, type, subject, time, farepoch, farseq].map((text) => Buffer.from(text));
  const hash = sha256(Buffer.concat([...texts, Buffer.from(farprev, "hex"), sha256(body)].map(sized)));
  const key = `${source} ${farepoch}`, own = `${farseq} ${hash.toString("hex")}`;
  const head = heads.get(key) ?? (farseq === "1" ? `0 ${"0".repeat(64)}` : undefined);
  heads.set(key, own);
  return head === undefined ? "first" : [`${farseq - 1} ${farprev}`, own].includes(head) ? "ok" : "broken";
}

function event(msg) {
  const [, , site, , cluster, stem, , what] = msg.subject.split(".");
  const head = [...(msg.headers ?? [])].map(([name, [value]]) => [name.toLowerCase(), decoded(value)]);
  let ce = Object.fromEntries(head.filter(([name]) => name.startsWith("ce-")).map(([name, value]) => [name.slice(3), value]));
  let data = msg.json();
  if (/^application\/cloudevents/i.test(Object.fromEntries(head)["content-type"]) || !ce.specversion) {
    ce = data.specversion && data.id && data.source && data.type ? data : {};
    data = ce.data_base64 ? JSON.parse(Buffer.from(ce.data_base64, "base64")) : ce.data ?? data;
  }
  const { source = `/${site}/${cluster}/${stem}/plain`, id = `${msg.info.stream}:${msg.seq}`, type = `${stem}.${what}` } = ce;
  return { time: ce.time ?? msg.time, source, id, type, chain: ce.farseq ? chain(ce, msg.subject, msg.data) : "unchained", data };
}

const [url, seedFile, stream, first = "1"] = process.argv.slice(2);
const authenticator = nkeyAuthenticator(Buffer.from(readFileSync(seedFile, "utf8").trim()));
const bus = await connect({ servers: url, authenticator, timeout: 10_000, reconnect: false });
const log = await jetstream(bus).consumers.get(stream, { deliver_policy: "by_start_sequence", opt_start_seq: Number(first) });
for await (const msg of (await log.info()).num_pending ? await log.consume() : []) {
  const found = await Promise.resolve(msg).then(event).catch((error) => ({ error: String(error) })); // a dead letter
  console.log(JSON.stringify({ seq: msg.seq, subject: msg.subject, ...found }));
  if (found.chain === "broken") process.exitCode = 1;
  if (msg.info.pending === 0) break;
}
await bus.close();
