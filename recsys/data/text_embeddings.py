"""Texts to vectors by a sentence encoder on this machine, and vectors that somebody else made, from a file.

Reimers and Gurevych 2019, "Sentence-BERT" (EMNLP, arXiv 1908.10084): the mean of a transformer's last states over the
tokens of a text, scaled to length one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from safetensors import SafetensorError
from torch import Tensor
from tqdm import tqdm

from recsys.data.listed import is_list
from recsys.data.parquet import batches, open_parquet
from recsys.data.values import whole
from recsys.errors import ConfigError, DataError, MissingExtraError
from recsys.files import read_json

__all__ = ["TOKENS", "WIDEST", "SentenceEncoder", "embed", "open_encoder", "read_embeddings"]

Floats = npt.NDArray[np.float32]

TOKENS = 2048
"""Tokens of a batch, padding among them: on one core as fast as any, and twice as fast as 16,384."""

CHUNK = 16_384
"""Texts that are cut into tokens and sorted by length at once: enough that batches hold texts of one length."""

WIDEST = 65_536
"""Most columns that vectors may have."""

_KNOWN = {"Transformer", "Pooling", "Normalize"}
"""Steps of a sentence encoder's `modules.json` that `embed` takes."""


@dataclass(frozen=True)
class SentenceEncoder:
    """A transformer with its tokenizer.

    Attributes:
        tokenizer: A `tokenizers.Tokenizer` that cuts at the longest text and pads nothing.
        model: A `transformers` model whose result has `last_hidden_state` [B, L, d].
        padding: The token that fills a batch.
    """

    tokenizer: Any
    model: torch.nn.Module
    padding: int

    @property
    def width(self) -> int:
        """Columns d of its vectors."""
        return int(self.model.config.hidden_size)  # type: ignore[union-attr,arg-type]

    @torch.inference_mode()
    def encode(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Vectors [B, d] of length one: ``v / ‖v‖, v = Σ_t m_t h_t / Σ_t m_t``, m being 1 for tokens, 0 for padding.

        Args:
            tokens: Of each text, one or more.
        """
        device = next(self.model.parameters()).device
        rows = [torch.tensor(row, dtype=torch.int64) for row in tokens]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.padding)
        lengths = torch.tensor([len(row) for row in tokens])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).to(device)
        states = self.model(input_ids=ids.to(device), attention_mask=mask.long()).last_hidden_state.float()
        mean = (states * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return torch.nn.functional.normalize(mean, dim=1)


def embed(
    texts: pa.Array | pa.ChunkedArray | Sequence[str | None],
    encoder: SentenceEncoder | Path | str,
    device: str = "cpu",
    download: bool = False,
    show: bool = True,
) -> Floats:
    """Vectors [n, d] of length one, in the order of the texts; a missing text has the vector of the empty one.

    Texts of similar length are computed together, so that little is padded. What is longer than the encoder takes is
    cut.

    Args:
        texts: Titles, descriptions: one a row.
        encoder: See `open_encoder`.
        device: Where the transformer runs.
        download: See `open_encoder`.
        show: A progress bar on standard error.

    Raises:
        DataError: When the texts are no texts, and see `open_encoder`.
        ConfigError: When the device cannot be used, and see `open_encoder`.
        MissingExtraError: See `open_encoder`.
    """
    column = _texts(texts)
    made = encoder if isinstance(encoder, SentenceEncoder) else open_encoder(encoder, download)
    try:
        made.model.to(device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for the device
        raise ConfigError(f"device {device!r} cannot be used here: {_first_line(error)}") from None
    found = np.empty((len(column), made.width), dtype=np.float32)
    with tqdm(total=len(column), desc="embed", unit=" texts", disable=None if show else True) as bar:
        for begin in range(0, len(column), CHUNK):
            chunk = [text or "" for text in column[begin : begin + CHUNK].to_pylist()]
            # a tokenizer that puts nothing around a text has no token for the empty one
            tokens = [encoding.ids or [made.padding] for encoding in made.tokenizer.encode_batch(chunk)]
            for rows in _batches([len(row) for row in tokens]):
                found[begin + rows] = made.encode([tokens[row] for row in rows]).cpu().numpy()
                bar.update(len(rows))
    return found


def open_encoder(encoder: Path | str, download: bool = False) -> SentenceEncoder:
    """Open a sentence encoder: a Hugging Face folder with `model.safetensors`, `config.json` and `tokenizer.json`.

    Nothing is fetched unless `download` is true, no code of the folder is run, and no pickle read.

    Args:
        encoder: The folder; or the name of a model on the Hugging Face hub, which is looked for in this machine's
            cache.
        download: Whether the hub may be asked for it.

    Raises:
        DataError: When the folder lacks a file or holds a broken one.
        ConfigError: When there is no such folder or model, or vectors are made in another way than by the mean.
        MissingExtraError: Without `transformers`.
    """
    try:
        import tokenizers
        import transformers
    except ImportError as error:
        told = f'a sentence encoder needs transformers ({error}): pip install "recsys[text]"'
        raise MissingExtraError(told) from None
    folder = _folder(encoder, download)
    _check_means(folder)
    model = _model(folder, transformers)
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the tokenizers package raises nothing more special
        raise DataError(f"{folder / 'tokenizer.json'}: cannot be read: {_first_line(error)}") from None
    tokenizer.no_padding()
    tokenizer.enable_truncation(_longest(folder, model.config))
    return SentenceEncoder(tokenizer, model, model.config.pad_token_id or 0)


def read_embeddings(path: Path, items: int) -> Floats:
    """Vectors [items, d] float32 from a NumPy file (.npy) or the list column of a Parquet file; row i - 1 is item i.

    Args:
        path: The file.
        items: How many items there are.

    Raises:
        DataError: When it is no such file, has another number of rows, vectors of different lengths, more than
            `WIDEST` columns, or values that are no finite numbers.
    """
    found = _from_numpy(path, items) if path.suffix == ".npy" else _from_parquet(path, items)
    if bad := int((~np.isfinite(found).all(axis=1)).sum()):
        raise DataError(f"{path}: {bad} of {items} vectors hold NaN, a null or what float32 cannot hold")
    return found


def _texts(texts: pa.Array | pa.ChunkedArray | Sequence[str | None]) -> pa.Array:
    try:
        column = whole(texts if isinstance(texts, pa.Array | pa.ChunkedArray) else pa.array(texts, pa.large_string()))
        if not (pa.types.is_null(column.type) or pa.types.is_string(column.type)):
            column = column.cast(pa.large_string())
        column.validate(full=True)
    except (pa.ArrowException, UnicodeEncodeError, TypeError) as error:
        raise DataError(f"expected texts to embed: {_first_line(error)}") from None
    return column


def _batches(lengths: list[int]) -> Iterator[npt.NDArray[np.int64]]:
    """Rows by length, longest first, in batches of at most `TOKENS` with their padding, but of one row at least."""
    order = np.argsort(np.negative(lengths), kind="stable")
    begin = 0
    while begin < len(order):
        size = max(1, TOKENS // max(1, lengths[order[begin]]))
        yield order[begin : begin + size]
        begin += size


def _folder(encoder: Path | str, download: bool) -> Path:
    """The encoder's folder on this disk."""
    if Path(encoder).is_dir():
        return Path(encoder)
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.txt", "model*.safetensors"]
    try:
        return Path(snapshot_download(str(encoder), allow_patterns=patterns, local_files_only=not download))
    except (OSError, ValueError, RuntimeError) as error:
        hint = "" if download else ", and nothing is fetched unless `download` is true"
        raise ConfigError(
            f"encoder {str(encoder)!r}: no such folder, and no model of that name in the Hugging Face cache{hint} "
            f"({_first_line(error)})"
        ) from None


def _model(folder: Path, transformers: Any) -> Any:
    """The transformer with all of its weights, ready to encode."""
    told = transformers.utils.logging
    shown = told.is_progress_bar_enabled()
    told.disable_progress_bar()  # it would also be drawn where nobody looks
    try:
        model, loaded = transformers.AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{folder}: no model can be opened there: {_first_line(error)}") from None
    finally:
        if shown:
            told.enable_progress_bar()
    if model.config.is_encoder_decoder:
        raise ConfigError(f"{folder}: expected an encoder such as all-MiniLM-L6-v2, got one with a decoder")
    # transformers would draw weights that are missing at random; those of the pooler are not used
    missing = sorted(name for name in loaded["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise DataError(f"{folder}: {len(missing)} weights are missing in model.safetensors, {missing[0]} among them")
    return model.float().eval().requires_grad_(False)


def _check_means(folder: Path) -> None:
    """Refuse a sentence encoder that does more than `embed` would, such as another pooling or a dense layer."""
    modules, pooling = folder / "modules.json", folder / "1_Pooling" / "config.json"
    try:
        steps = [step["type"].rpartition(".")[2] for step in read_json(modules)] if modules.is_file() else []
        asked = read_json(pooling) if pooling.is_file() else {}
        ways = [name for name, on in asked.items() if name.startswith("pooling_mode") and on not in (False, "mean")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder}: not the settings of a sentence encoder: {error!r}") from None
    more = [step for step in steps if step not in _KNOWN] + [way for way in ways if way != "pooling_mode_mean_tokens"]
    if more:
        raise ConfigError(f"{folder}: expected a mean of states, scaled to length one; this encoder has {more}")


def _longest(folder: Path, config: Any) -> int:
    """Most tokens of a text: what the encoder was trained with, its tokenizer allows and it has positions for."""
    longest = int(getattr(config, "max_position_embeddings", 0) or 512)
    for name, key in (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length")):
        settings = folder / name
        try:
            asked = read_json(settings).get(key) if settings.is_file() else None
            longest = min(longest, int(asked or longest))
        except (OSError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise DataError(f"{settings}: not the settings of a sentence encoder: {error!r}") from None
    return max(longest, 3)  # two of them stand at the ends


def _from_numpy(path: Path, items: int) -> Floats:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy has Python parse the header, which fails in many ways
        raise DataError(f"{path}: not a NumPy file of plain numbers: {_first_line(error)}") from None
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise DataError(f"{path}: expected vectors [items, d] of numbers, got {list(array.shape)} of {array.dtype}")
    _check_shape(path, items, *array.shape)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which is refused
        return np.asarray(array, dtype=np.float32)


def _from_parquet(path: Path, items: int) -> Floats:
    file = open_parquet(path)
    lists = [field.name for field in file.schema_arrow if is_list(field.type)]
    if len(lists) != 1:
        raise DataError(f"{path}: expected one column of lists, the vectors; got {', '.join(lists) or 'none'}")
    if file.metadata.num_rows != items:
        _check_shape(path, items, file.metadata.num_rows, 1)
    found = np.empty((items, 0), dtype=np.float32)
    begin = 0
    for part in batches(path, file.metadata, range(file.metadata.num_row_groups), lists, 4096):
        rows = _vectors(path, whole(part[lists[0]]))
        if not begin:
            _check_shape(path, items, items, rows.shape[1])
            found = np.empty((items, rows.shape[1]), dtype=np.float32)
        if rows.shape[1] != found.shape[1]:
            raise DataError(f"{path}: vectors of {found.shape[1]} and of {rows.shape[1]} numbers; expected one length")
        found[begin : begin + len(rows)] = rows
        begin += len(rows)
    return found


def _vectors(path: Path, lists: pa.Array) -> Floats:
    """Lists of one length as rows."""
    if lists.null_count:
        raise DataError(f"{path}: {lists.null_count} items have no vector")
    lengths = np.asarray(lists.value_lengths().to_numpy(zero_copy_only=False))
    if (lengths != lengths[0]).any():
        raise DataError(f"{path}: vectors of {lengths.min()} to {lengths.max()} numbers; expected one length")
    try:
        flat = lists.flatten().cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    except pa.ArrowException as error:
        raise DataError(f"{path}: the vectors hold no numbers: {_first_line(error)}") from None
    return np.asarray(flat, dtype=np.float32).reshape(len(lists), -1)


def _check_shape(path: Path, items: int, rows: int, columns: int) -> None:
    if rows != items or not 1 <= columns <= WIDEST:
        raise DataError(f"{path}: expected [{items}, 1 to {WIDEST}], a vector for each item; got [{rows}, {columns}]")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
