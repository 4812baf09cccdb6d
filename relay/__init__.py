"""The relay: everything that its two functions, Send and Receive, do. Only `web` knows Flask.

Start with the functions. A module imports from its own paragraph and from those below, never from
one above; `docs/diagrams` draws it.

Functions: `send` takes calls over HTTP, `receive` takes request events from the Broker, `web`
answers in the app that functions-framework has made for them; `start` becomes its process.

Serving: `server` is gunicorn as the relay wants it. It hands requests on once they have arrived
(`arrivals`), has a thread write their `answers`, and gives up on `callers` who do not read. `sites`
keeps other sites' pages out.

Watching: `metrics` counts for Prometheus what `operations` tells, `traces` makes spans of it for
OpenTelemetry, where that is on.

Outcomes: what became of a request. `outcomes` takes what comes back, `status` tells of one request
and steers it, `lists` does so for many; some callers are `waiting`. `auth` authenticates callers,
callbacks and the relay's own events.

Records: what is known of a request. `records` notes each step of its `lifecycle` in the `store`,
and a target's answer as `results` puts it into JSON; `claims` keep others from making a call that
is being made. `backends` opens the store: `store_sqlite`, or `store_redis`. `waiters` are woken by
what is noted.

Events: `events` reads and writes CloudEvents, `broker` publishes them; `progress` is what they say
of a request that waits or was given up, and `retries` decides which.

Neighbours: `gate` lets a call through or not, by a `breaker` and a share of the `places` for each
target, so that none delays the others.

Calls: `targets` makes a call of an envelope, through the `client`, on `connections` to addresses
that the egress policy permits, after one of the `lookups`; `responses` parses what comes back,
`reasons` are why nothing does.

Rules: what a request may say, and where calls may go. `envelope` is a call as its caller writes it,
read with `urls`, `headers` and `jsons`; `bodies` are what their headers say, and `forwarded` is how
a request came. `tracing` is what travels with a call. `settings` is what an operator can set, with
`tls` for certificates; `egress` is the policy, which judges `addresses`.

Ground: `problems` is the tree of errors, `http` the messages that everything else sees, `leaving`
ends what is done for callers who go, `logs` has one line for each request; `operations` tells
watchers what is done, and how long it takes.
"""
