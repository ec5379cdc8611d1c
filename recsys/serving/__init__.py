"""A trained model behind HTTP: the Open Inference Protocol v2, ranking in one call, and metrics.

The parts, from the socket inwards: `server` runs the process and shuts it down, `app` has the routes, `body` reads what
came under `limits`, `work` says on which thread it is answered, `model` answers it (`tensors` for the protocol,
`ranking` for /rank, both over `columns`), `metrics` counts. What a client did wrong is a `refusals.Refused`.

`app`, `metrics` and `server` need FastAPI, uvicorn and prometheus_client: ``pip install "recsys[serve]"``.
"""
