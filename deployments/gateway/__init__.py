"""HTTP in, `GenerationRequest` out; committed text in, OpenAI's JSON and server-sent events out.

The life of a request: `envelope` gives it an id, `auth` checks its key and its limits, `bodies` reads it, `schemas` and
`translate` check it and say what to generate, `front_queue` lets it in when its turn has come, `generations` runs it on
the `backend` while `metering` counts tokens, `unbroken` keeps it going where a coordinator dies, `replies` sends what
`answers` and `sse` make of it, `rejoining` brings a client back to its stream, and `errors` says what went wrong, in
OpenAI's form always. Nothing here knows how speculation works.
"""
