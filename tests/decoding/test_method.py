"""The seams that accelerators need, shown with two of them and held against masks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from recsys.decoding.attention import spread
from recsys.decoding.cache import Cache, Packed, lineage
from recsys.decoding.engine import Engine
from recsys.decoding.method import Method
from recsys.decoding.passes import Prompt, Steps
from recsys.decoding.trie import ItemTrie
from recsys.layers.transformer import Causal, Pass
from recsys.models.generative.decoder import Decoder
from tests.decoding.made import catalogue, decoder, prompts, ragged

SIZES = (4, 5, 3)
CODES = catalogue(SIZES, 30)
HISTORIES = [[1, 2, 3], [], [30, 30, 4, 17, 9, 2, 28]]


class Registers(Method):
    """EARN: a register row before and one behind each prompt; from layer `full` on only these two are left."""

    def __init__(self, width: int, full: int) -> None:
        self.ends, self.full = torch.randn(2, width, generator=torch.Generator().manual_seed(7)), full

    def embed(self, embedding: nn.Embedding, tokens: Tensor, rows: Packed) -> tuple[Tensor, Packed]:
        x = embedding(tokens)
        parts = [torch.cat([self.ends[:1], x[start:stop], self.ends[1:]]) for start, stop in rows.spans]
        return torch.cat(parts), Packed.of([len(part) for part in parts], x.device)

    def prompt(self, cache: Cache, rows: Packed) -> Pass:
        return RegistersOnly(cache, rows, self.full)


class RegistersOnly(Prompt):
    def __init__(self, cache: Cache, rows: Packed, full: int) -> None:
        super().__init__(cache, rows)
        self.full = full

    def rows(self, layer: int, x: Tensor, positions: Tensor) -> Tensor | None:
        if layer != self.full:
            return None
        ends = torch.tensor([row for start, stop in self.kept.spans for row in (start, stop - 1)])
        self.kept = Packed.of([2] * len(self.kept.lengths), x.device)
        return ends


class Hidden(Causal):
    """One sequence; from layer `full` on the rows 1 … stop - 1 are hidden from all others."""

    def __init__(self, full: int, stop: int) -> None:
        super().__init__(1)
        self.full, self.stop = full, stop

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen = torch.ones(len(q), len(k), dtype=torch.bool).tril()
        if layer >= self.full:
            seen[:, 1 : self.stop] = torch.eye(len(q), dtype=torch.bool)[:, 1 : self.stop]
        q, k, v = (one.transpose(0, 1) for one in (q, k, v))
        return nn.functional.scaled_dot_product_attention(q, k, v, seen, enable_gqa=True).transpose(0, 1)


def with_registers(model: Decoder, method: Registers, prompt: list[int], tokens: list[int]) -> float:
    """Log-probability of an item behind a prompt, by a full forward with prompt rows hidden."""
    start, end = method.ends[:1], method.ends[1:]
    x = torch.cat([start, model.embedding(torch.tensor(prompt)), end, model.embedding(torch.tensor(tokens))])
    with torch.no_grad():
        passing = Hidden(method.full, 1 + len(prompt))
        out = model.head(model.norm(model.transformer(x, torch.arange(len(x)), passing))).log_softmax(-1)
    return float(out[-len(tokens) - 1 : -1].gather(1, torch.tensor(tokens).unsqueeze(1)).sum())


@pytest.mark.parametrize("full", [1, 2])
def test_registers_decode_as_if_prompt_rows_were_hidden(full: int) -> None:
    model = decoder(SIZES)
    method = Registers(model.config.transformer.width, full)
    found = Engine(model, ItemTrie.build(CODES, model.vocabulary), 30, method=method).recommend(ragged(HISTORIES), 30)
    items = model.vocabulary.tokens(CODES).tolist()
    for row, prompt in enumerate(prompts(model, CODES, HISTORIES)):
        for item, score in zip(found.items[row].tolist(), found.scores[row].tolist(), strict=True):
            assert score == pytest.approx(with_registers(model, method, prompt, items[item - 1]), abs=1e-4)


class Newest(Method):
    """Eviction: layer 1 keeps the last two rows of a prompt, once they have seen the others."""

    def prompt(self, cache: Cache, rows: Packed) -> Pass:
        return Evicting(cache, rows)


class Evicting(Prompt):
    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = super().attend(layer, q, k, v)
        if layer == 1:
            kept = [range(max(start, stop - 2), stop) for start, stop in self.kept.spans]
            rows = torch.tensor([row for one in kept for row in one])
            self.cache.store(layer, k[rows], v[rows], Packed.of([len(one) for one in kept], k.device))
        return out


class Masking(Method):
    """The same by a mask."""

    def step(self, cache: Cache, ancestors: list[Tensor]) -> Pass:
        return LastTwo(cache, ancestors)


class LastTwo(Steps):
    def mask(self, layer: int, heads: int, keys: Tensor) -> Tensor:
        seen = self.cache.mask(layer, self.ancestors)
        rows = self.cache.kept[layer]
        assert rows is not None
        if layer == 1:
            places = torch.arange(seen.shape[2]) - self.cache.slots
            seen &= ((places < 0) | (places >= rows.lengths.unsqueeze(1) - 2)).unsqueeze(1)
        return spread(seen, heads, keys.shape[1], keys.dtype)


def test_rows_evicted_from_a_layer_decode_as_if_they_were_masked() -> None:
    model = decoder(SIZES)
    trie = ItemTrie.build(CODES, model.vocabulary)
    found, masked, plain = (
        Engine(model, trie, 8, method=method).recommend(ragged(HISTORIES), 8) for method in (Newest(), Masking(), None)
    )
    assert found.items.tolist() == masked.items.tolist()
    torch.testing.assert_close(torch.from_numpy(found.scores), torch.from_numpy(masked.scores), atol=1e-5, rtol=1e-5)
    assert found.scores.tolist() != plain.scores.tolist()


class PerBeam(Method):
    """The plain way: every beam has keys and values of its own, the prompt's among them, copied when beams fork."""

    def __init__(self) -> None:
        self.kept: dict[int, list[Tensor]] = {}

    def step(self, cache: Cache, ancestors: list[Tensor]) -> Pass:
        return Copies(self.kept, cache, ancestors)


class Copies(Steps):
    def __init__(self, kept: dict[int, list[Tensor]], cache: Cache, ancestors: list[Tensor]) -> None:
        super().__init__(cache, ancestors)
        self.copies = kept

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch, width = self.ancestors[-1].shape
        new = torch.stack([k, v]).view(2, batch, width, 1, *k.shape[1:]).transpose(3, 4)  # [2, B, W, kv, 1, d]
        if self.step == 0:
            prompts = [torch.stack(self.cache.prompt(layer, request)) for request in range(batch)]
            self.copies[layer] = [prompt.unsqueeze(1).repeat(1, width, 1, 1, 1) for prompt in prompts]
        else:
            parents = zip(self.copies[layer], self.ancestors[-2], strict=True)
            self.copies[layer] = [beams.index_select(1, chosen) for beams, chosen in parents]
        grown = [torch.cat([beams, new[:, row]], dim=3) for row, beams in enumerate(self.copies[layer])]
        self.copies[layer] = grown
        rows = [
            nn.functional.scaled_dot_product_attention(one.transpose(1, 2), keys, values, enable_gqa=True)
            for one, (keys, values) in zip(q.view(batch, width, 1, *q.shape[1:]), grown, strict=True)
        ]
        return torch.stack(rows).view(q.shape)


@pytest.mark.parametrize("kv_heads", [4, 1])
def test_shared_prompts_equal_copies_of_their_own(kv_heads: int) -> None:
    model = decoder(SIZES, kv_heads)
    trie = ItemTrie.build(CODES, model.vocabulary)
    shared, copied = (Engine(model, trie, 7, method=one).recommend(ragged(HISTORIES), 7) for one in (None, PerBeam()))
    assert shared.items.tolist() == copied.items.tolist()
    torch.testing.assert_close(torch.from_numpy(shared.scores), torch.from_numpy(copied.scores), atol=1e-5, rtol=1e-5)


def test_lineage_by_hand() -> None:
    first = lineage([], torch.tensor([[0, 0, 0]]))
    # Then beams 0 and 1 of the new step come from beam 2, the third from beam 0; at last all come from the third.
    second = lineage(first, torch.tensor([[2, 2, 0]]))
    assert [one.tolist() for one in second] == [[[2, 2, 0]], [[0, 1, 2]]]
    third = lineage(second, torch.tensor([[2, 2]]))
    assert [one.tolist() for one in third] == [[[0, 0]], [[2, 2]], [[0, 1]]]


def test_a_beam_sees_its_prompt_and_its_ancestors() -> None:
    cache = Cache(1, (2, 2))
    rows = Packed.of([1, 3], torch.device("cpu"))
    cache.store(0, torch.ones(4, 1, 2), torch.ones(4, 1, 2), rows)
    seen = cache.mask(0, [torch.tensor([[1, 1], [0, 1]]), torch.tensor([[0, 1], [0, 1]])])
    assert seen.int().tolist() == [
        [[0, 1, 1, 0, 1, 0, 0], [0, 1, 0, 1, 1, 0, 0]],
        [[1, 0, 1, 0, 1, 1, 1], [0, 1, 0, 1, 1, 1, 1]],
    ]
    assert cache.keys[0][0, 0, :, 0].tolist() == [0, 0, 0, 0, 1, 0, 0]
    assert [tuple(one.shape) for one in cache.prompt(0, 1)] == [(1, 3, 2)] * 2


def test_packed_sequences() -> None:
    rows = Packed.of([2, 1, 3], torch.device("cpu"))
    assert rows.offsets == (0, 2, 3, 6)
    assert rows.positions().tolist() == [0, 1, 0, 0, 1, 2]
    assert rows.last().tolist() == [1, 2, 5]
    assert rows.longest == 3
