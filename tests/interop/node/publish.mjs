// Publishes one event: node publish.mjs URL plain|structured|binary SUBJECT ID < data.json
import { readFileSync } from "node:fs";
import { connect, headers } from "@nats-io/transport-node";
import { jetstream } from "@nats-io/jetstream";

async function main(url, form, subject, id) {
  let data = readFileSync(0);
  const [, , site, , cluster, stem, , event] = subject.split(".");
  const about = { specversion: "1.0", id, source: `/${site}/${cluster}/${stem}/cmdb`, type: `${stem}.${event}` };
  const head = headers();
  head.set("Nats-Msg-Id", `${cluster}/${id}`); // the log stores what is repeated under it once
  if (form === "structured") {
    head.set("content-type", "application/cloudevents+json");
    data = JSON.stringify({ ...about, data: JSON.parse(data) });
  } else if (form === "binary") {
    head.set("content-type", "application/json");
    for (const [name, value] of Object.entries(about)) head.set(`ce-${name}`, value);
  } else if (form !== "plain") {
    throw new Error(`${form} is no form`);
  }
  const { host, username: user, password: pass } = new URL(url);
  const bus = await connect({ servers: host, user, pass, timeout: 10_000, reconnect: false });
  try {
    const ack = await jetstream(bus, { timeout: 10_000 }).publish(subject, data, { headers: head });
    console.log(`${ack.stream}:${ack.seq}${ack.duplicate ? " duplicate" : ""}`);
  } finally {
    await bus.close();
  }
}

main(...process.argv.slice(2)).catch((error) => {
  console.error(`not published: ${error}`);
  process.exitCode = 1;
});
