"""Texts to vectors: the mean of each text's own tokens whatever stands beside it, offline, and vectors from files."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recsys.data import text_embeddings
from recsys.data.text_embeddings import SentenceEncoder, embed, open_encoder, read_embeddings
from recsys.errors import ConfigError, DataError, MissingExtraError
from tests.tiny_encoder import LONGEST, WORDS, write_encoder

TEXTS = ["red nail polish", "a", None, "a very long lasting cream", "", "nail", "unheard", "red nail polish"]


class Letters:
    """A tokenizer: a token for each letter, a first one for the text."""

    def encode_batch(self, texts: list[str]) -> list[Any]:
        return [SimpleNamespace(ids=[1, *(ord(letter) - 95 for letter in text)]) for text in texts]


class Lookup(nn.Module):
    """A model whose state of a token is the token's row; it remembers the shapes of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(hidden_size=3)
        self.rows = nn.Parameter(torch.arange(90.0).reshape(30, 3).sin(), requires_grad=False)
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        self.shapes.append(tuple(input_ids.shape))
        return SimpleNamespace(last_hidden_state=self.rows[input_ids])


@pytest.fixture
def letters() -> SentenceEncoder:
    return SentenceEncoder(Letters(), Lookup(), padding=29)


def mean_of(encoder: SentenceEncoder, text: str) -> Tensor:
    """The definition, of one text without padding."""
    (tokens,) = encoder.tokenizer.encode_batch([text])
    states = encoder.model(torch.tensor([tokens.ids]), torch.ones(1, len(tokens.ids), dtype=torch.int64))
    mean: Tensor = states.last_hidden_state[0].mean(dim=0)
    return torch.nn.functional.normalize(mean, dim=0)


@given(
    st.lists(st.one_of(st.none(), st.text("abcdefg", max_size=9)), max_size=20), st.integers(1, 30), st.integers(1, 9)
)
def test_each_text_is_embedded_as_if_alone(texts: list[str | None], tokens: int, chunk: int) -> None:
    encoder = SentenceEncoder(Letters(), Lookup(), padding=29)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_embeddings, "TOKENS", tokens)
        patch.setattr(text_embeddings, "CHUNK", chunk)
        found = embed(texts, encoder, show=False)
    assert found.shape == (len(texts), 3)
    assert found.dtype == np.float32
    for row, text in zip(found, texts, strict=True):
        assert row == pytest.approx(mean_of(encoder, text or "").numpy(), abs=1e-6)


def test_texts_of_one_length_make_a_batch(letters: SentenceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_embeddings, "TOKENS", 8)
    embed(["a", "bcdefghij", "cd", "b", "dc", "c"], letters, show=False)
    assert letters.model.shapes == [(1, 10), (2, 3), (3, 2)]


def test_columns_of_text_are_embedded(letters: SentenceEncoder) -> None:
    plain = embed(["a", None, "b"], letters, show=False)
    for column in (
        pa.array(["a", None, "b"]),
        pa.array(["a", None, "b"], pa.large_string()),
        pa.array(["a", None, "b"]).dictionary_encode(),
        pa.chunked_array([["a", None], ["b"]]),
    ):
        assert (embed(column, letters, show=False) == plain).all()
    assert (embed(pa.nulls(2), letters, show=False) == plain[1]).all()


@pytest.mark.parametrize(
    "texts", [[3], pa.array([[1]]), ["\ud800"], pa.array([b"\xff"], pa.binary()).cast("string", safe=False)]
)
def test_what_is_no_text_is_said(letters: SentenceEncoder, texts: Any) -> None:
    with pytest.raises(DataError, match="expected texts to embed: "):
        embed(texts, letters, show=False)


def test_a_device_that_is_not_there_is_said(letters: SentenceEncoder) -> None:
    with pytest.raises(ConfigError, match="device 'cuba' cannot be used here"):
        embed(["a"], letters, device="cuba", show=False)


def test_a_text_without_a_token_has_a_vector_too() -> None:
    nothing = SimpleNamespace(encode_batch=lambda texts: [SimpleNamespace(ids=[]) for _ in texts])
    found = embed(["", "a"], SentenceEncoder(nothing, Lookup(), padding=29), show=False)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


def test_a_folder_gives_the_mean_of_each_texts_states(folder: Path) -> None:
    encoder = open_encoder(folder)
    found = embed(TEXTS, folder, show=False)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-6)
    for row, text in zip(found, TEXTS, strict=True):
        assert row == pytest.approx(mean_of(encoder, text or "").numpy(), abs=1e-5)
    assert (found[2] == found[4]).all()  # missing and empty
    assert found[0] == pytest.approx(found[7], abs=1e-6)


def test_a_long_text_is_cut_where_the_encoder_says(folder: Path) -> None:
    words = [*WORDS[4:], "red", "nail"]
    kept, longer = " ".join(words[: LONGEST - 2]), " ".join(words)  # [CLS] and [SEP] count
    found = embed([kept, longer, " ".join(words[: LONGEST - 3])], folder, show=False)
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    assert found[0] != pytest.approx(found[2], abs=1e-3)


def test_what_cannot_be_opened_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no model can be opened there"):
        open_encoder(tmp_path)
    with pytest.raises(ConfigError, match=r"encoder '.*/absent': no such folder"):
        open_encoder(tmp_path / "absent")


def test_nothing_is_fetched_unless_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[dict[str, Any]] = []

    def snapshot(name: str, **settings: Any) -> str:
        asked.append({"name": name, **settings})
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    open_encoder("somebody/encoder")
    open_encoder("somebody/encoder", download=True)
    assert [call["local_files_only"] for call in asked] == [True, False]
    assert asked[0]["name"] == "somebody/encoder"
    assert not any(".bin" in pattern for pattern in asked[0]["allow_patterns"])  # pickles


def test_a_model_that_is_not_in_the_cache_is_said(folder: Path) -> None:
    with pytest.raises(ConfigError, match="nothing is fetched unless `download` is true"):
        open_encoder("somebody-who-is-not-there/encoder")


Change = Callable[[Path], None]


def written(name: str, value: Any) -> Change:
    def change(folder: Path) -> None:
        (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))

    return change


def without(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (written("modules.json", [{"type": "x.Dense"}]), ConfigError, "this encoder has ['Dense']"),
        (written("modules.json", "["), DataError, "not the settings of a sentence encoder"),
        (written("modules.json", [{}]), DataError, "not the settings of a sentence encoder"),
        (written("1_Pooling/config.json", {"pooling_mode_cls_token": True}), ConfigError, "['pooling_mode_cls_token']"),
        (written("1_Pooling/config.json", {"pooling_mode": "cls"}), ConfigError, "['pooling_mode']"),
        (written("1_Pooling/config.json", []), DataError, "not the settings of a sentence encoder"),
        (written("sentence_bert_config.json", {"max_seq_length": "long"}), DataError, "sentence_bert_config.json"),
        (written("tokenizer_config.json", '{"model_max_length": Infinity}'), DataError, "tokenizer_config.json"),
        (written("tokenizer.json", "{}"), DataError, "tokenizer.json: cannot be read"),
        (without("tokenizer.json"), DataError, "tokenizer.json: cannot be read"),
        (without("model.safetensors"), DataError, "no model can be opened there"),
        (written("model.safetensors", "short"), DataError, "no model can be opened there"),
        (written("config.json", {"model_type": "unheard"}), DataError, "no model can be opened there"),
    ],
)
def test_a_folder_that_is_not_whole_or_another_encoder_is_refused(
    tmp_path: Path, change: Change, error: type[Exception], told: str
) -> None:
    folder = write_encoder(tmp_path / "encoder")
    change(folder)
    with pytest.raises(error, match=re.escape(told)):
        open_encoder(folder)


def test_missing_weights_are_not_drawn_at_random(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "encoder")
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: w for name, w in weights.items() if "pooler" not in name}, folder / "model.safetensors", {"format": "pt"}
    )
    assert open_encoder(folder).width == 16  # the pooler is not used
    save_file(
        {name: w for name, w in weights.items() if "layer.1" not in name},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(DataError, match=r"weights are missing in model.safetensors, encoder.layer.1"):
        open_encoder(folder)


def test_settings_may_be_absent(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "encoder")
    for name in ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json"):
        (folder / name).unlink()
    words = ["red"] * 14
    found = embed([" ".join(words), " ".join([*words, "nail"])], folder, show=False)
    assert found[0] == pytest.approx(found[1], abs=1e-6)  # 16 positions, two of them for [CLS] and [SEP]
    written("tokenizer_config.json", {"model_max_length": 4})(folder)
    found = embed(["red red", "red red nail", "red"], folder, show=False)
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    assert found[0] != pytest.approx(found[2], abs=1e-3)


def test_a_model_with_a_decoder_is_refused(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="a sentence encoder needs transformers")
    config = transformers.T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    transformers.T5Model(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="expected an encoder such as all-MiniLM-L6-v2, got one with a decoder"):
        open_encoder(tmp_path)


def test_without_transformers_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install \"recsys\[text\]\""):
        open_encoder(tmp_path)


VECTORS = np.array([[1.5, -2.0], [0.0, 3.0], [4.0, 0.25]], dtype=np.float32)


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "f2", "i1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numpy_files_are_read(tmp_path: Path, dtype: str, order: Any) -> None:
    saved = VECTORS.astype(dtype, order=order)
    np.save(tmp_path / "x.npy", saved)
    found = read_embeddings(tmp_path / "x.npy", 3)
    assert found.dtype == np.float32
    assert (found == saved).all()


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float16(), 2)])
def test_parquet_files_are_read(tmp_path: Path, kind: pa.DataType, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = VECTORS.astype(np.float16) if pa.types.is_float16(kind.value_type) else VECTORS
    table = pa.table({"item": ["x", "y", "z"], "vector": pa.array(list(rows), kind)})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=2)
    assert (read_embeddings(tmp_path / "x.parquet", 3) == VECTORS).all()


def numpy_file(array: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.save(folder / "x.npy", array, allow_pickle=True)
        return folder / "x.npy"

    return write


def parquet_file(**columns: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        pq.write_table(pa.table(columns), folder / "x.parquet")
        return folder / "x.parquet"

    return write


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda folder: folder / "absent.npy", "not a NumPy file of plain numbers"),
        (lambda folder: folder / "absent.parquet", "no such file"),
        (numpy_file(np.array([[{}]])), "not a NumPy file of plain numbers"),
        (numpy_file(np.array([["a"]] * 3)), "expected vectors [items, d] of numbers, got [3, 1] of <U1"),
        (numpy_file(np.zeros(3)), "expected vectors [items, d] of numbers, got [3] of float64"),
        (numpy_file(np.zeros((2, 2))), "expected [3, 1 to 65536], a vector for each item; got [2, 2]"),
        (numpy_file(np.zeros((3, 0))), "got [3, 0]"),
        (numpy_file(np.zeros((3, 65_537), np.int8)), "got [3, 65537]"),
        (numpy_file(np.array([[1.0], [np.nan], [np.inf]])), "2 of 3 vectors hold NaN, a null or what"),
        (numpy_file(np.array([[1.0], [1e39], [0]])), "1 of 3 vectors hold NaN, a null or what"),
        (parquet_file(a=[1, 2, 3]), "expected one column of lists, the vectors; got none"),
        (parquet_file(a=[[1], [2], [3]], b=[[1], [2], [3]]), "the vectors; got a, b"),
        (parquet_file(a=[[1.0], [2.0]]), "a vector for each item; got [2, 1]"),
        (parquet_file(a=[[1.0], [2.0], None]), "1 items have no vector"),
        (parquet_file(a=[[1.0], [2.0], [None]]), "1 of 3 vectors hold NaN, a null or what"),
        (parquet_file(a=[[1.0], [2.0], [3.0, 4.0]]), "vectors of 1 to 2 numbers; expected one length"),
        (parquet_file(a=[[], [], []]), "got [3, 0]"),
        (parquet_file(a=[["x"], ["y"], ["z"]]), "the vectors hold no numbers"),
    ],
)
def test_vectors_that_cannot_be_read(tmp_path: Path, write: Callable[[Path], Path], told: str) -> None:
    with pytest.raises(DataError, match=re.escape(told)):
        read_embeddings(write(tmp_path), 3)


def test_row_groups_of_other_lengths_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"a": [[1.0]] * 5000 + [[1.0, 2.0]] * 5000})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=5000)
    with pytest.raises(DataError, match="numbers; expected one length"):
        read_embeddings(tmp_path / "x.parquet", 10_000)


@settings(max_examples=40)
@given(st.data())
def test_a_damaged_numpy_file_is_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("vectors") / "x.npy"
    np.save(path, VECTORS)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, 127))  # the header
    if data.draw(st.booleans()):
        content = content[:place]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        assert read_embeddings(path, 3).shape[0] == 3  # another order of bytes or columns is still a table
