"""Small models that are served, in this process: one task, two tasks, and one whose columns are of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from recsys.data.schema import Bucketed, Categorical, Hashing, Label, LogSquare, MultiValued, Numeric, Schema, Sequence
from recsys.inference.session import InferenceSession, session
from recsys.models.checkpoint import save
from recsys.serving.app import Service, make_app
from recsys.serving.limits import Limits
from recsys.serving.model import Model
from recsys.training.recipe import Recipe
from recsys.training.run import train, train_rows
from tests import toy
from tests.serving.asgi import Client

LIMITS = Limits(max_bytes=200_000, max_rows=1000, max_values=20_000, seconds=0.2)
EVERY = Schema(
    labels=(Label(name="click", column="clicked"),),
    features=(
        Numeric(name="price"),
        Bucketed(name="price bucket", column="price", buckets=LogSquare()),
        Categorical(name="shop", column="shop id", encoding=Hashing(bits=6)),
        MultiValued(name="words", separator="|"),
        Sequence(name="seen", max_length=3, separator=" "),
    ),
)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    train(toy.recipe(folder / "data", epochs=1), folder / "toy", show=False)
    return folder / "toy"


@pytest.fixture(scope="session")
def opened(run: Path) -> Iterator[InferenceSession]:
    with session(run, backend="eager") as found:
        yield found


@pytest.fixture(scope="session")
def two_tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceSession]:
    folder = tmp_path_factory.mktemp("two")
    train(toy.recipe(folder / "data", schema=toy.TWO_TASKS, epochs=1), folder / "run", show=False)
    with session(folder / "run", backend="eager") as found:
        yield found


@pytest.fixture(scope="session")
def every(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceSession]:
    rows = pa.table(
        {
            "clicked": [0, 1] * 100,
            "price": [float(k) for k in range(200)],
            "shop id": [k % 7 for k in range(200)],
            "words": ["red|blue", "blue"] * 100,
            "seen": ["a b c d", ""] * 100,
        }
    )
    small = Recipe.parse(
        {"model": {"name": "dcn2", "embedding_dim": 4, "hidden": [8]}, "data": {"source": "none"}}, "here"
    )
    folder = tmp_path_factory.mktemp("every")
    training = small.training.model_copy(update={"epochs": 1})
    save(train_rows(small.model, training, EVERY, rows, rows, show=False), folder / "run")
    with session(folder / "run", backend="eager") as found:
        yield found


def served(opened: InferenceSession) -> Iterator[tuple[Service, Client]]:
    service = Service(Model("toy", opened, LIMITS), threads=2)
    client = Client(make_app(service))
    yield service, client
    client.close()
    service.work.close()


@pytest.fixture(scope="module")
def both(opened: InferenceSession) -> Iterator[tuple[Service, Client]]:
    yield from served(opened)


@pytest.fixture
def client(both: tuple[Service, Client]) -> Client:
    return both[1]


@pytest.fixture
def service(both: tuple[Service, Client]) -> Service:
    return both[0]


@pytest.fixture(scope="module")
def client_of_two(two_tasks: InferenceSession) -> Iterator[Client]:
    for _, client in served(two_tasks):
        yield client


@pytest.fixture(scope="module")
def client_of_every(every: InferenceSession) -> Iterator[Client]:
    for _, client in served(every):
        yield client
