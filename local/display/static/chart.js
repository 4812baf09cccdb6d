// The last five minutes: bars of how many requests began, a line of how long they took.

import { $, duration, setText } from "./dom.js";

const SPAN_S = 300;
const BUCKET_S = 5;
const HEIGHT = 30;

export function drawChart(rows) {
  const begin = Math.floor(Date.now() / 1000 / BUCKET_S + 1) * BUCKET_S - SPAN_S;
  const buckets = Array.from({ length: SPAN_S / BUCKET_S }, () => ({ count: 0, times: [] }));
  const times = [];
  for (const row of rows) {
    const bucket = buckets[Math.floor((row.at - begin) / BUCKET_S)];
    if (!bucket) continue;
    bucket.count += 1;
    if (row.duration_ms === null) continue;
    bucket.times.push(row.duration_ms);
    times.push(row.duration_ms);
  }
  const most = Math.max(1, ...buckets.map((bucket) => bucket.count));
  const medians = buckets.map((bucket) => quantile(bucket.times, 0.5));
  const longest = Math.max(1, ...medians.filter((each) => each !== undefined));
  const bars = buckets.map(({ count }, i) => (count ? `M${i * BUCKET_S} ${HEIGHT}v${-HEIGHT * count / most}h4v${HEIGHT}z` : ""));
  const line = medians.map((each, i) => {
    if (each === undefined) return "";
    const point = `${i * BUCKET_S + 2} ${2 + (HEIGHT - 4) * (1 - each / longest)}`;
    return `${medians[i - 1] === undefined ? "M" : "L"}${point}h.01`;
  });
  $("rate").setAttribute("d", bars.join(""));
  $("latency").setAttribute("d", line.join(""));
  const total = buckets.reduce((sum, bucket) => sum + bucket.count, 0);
  const parts = [`5 min: ${total} request${total === 1 ? "" : "s"}`];
  if (total) parts.push(`at most ${Math.round(10 * most / BUCKET_S) / 10}/s`);
  if (times.length) parts.push(`median ${duration(quantile(times, 0.5) / 1000)}`, `p95 ${duration(quantile(times, 0.95) / 1000)}`);
  document.querySelector(".chart").hidden = total === 0;
  setText($("chart-text"), parts.join(" · "));
}

function quantile(values, part) {
  return values.sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * part))];
}
