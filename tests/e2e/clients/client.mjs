// Node's fetch with default settings: node client.mjs BASE_URL < calls > answers (see tests/e2e/test_clients.py).

import { readFileSync } from "node:fs";

for (const line of readFileSync(0, "utf8").split("\n").filter(Boolean)) {
  const [name, mode, method, target, body, ...headers] = line.split("\t");
  const bytes = Buffer.from(body, "base64");
  const options = { method, headers: headers.map((header) => header.split(": ")) };
  if (bytes.length) options.body = bytes;
  if (mode === "chunked") {
    options.body = new Blob([bytes.subarray(0, 10), bytes.subarray(10)]).stream();
    options.duplex = "half";
  }
  let answer;
  try {
    const response = await fetch(process.argv[2] + target, options);
    const content = Buffer.from(await response.arrayBuffer()).toString("base64");
    answer = { status: response.status, allow: response.headers.get("allow") ?? "", body: content };
  } catch (error) {
    answer = { error: `${error}: ${error.cause}` };
  }
  console.log(JSON.stringify({ call: name, ...answer }));
}
