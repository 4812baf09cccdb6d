// What a caller in TypeScript writes; its types are generated from schemas/openapi.yaml.
import createClient from "openapi-fetch";
import type { paths } from "./api";

declare const process: { argv: string[] };
const [relay, target] = process.argv.slice(2) as [string, string];
const client = createClient<paths>({ baseUrl: relay });
const call = { targetURL: target, targetAPI: "/tasks", headers: { "X-Number": 7 }, body: { type: "10" } };
const read = { ...call, targetAPI: "/sync_tasks/7", method: "GET" as const };

const sync = await client.POST("/sync", { body: read, parseAs: "text" });

const accepted = await client.POST("/async", {
  params: { header: { "Idempotency-Key": "typescript-1" } },
  body: call,
});
const id = accepted.response.status === 202 ? (accepted.data as { id: string }).id : "";

const waited = await client.POST("/async", {
  params: { header: { Prefer: "wait=20" } },
  body: { ...call, callback: { url: `${target}/done` } },
  parseAs: "text",
});

let status = await client.GET("/async/{id}", { params: { path: { id } } });
while (status.data?.status === "accepted") {
  await new Promise((resolve) => setTimeout(resolve, 100));
  status = await client.GET("/async/{id}", { params: { path: { id } } });
}

const refused = await client.GET("/async/{id}", { params: { path: { id: "never-seen" } } });

console.log(
  JSON.stringify({
    sync: sync.data,
    accepted: accepted.response.status,
    waited: [waited.response.status, waited.data],
    status: status.data?.status,
    answer: status.data?.answer?.status,
    refused: refused.error?.detail,
  }),
);
