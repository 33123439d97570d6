// Checks the contract with the validators of Node: node check.mjs BUS_SCHEMA_DIR
// AsyncAPI's own parser reads the document; Ajv holds every golden sample to its JSON Schema, and refuses it
// without any one of what the schema requires.
import { readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { Parser, fromFile } from "@asyncapi/parser";
import Ajv from "ajv/dist/2020.js";

const room = process.argv[2];
const json = (...path) => JSON.parse(readFileSync(join(room, ...path), "utf8"));
const found = { samples: 0, refused: 0, channels: 0, faults: [] };

const { document, diagnostics } = await fromFile(new Parser(), join(room, "asyncapi.json")).parse();
for (const { severity, message, path } of diagnostics)
  if (severity === 0) found.faults.push(`asyncapi.json: ${path.join(".")}: ${message}`);
found.channels = document?.allChannels().length ?? 0;

for (const path of readdirSync(join(room, "schema"), { recursive: true, withFileTypes: true })) {
  if (!path.isFile()) continue;
  const name = relative(join(room, "schema"), join(path.parentPath ?? path.path, path.name));
  const schema = json("schema", name);
  const valid = new Ajv({ strict: false, allErrors: true, logger: false }).compile(schema);
  const sample = json("golden", name);
  found.samples += 1;
  if (!valid(sample)) found.faults.push(`golden/${name}: ${JSON.stringify(valid.errors)}`);
  for (const missing of schema.required ?? []) {
    const { [missing]: _, ...rest } = sample;
    if (valid(rest)) found.faults.push(`golden/${name} is taken without ${missing}`);
    else found.refused += 1;
  }
}
console.log(JSON.stringify(found));
