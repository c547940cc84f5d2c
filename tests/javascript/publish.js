// Publishes into the inbox of the domain "communication" as a JavaScript program of another domain would: with the NATS
// project's own client and nothing of ours. Every message is acknowledged by the stream. Prints one line of JSON.
import { connect, headers } from "@nats-io/transport-node";

const { hostname, port, username } = new URL(process.env.NATS_URL);
const client = await connect({ servers: `${hostname}:${port}`, token: username, name: "stranger" });
const stored = [];

async function publish(type, body, extra = {}) {
  const h = headers();
  for (const [name, value] of Object.entries(extra)) h.set(name, value);
  const payload = typeof body === "string" ? body : JSON.stringify(body);
  const answer = await client.request(`coordination.inbox.communication.${type}`, payload, { headers: h, timeout: 20_000 });
  const ack = answer.json();
  if (ack.error) throw new Error(ack.error.description);
  stored.push(ack.seq);
}

const event = (id, type, attributes) => ({ specversion: "1.0", id, source: "/bir/1", type, ...attributes });

// Bare JSON: the fields of the command, and an id by which a repeat is known.
await publish("task.submitted", { task_id: "js_1", task_name: "translate", priority: 5 }, { "Nats-Msg-Id": "js-1" });
// A CloudEvent, structured.
await publish("task.submitted", event("js-2", "task.submitted", { subject: "js_2", data: { task_name: "größe" } }));
// A CloudEvent, binary.
await publish("task.cancelled", { reason: "not needed" }, {
  "ce-specversion": "1.0", "ce-id": "js-3", "ce-source": "/bir/1", "ce-type": "task.cancelled", "ce-subject": "js_2",
});
// A batch of facts.
await publish("route.chosen", [1, 2, 3].map((n) => event(`js-4.${n}`, "route.chosen", { time: new Date(), data: { hop: n } })));
// What cannot be read, and what comes after it.
await publish("task.submitted", "{task_name: 'single quotes'}");
await publish("task.completed", event("js-6", "task.completed", { subject: "js_1", data: { execution_time_s: 0.25 } }));

await client.drain();
console.log(JSON.stringify({ stored }));
