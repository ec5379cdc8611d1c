"""A session under a name: bytes of a request in, bytes of the answer out, on whichever thread."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from recsys.errors import RecsysError
from recsys.inference.session import InferenceSession
from recsys.serving import ranking, tensors
from recsys.serving.body import parse
from recsys.serving.columns import columns_of
from recsys.serving.limits import Limits
from recsys.serving.refusals import Refused

__all__ = ["Model", "to_bytes"]

T = TypeVar("T")


def to_bytes(answer: Any) -> bytes:
    """Compact JSON."""
    return json.dumps(answer, allow_nan=False, separators=(",", ":")).encode()


class Model:
    """Answers the two requests that compute.

    Attributes:
        name: In the protocol's paths.
        tasks: Names of the model's outputs.
        columns: What may be sent.
        seen: Called with the rows of every request that is computed.
    """

    def __init__(
        self, name: str, session: InferenceSession, limits: Limits, seen: Callable[[int], None] = lambda rows: None
    ) -> None:
        self.name, self.session, self.limits, self.seen = name, session, limits, seen
        self.tasks = tuple(task.name for task in session.encoder.inputs.tasks)
        self.columns = columns_of(session.encoder.schema)
        kinds = {task.kind for task in session.encoder.inputs.tasks}
        self._datatype = "FP32" if kinds == {"binary"} else "FP64"

    def metadata(self) -> dict[str, Any]:
        """The protocol's metadata of the model."""
        about = tensors.described(self.columns, self.tasks, self._datatype)
        return {"name": self.name, "platform": "recsys", **about}

    def warm_up(self) -> None:
        """Make on this thread what is made once, so that nobody waits for it."""
        self.session.warm_up()
        self.session.rank({}, [{}], 1, self.tasks[0])

    def infer(self, body: bytes) -> bytes:
        """POST /v2/models/NAME/infer.

        Raises:
            Refused: When the request cannot be served.
        """
        asked = tensors.ask(parse(body), self.columns, self.tasks, self.limits)
        scores = np.zeros((0, len(self.tasks)))
        if asked.rows:
            self.seen(asked.rows)
            scores = _served(lambda: self.session.predict(tensors.rows(asked))).reshape(asked.rows, -1)
        answer: dict[str, Any] = {"model_name": self.name} | ({} if asked.id is None else {"id": asked.id})
        return to_bytes({**answer, "outputs": [self._output(scores, name) for name in asked.outputs]})

    def _output(self, scores: npt.NDArray[Any], task: str) -> dict[str, Any]:
        data = scores[:, self.tasks.index(task)].tolist()
        return {"name": task, "datatype": self._datatype, "shape": [len(data)], "data": data}

    def rank(self, body: bytes) -> bytes:
        """POST /rank.

        Raises:
            Refused: When the request cannot be served.
        """
        asked = ranking.ask(parse(body), self.columns, self.tasks, self.limits)
        if not asked.candidates:
            return to_bytes({"positions": [], "scores": []})
        self.seen(len(asked.candidates))
        found = _served(lambda: self.session.rank(asked.user, asked.candidates, asked.k, asked.task))
        return to_bytes({"positions": found.positions.tolist(), "scores": found.scores.tolist()})


def _served(compute: Callable[[], T]) -> T:
    """What the session gives; what it refuses was sent by the client, for all else was checked when it opened."""
    try:
        return compute()
    except RecsysError as error:
        raise Refused(422, str(error)) from None
