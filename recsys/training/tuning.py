"""Search a recipe's hyper-parameters with Optuna: same data, seed and budget for every trial, nothing lost by a kill.

The state is Optuna's journal, ``OUT/journal.jsonl``: lines of JSON, to which every epoch of a trial is added.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from recsys.config import override
from recsys.data.readers import Dataset
from recsys.data.schema import Schema
from recsys.errors import CheckpointError, ConfigError, DataError, MissingExtraError
from recsys.files import locked, make_folder
from recsys.models.base import RankingModel
from recsys.models.checkpoint import is_checkpoint
from recsys.models.registry import build
from recsys.training.prepare import Prepared, prepare
from recsys.training.recipe import Recipe
from recsys.training.run import check_fit, open_data
from recsys.training.search import Choices, Range, encoded, search_space, whole
from recsys.training.trainer import Progress, Trainer
from recsys.training.tuned import FILES, Trial, Tuned, write

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

__all__ = ["tune"]

STARTUP = 5
"""Trials that run to their end before any is pruned."""
WARM_UP = 0.25
"""Share of the epochs within which no trial is pruned: small learning rates begin slowly."""
WEIGHED = 10
"""Trials that ran to their end from which on the parameters' importances say something."""
TRIES = 2
"""How often the same parameters are tried when the process is killed over them."""
JOURNAL = "journal.jsonl"


def tune(
    recipe: Recipe,
    trials: int,
    out: Path,
    *,
    overwrite: bool = False,
    show: bool = True,
    report: Callable[[Tuned], None] | None = None,
) -> Tuned:
    """Train `trials` variants of a recipe and keep the one with the best watched metric on the validation rows.

    The first trial is the recipe as it is, so the best is never worse than the start on the validation rows. A trial
    is pruned when after an epoch it is worse than the median of the trials before it; one whose loss is no number, or
    that the model refuses, counts as pruned too. What is searched is the recipe's `search`, or `default_space`.

    An interrupted call goes on where it was when it is given again: finished trials are kept, and what was running is
    tried again, once if the process was killed. Each trial's sampler is seeded with the recipe's seed and the number
    of finished trials, and a training depends on its recipe alone, so on one machine, with as many threads and the same
    versions, the trials are the same whether or not there was an interruption, and in every call.

    Args:
        recipe: The model, its data, how it is trained, and what is searched.
        trials: How many are to be finished in all, pruned ones among them, those of earlier calls too.
        out: Folder of ``best.toml``, ``trials.csv``, ``tuning.png`` and the search's state.
        overwrite: Start again even if `out` holds another search.
        show: Progress bars on standard error.
        report: Called after every trial.

    Raises:
        MissingExtraError: Without Optuna.
        ConfigError: When `out` holds a search of another recipe, space or data, or the recipe cannot be trained.
        CheckpointError: When `out` holds a trained model, or a search's state that is damaged.
        DataError: When the data cannot be read, the disk refuses, or another process searches in `out`.
    """
    if trials < 1:
        raise ConfigError(f"expected at least one trial, got {trials}")
    engine = _optuna()
    schema, rows = open_data(recipe.data)
    check_fit(recipe.model, schema)
    if is_checkpoint(out):
        raise CheckpointError(f"{out}: holds a trained model; name another folder")
    make_folder(out)
    with locked(out / ".lock"), _within(engine, out):
        if overwrite:
            for name in (JOURNAL, *FILES):
                (out / name).unlink(missing_ok=True)
        search = _Search(engine, recipe, schema, rows, out)
        if search.finished() < trials:
            prepared = prepare(schema, *rows, recipe.training.shuffle_rows, None, show)
            while search.finished() < trials:
                search.go_on(prepared, show)
                tuned = search.tuned()
                write(tuned, figure=False)
                if report is not None:
                    report(tuned)
        tuned = search.tuned(search.importances())
        write(tuned)
    return tuned


class _Search:
    """A study of Optuna's and what it is about.

    Args:
        engine: The module `optuna`.
        recipe: Where the search begins.
        schema: Of the rows.
        rows: To train on, and to validate on.
        out: Folder of the journal.
    """

    def __init__(
        self, engine: ModuleType, recipe: Recipe, schema: Schema, rows: tuple[Dataset, Dataset], out: Path
    ) -> None:
        self.engine, self.recipe, self.out = engine, recipe, out
        self.space = search_space(recipe)
        self.distributions = {key: _distribution(engine, recipe, key, part) for key, part in self.space.items()}
        self.metric = "rmse" if schema.labels[0].kind == "regression" else recipe.training.monitor
        self.study = self._opened(_fingerprint(recipe, self.space, schema, rows))

    def _opened(self, fingerprint: str) -> optuna.Study:
        journal, engine = self.out / JOURNAL, self.engine
        _mend(journal)
        try:
            storage = engine.storages.JournalStorage(engine.storages.journal.JournalFileBackend(str(journal)))
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            raise CheckpointError(f"{journal}: is damaged ({error}); say overwrite to start again") from None
        if any(study.study_name != fingerprint for study in storage.get_all_studies()):
            raise ConfigError(
                f"{self.out}: holds a search with another recipe, search space, schema or data; "
                "name another folder, or say overwrite to start again"
            )
        warm_up = int(self.recipe.training.epochs * WARM_UP)
        study: optuna.Study = engine.create_study(
            study_name=fingerprint,
            storage=storage,
            direction="maximize" if self.metric == "auc" else "minimize",
            pruner=engine.pruners.MedianPruner(STARTUP, n_warmup_steps=warm_up + 1),  # steps are epochs, from 1
            load_if_exists=True,
        )
        return study

    def finished(self) -> int:
        """Trials that ran to their end or were pruned."""
        return len(self._done())

    def _done(self) -> list[FrozenTrial]:
        return [t for t in self.study.get_trials(deepcopy=False) if t.state.name in ("COMPLETE", "PRUNED")]

    def go_on(self, prepared: Prepared, show: bool) -> None:
        """Run one trial."""
        trial = self._next()
        begun = time.monotonic()
        try:
            value, why = self._value(trial, prepared, show)
        except KeyboardInterrupt:
            trial.set_user_attr("tries", _tries(trial) - 1)  # the parameters are not to blame
            raise
        trial.set_user_attr("seconds", round(time.monotonic() - begun, 3))
        trial.set_user_attr("why", why)
        self.study.tell(trial, value, state=None if value is not None else self.engine.trial.TrialState.PRUNED)

    def _next(self) -> optuna.Trial:
        """The recipe as it is, or what was cut short, or what the sampler proposes."""
        self._cut_off()
        trials = self.study.get_trials(deepcopy=False)
        last = trials[-1] if trials else None
        if last is None or last.state.name != "WAITING":  # else a kill came between these lines and `ask`
            if not self._done():
                self.study.enqueue_trial(self._start())
            elif last is not None and last.state.name == "FAIL" and _tries(last) < TRIES:
                self.study.enqueue_trial(last.params, {"tries": _tries(last) + 1})
        given_up = sum(t.state.name == "FAIL" and _tries(t) >= TRIES for t in trials)
        seed = np.random.SeedSequence([self.recipe.training.seed, self.finished() + given_up]).generate_state(1)
        self.study.sampler = self.engine.samplers.TPESampler(seed=int(seed[0]))
        return self.study.ask(self.distributions)

    def _cut_off(self) -> None:
        """Close the trial that a kill left running."""
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state.name == "RUNNING":
                self.study.tell(trial.number, state=self.engine.trial.TrialState.FAIL)

    def _start(self) -> dict[str, Any]:
        """The recipe's own values, as Optuna has them."""
        own = {key: encoded(self.recipe, key) for key in self.space}
        return {
            key: own[key] if isinstance(part, Choices) else json.loads(own[key]) for key, part in self.space.items()
        }

    def _value(self, trial: optuna.Trial, prepared: Prepared, show: bool) -> tuple[float | None, str]:
        """The best epoch's metric; or None, and why there is none."""
        try:
            changed = override(self.recipe, self._parameters(trial))
            return self._trained(changed, trial, prepared, show), ""
        except self.engine.TrialPruned:
            return None, "worse than the median"
        except ConfigError as error:
            if not self._done():
                raise  # the recipe itself cannot be trained
            return None, str(error)

    def _trained(self, recipe: Recipe, trial: optuna.Trial, prepared: Prepared, show: bool) -> float:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.training.seed)
            model = build(recipe.model, prepared.encoder.inputs)

        def watch(progress: Progress) -> None:
            value = progress.history[-1][f"valid_{self.metric}"]
            if value is None:
                raise ConfigError(f"the validation metric of epoch {progress.epoch} is no number")
            trial.report(value, progress.epoch)
            if progress.epoch < recipe.training.epochs and trial.should_prune():
                raise self.engine.TrialPruned

        trainer = Trainer(model, prepared.train, prepared.valid, recipe.training, report=watch)
        try:
            best = trainer.fit(show).best
        except DataError:
            if not _diverged(model):
                raise
            raise ConfigError("the weights are no numbers any more") from None
        return best if self.metric == "auc" else -best

    def _parameters(self, trial: optuna.Trial | FrozenTrial) -> dict[str, Any]:
        """Dotted keys and values, as a recipe has them."""
        return {
            key: json.loads(trial.params[key]) if isinstance(part, Choices) else trial.params[key]
            for key, part in self.space.items()
        }

    def tuned(self, importances: Mapping[str, float] | None = None) -> Tuned:
        """Where the search stands."""
        trials = tuple(self._told(number, trial) for number, trial in enumerate(self._done(), 1))
        return Tuned(self.recipe, self.space, self.metric, trials, self.out, importances or {})

    def _told(self, number: int, trial: FrozenTrial) -> Trial:
        seen = trial.intermediate_values
        best = (max if self.metric == "auc" else min)(seen, key=seen.__getitem__, default=None)
        state: Literal["finished", "pruned"] = "finished" if trial.state.name == "COMPLETE" else "pruned"
        value = trial.value if state == "finished" else None if best is None else seen[best]
        about = trial.user_attrs
        return Trial(number, state, value, self._parameters(trial), len(seen), best, about["seconds"], about["why"])

    def importances(self) -> dict[str, float]:
        """Parameter -> its share of what the metric's variation is explained by; nothing of few trials."""
        if sum(trial.state.name == "COMPLETE" for trial in self._done()) < WEIGHED:
            return {}
        found: dict[str, float] = self.engine.importance.get_param_importances(self.study)
        return found


def _optuna() -> ModuleType:
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError(f'tuning needs Optuna ({error}): pip install "recsys[tune]"') from None
    return optuna


@contextlib.contextmanager
def _within(engine: ModuleType, out: Path) -> Iterator[None]:
    """Keep Optuna from printing what is reported here anyway, and say where the disk refused its journal."""
    before = engine.logging.get_verbosity()
    engine.logging.set_verbosity(engine.logging.ERROR)
    try:
        yield
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        engine.logging.set_verbosity(before)


def _mend(journal: Path) -> None:
    """Take away what a killed process left: half a line at the journal's end, and the lock that Optuna keeps beside it.

    Ours is held here, so nobody writes.
    """
    for left in journal.parent.glob(f"{journal.name}.lock*"):
        left.unlink(missing_ok=True)
    if journal.is_file():
        with journal.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def _distribution(engine: ModuleType, recipe: Recipe, key: str, part: Range | Choices) -> BaseDistribution:
    kinds = engine.distributions
    made: BaseDistribution
    if isinstance(part, Choices):
        made = kinds.CategoricalDistribution([json.dumps(value) for value in part.choices])  # for lists are none to it
    elif whole(recipe, key):
        made = kinds.IntDistribution(int(part.low), int(part.high), log=part.log)
    else:
        made = kinds.FloatDistribution(part.low, part.high, log=part.log)
    return made


def _fingerprint(
    recipe: Recipe, space: Mapping[str, Range | Choices], schema: Schema, rows: tuple[Dataset, Dataset]
) -> str:
    """Of all that decides a trial."""
    parts = [
        recipe.model_dump(mode="json", exclude={"data": True, "search": True, "training": {"save_seconds"}}),
        {key: part.model_dump(mode="json") for key, part in space.items()},
        schema.model_dump(mode="json"),
        [data.identity() for data in rows],
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _tries(trial: optuna.Trial | FrozenTrial) -> int:
    return int(trial.user_attrs.get("tries", 1))


def _diverged(model: RankingModel) -> bool:
    return not all(bool(parameter.isfinite().all()) for parameter in model.parameters())
