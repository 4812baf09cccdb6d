-- Sends one request again and again, and ends with a line of JSON for bench/load.py.
wrk.method = os.getenv("BENCH_METHOD")
local file = io.open(os.getenv("BENCH_BODY_FILE"), "rb")
wrk.body = file:read("*a")
file:close()

local numbered = os.getenv("BENCH_NUMBERED_HEADER")
if numbered then
   local prefix, count = os.getenv("BENCH_NUMBER_PREFIX"), 0
   request = function()
      count = count + 1
      wrk.headers[numbered] = prefix .. count
      return wrk.format()
   end
end

done = function(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format(
      '\n{"requests": %d, "duration_us": %d, "bytes": %d, "p50_us": %d, "p99_us": %d,'
         .. ' "refused": %d, "failed": %d}\n',
      summary.requests, summary.duration, summary.bytes,
      latency:percentile(50), latency:percentile(99),
      errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
