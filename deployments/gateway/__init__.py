"""HTTP in, `GenerationRequest` out; committed text in, OpenAI's JSON and server-sent events out.

The life of a request: `envelope` gives it an id, `auth` checks its key and its limits, `bodies` reads it, `schemas` and
`translate` check it and say what to generate, `generations` runs it on the `backend` while `metering` counts tokens,
`unbroken` keeps it going where a coordinator dies, `replies` sends what `answers` and `sse` make of it, `rejoining`
brings a client back to its stream, and `errors` says what went wrong, always in OpenAI's form. Nothing here knows how
speculation works.
"""
