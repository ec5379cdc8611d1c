"""RQ-VAE: quantised by hand, gradients where the formula sends them, and a training that learns and repeats itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from recsys.errors import ConfigError, DataError, DivergedError
from recsys.layers.mlp import MLP
from recsys.training.rqvae import RqVae, RqVaeConfig, losses, quantise, revive, train_rqvae
from tests.helpers import randomise

SMALL = RqVaeConfig(levels=2, size=8, hidden=(16,), width=4, batch_size=32, epochs=20)


def clusters(rows: int = 240, columns: int = 12, seed: int = 0) -> npt.NDArray[np.float32]:
    """Sixteen tight clusters, four by four, scaled to length one."""
    random = np.random.RandomState(seed)
    coarse, fine = random.standard_normal((4, columns)) * 3, random.standard_normal((4, columns))
    x = coarse[np.arange(rows) % 4] + fine[np.arange(rows) // 4 % 4] + random.standard_normal((rows, columns)) * 0.05
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), dtype=np.float32)


def linear(network: MLP) -> nn.Linear:
    """The only layer of a network without hidden ones, made to pass on what it is given."""
    (layer,) = network
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(len(layer.weight)))
        layer.bias.zero_()
    return layer


def perplexities(x: npt.NDArray[np.float32], **changes: Any) -> list[float]:
    return [use.perplexity for use in train_rqvae(x, SMALL.model_copy(update=changes), show=False).ids.usage()]


def test_latent_vectors_are_quantised_level_by_level() -> None:
    codebooks = torch.tensor([[[0.0, 0.0], [4.0, 0.0]], [[1.0, 0.0], [0.0, -1.0]]])
    steps = quantise(torch.tensor([[4.75, 0.25], [0.0, -2.0]]), codebooks)
    assert steps.codes.tolist() == [[1, 0], [0, 1]]
    assert steps.residuals.tolist() == [[[4.75, 0.25], [0.0, -2.0]], [[0.75, 0.25], [0.0, -2.0]]]
    assert steps.rows.tolist() == [[[4.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, -1.0]]]


@given(st.integers(0, 99))
def test_codes_are_those_of_the_nearest_rows(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    latent, codebooks = torch.randn(9, 3, generator=generator), torch.randn(2, 5, 3, generator=generator)
    steps = quantise(latent, codebooks)
    for row, z in enumerate(latent):
        for level, codebook in enumerate(codebooks):
            distances = [float((z - e).norm()) for e in codebook]
            assert int(steps.codes[row, level]) == distances.index(min(distances))
            z = z - codebook[steps.codes[row, level]]


def test_losses_by_hand() -> None:
    codebooks = torch.tensor([[[0.0, 0.0], [4.0, 0.0]], [[1.0, 0.0], [0.0, -1.0]]])
    steps = quantise(torch.tensor([[4.75, 0.25], [0.0, -2.0]]), codebooks)
    x, decoded = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 3.0], [1.0, 0.0, 0.0]])
    reconstruction, codebook, commitment = (float(loss) for loss in losses(x, decoded, steps))
    assert reconstruction == pytest.approx(5 / 6)
    # the first level leaves (0.75, 0.25) and (0, -2), the second (-0.25, 0.25) and (0, -1): means over four numbers
    assert codebook == commitment == pytest.approx((0.5625 + 0.0625 + 4) / 4 + (0.0625 + 0.0625 + 1) / 4)


def test_gradients_go_straight_through_and_each_term_pulls_its_own_side() -> None:
    model = RqVae(3, RqVaeConfig(levels=2, size=4, hidden=(), width=3))
    randomise(model)
    biases = [linear(model.encoder).bias, linear(model.decoder).bias]
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    decoded, steps = model(x)
    assert decoded.detach().numpy() == pytest.approx(steps.rows.sum(dim=0).detach().numpy(), abs=1e-6)

    def gradients(loss: torch.Tensor) -> tuple[Any, Any, Any]:
        made = torch.autograd.grad(loss, [*biases, model.codebooks], allow_unused=True, retain_graph=True)
        return made[0], made[1], made[2]

    reconstruction, codebook, commitment = losses(x, decoded, steps)
    encoder, decoder, books = gradients(reconstruction)  # of biases: the decoder's is that of what it made
    assert torch.equal(encoder, decoder)  # as if nothing had been quantised
    assert books is None
    encoder, _, books = gradients(codebook)
    assert encoder is None
    assert (books != 0).any()
    encoder, _, books = gradients(commitment)
    assert (encoder != 0).any()
    assert books is None


def test_training_finds_the_clusters() -> None:
    found = train_rqvae(clusters(), SMALL.model_copy(update={"epochs": 60}), show=False)
    assert found.ids.sizes == (8, 8)
    assert found.codebooks.shape == (2, 8, 4)
    assert len(found.epochs) == 60
    assert found.epochs[-1].reconstruction < 0.2 * found.epochs[0].reconstruction
    assert found.left[1] < found.left[0] < 0.4
    assert found.left[1] < 0.1
    tuples = [tuple(row) for row in found.ids.codes.tolist()]
    for cluster in range(16):
        assert len(set(tuples[cluster::16])) <= 3  # of 64 tuples


def test_short_vectors_do_not_collapse() -> None:
    assert min(perplexities(clusters() * np.float32(1e-3))) > 4


def test_scale_and_order_of_magnitude_do_not_matter() -> None:
    x = clusters()
    plain, scaled = (train_rqvae(rows, SMALL, show=False) for rows in (x, x * np.float32(2.0**-20)))
    assert plain.ids.fingerprint() == scaled.ids.fingerprint()
    assert scaled.left == pytest.approx(plain.left)


def test_equal_seeds_agree_others_do_not_and_nobody_elses_draws_change() -> None:
    state = torch.get_rng_state()
    one, same, other = (train_rqvae(clusters(), SMALL.model_copy(update={"seed": s}), show=False) for s in (1, 1, 2))
    assert one.ids.fingerprint() == same.ids.fingerprint()
    assert one.epochs == same.epochs
    assert (one.codebooks == same.codebooks).all()
    assert one.ids.fingerprint() != other.ids.fingerprint()
    assert torch.equal(torch.get_rng_state(), state)


def test_the_share_left_is_that_of_decoded_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last level's share is the reconstruction loss of the trained model where columns vary alike."""
    monkeypatch.setattr("recsys.training.rqvae._CHUNK", 7)
    x = np.random.RandomState(0).standard_normal((64, 6)).astype(np.float32)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    config = SMALL.model_copy(update={"epochs": 1, "learning_rate": 1e-30, "batch_size": 64})
    found = train_rqvae(x, config, show=False)  # nothing is learnt, so the loss of the only epoch is that of the result
    assert found.left[-1] == pytest.approx(found.epochs[0].reconstruction, rel=1e-4)


def test_codes_that_nobody_uses_are_put_on_residuals() -> None:
    model = RqVae(2, RqVaeConfig(levels=2, size=3, hidden=(), width=2))
    linear(model.encoder)
    with torch.no_grad():
        model.codebooks.copy_(torch.tensor([[[0.0, 0], [9, 9], [8, 8]], [[1.0, 0], [2, 0], [7, 7]]]))
    data = torch.tensor([[1.0, 0.0], [2.0, 0.0], [2.5, 0.0], [0.5, 0.0]])
    used = torch.tensor([[True, False, False], [True, True, False]])
    assert revive(model, data, used, torch.Generator().manual_seed(0)) == 3
    first, second = model.codebooks.tolist()
    assert first[0] == [0, 0]
    assert first[1] != first[2]
    assert all(row in data.tolist() for row in first[1:])  # the first level's residuals are the latent vectors
    assert second[:2] == [[1, 0], [2, 0]]
    assert second[2] in data.tolist()  # the second level's are too: the code that all items had is 0
    assert revive(model, data, torch.ones(2, 3, dtype=torch.bool), torch.Generator()) == 0
    assert model.codebooks.tolist() == [first, second]


def test_constant_columns_are_left_alone() -> None:
    x = np.column_stack([clusters(), np.full(240, 0.1, np.float32)])
    found = train_rqvae(x, SMALL, show=False)
    assert found.left[1] < found.left[0] < 1


@pytest.mark.parametrize(
    ("x", "told"),
    [
        (np.eye(4), "4 distinct vectors cannot have 8 codes a level"),
        (np.full((9, 2), np.nan), "9 of 9 vectors hold NaN"),
    ],
)
def test_vectors_that_cannot_be_quantised(x: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        train_rqvae(x, SMALL, show=False)


def test_a_training_that_diverges_says_so() -> None:
    with pytest.raises(DivergedError, match=r"the RQ-VAE's loss is no number in epoch \d+; lower the learning rate"):
        train_rqvae(clusters(), SMALL.model_copy(update={"learning_rate": 1e30}), show=False)


def test_a_device_that_is_not_there_is_said() -> None:
    with pytest.raises(ConfigError, match="device 'cuba' cannot be used here"):
        train_rqvae(clusters(), SMALL, device="cuba", show=False)


@pytest.mark.parametrize(
    "values", [{"levels": 0}, {"size": 1}, {"hidden": (0,)}, {"beta": -1}, {"epochs": 0}, {"seeds": 1}]
)
def test_arguments_that_cannot_be(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        RqVaeConfig.parse(values, "rq-vae")
