"""A trained model behind HTTP: the Open Inference Protocol v2, ranking in one call, and metrics.

The parts, from the socket inwards: `server` runs the process and shuts it down, `protocol` bounds headers, `app` has
the routes, `body` reads what came under `limits`, `unread` ends what is answered before it came, `work` says on which
thread it is answered, `model` answers it (`tensors` for the protocol, `ranking` for /rank, both over `columns`),
`metrics` counts. What a client did wrong is a `refusals.Refused`.

`app`, `metrics`, `protocol` and `server` need FastAPI, uvicorn and prometheus_client: ``pip install "recsys[serve]"``.
"""
