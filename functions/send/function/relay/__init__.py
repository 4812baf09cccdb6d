"""The relay: what its two functions, Send and Receive, share. Nothing in here knows Flask.

Start with `send` and `receive`, the two functions. Both go through `calls`, which turns an
`envelope` (with `urls`, `headers`, `strict_json`) into a call of the `client`, under the `egress`
policy and a deadline (`deadlines`). `broker` publishes `events`. What goes wrong is one tree in
`problems`, what an operator can set is in `settings`, and `messages` and `bodies` are HTTP as all
of them see it.
"""
