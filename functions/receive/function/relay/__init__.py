"""The relay: what its two functions, Send and Receive, share. Nothing in here knows Flask.

Start with the functions. A module imports from its own paragraph and from those below, never from
one above; `docs/diagrams` draws it.

Functions: `send` takes calls over HTTP, `receive` takes request events from the Broker.

Outcomes: what became of a request. `results` puts a target's answer into JSON, `outcomes` takes
what comes back, `records` notes it in the `state`, `status` tells it, and `signatures` prove whom
it comes from.

Events: `events` reads and writes them, `broker` publishes them, `callbacks` makes them of what
targets call back with.

Calls: `calls` turns an envelope into a call of the `client`, whose `connections` open `sockets` to
where the egress policy lets them, keep its deadline (`deadlines`), and read the `heads` of answers.

Requests: what comes with a call. `bodies` are read, `tokens` let callers in, `prefer` says who
would rather wait, `ids` are what requests are called; `schemas` describe it all to callers.

Rules: what may be said, and where calls may go. `envelope` is a call as its caller writes it, read
with `urls`, `headers` and `strict_json`. `settings` is what an operator can set, read with
`variables`; `egress` is the policy.

Ground: `problems` is the tree of what goes wrong, `messages` is HTTP as all of them see it, `logs`
write down what becomes of each request.
"""
