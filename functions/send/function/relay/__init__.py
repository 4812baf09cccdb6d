"""The relay: what its two functions, Send and Receive, share. Nothing in here knows Flask.

Start with `send` and `receive`, the two functions.

A call: `calls` turns an `envelope` (read with `urls`, `headers`, `strict_json`) into a call of the
`client`, whose `connections` keep the `egress` policy and its deadline (`deadlines`), and read the
`heads` of answers.

Events: `events` reads and writes them, `broker` publishes them, `callbacks` makes them of what
targets call back with.

What became of a request (its id: `ids`): `results` puts a target's answer into JSON, `outcomes`
takes what comes back, `records` notes it in the `state`, `status` tells it, `prefer` says who would
rather wait.

All of them: `problems` is the tree of what goes wrong, `settings` what an operator can set,
`messages` and `bodies` HTTP as they see it, `schemas` the files that describe it to callers, `logs`
what is written down of each request.
"""
