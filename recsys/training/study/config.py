"""A study as a TOML file: what is compared, on which data, under which protocol, and how each arm is tuned."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from recsys.config import Config, Files, nearest, override, read_toml
from recsys.data.synthetic import Synthetic
from recsys.errors import ConfigError
from recsys.models.registry import AnyModelConfig
from recsys.shelves import shelf
from recsys.training.recipe import TrainingConfig

__all__ = ["Arm", "Plan", "Setting", "Study", "StudyData", "SyntheticRows", "find_study"]

Protocol = Literal["progressive", "holdout"]
Value = bool | int | float | str | tuple[int, ...]


class SyntheticRows(Synthetic):
    """Rows that `recsys data synthetic` would make."""

    rows: int = Field(200_000, ge=1)
    """How many; of a holdout study to train on, and a tenth more each to validate and to test on."""


class StudyData(Config):
    """One data set of a study: a named source, synthetic rows, or files with a schema."""

    name: str = Field(min_length=1)
    """What the tables call it."""
    source: str | None = None
    """A source that `recsys data list` names."""
    synthetic: SyntheticRows | None = None
    """Made rows."""
    schema_file: Path | None = None
    """Schema (TOML) of your own files, or another one for a source."""
    train: Files = ()
    """Your own files; of a progressive study all of them, in the order of time."""
    valid: Files = ()
    """Of a holdout study."""
    test: Files = ()
    """Of a holdout study."""
    bits: tuple[Annotated[int, Field(ge=1, le=31)], ...] = ()
    """Each makes a setting: all values are hashed into one table of 2^bits rows. Without, the schema decides."""
    window: int = Field(20_000, ge=2)
    """Rows of a window, whose AUC is one measurement; the paper's are 20,000."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = [self.source is not None, self.synthetic is not None, bool(self.train)]
        if sum(kinds) != 1:
            raise ValueError(f"data `{self.name}`: name one of `source`, `synthetic` and `train`")
        if self.train and self.schema_file is None:
            raise ValueError(f"data `{self.name}`: your own files need a `schema_file`")
        return self

    def below(self, folder: Path) -> Self:
        """The same with relative paths taken from `folder`."""
        files = {name: tuple(folder / file for file in getattr(self, name)) for name in ("train", "valid", "test")}
        return self.model_copy(update=files | {"schema_file": self.schema_file and folder / self.schema_file})


class Arm(Config):
    """One thing that is compared: a model with its arguments, and how it is trained."""

    name: str = Field(min_length=1)
    """What the tables call it."""
    model: dict[str, Any] = Field(min_length=1)
    """Its name and arguments, beside the study's."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the training, beside the study's."""
    hashes: int = Field(1, ge=1, le=8)
    """How many hashes a value has where values are hashed: as many tables, each as much narrower, so as many bytes."""
    tune: dict[str, tuple[Value, ...]] | None = None
    """A grid of its own in place of the study's; it must have as many points."""


class Study(Config):
    """Arms × settings × seeds."""

    title: str
    """What the study asks."""
    protocol: Protocol = "progressive"
    """`progressive`: one pass, predict then learn; `holdout`: train, stop early on valid, measure on test."""
    baseline: str
    """The arm that all others are compared with."""
    seeds: tuple[int, ...] = Field((1, 2, 3, 4, 5), min_length=1)
    """Each arm is run with each: start values, and the order of rows where rows are shuffled."""
    tuning_seed: int = 0
    """The grid is searched with this one; none of `seeds`, so that no arm is chosen by the luck it is judged by."""
    tune: dict[str, tuple[Value, ...]] = Field(default_factory=dict)
    """Dotted keys and their values: each arm is run at each point of the grid in each setting, and keeps the best."""
    gradients: bool = False
    """Show the gradients that the first batch gives."""
    model: dict[str, Any] = Field(default_factory=dict)
    """Arguments of every arm's model."""
    training: TrainingConfig = TrainingConfig()
    """How every arm is trained."""
    data: tuple[StudyData, ...] = Field(min_length=1)
    """Where it is measured."""
    arm: tuple[Arm, ...] = Field(min_length=2)
    """What is compared."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for what, names in (("arms", [a.name for a in self.arm]), ("data sets", [d.name for d in self.data])):
            if len(set(names)) < len(names):
                raise ValueError(f"two {what} have one name")
        for what, values in (("seeds", self.seeds), *((f"bits of `{data.name}`", data.bits) for data in self.data)):
            if len(set(values)) < len(values):
                raise ValueError(f"{what}: a value stands twice")
        for axes in (self.tune, *(arm.tune or {} for arm in self.arm)):
            _check_axes(axes)
        if self.baseline not in (names := [arm.name for arm in self.arm]):
            raise ValueError(f"baseline `{self.baseline}` is no arm: {nearest(self.baseline, names)}")
        if self.tuning_seed in self.seeds and any(len(grid) > 1 for grid in map(self.grid, self.arm)):
            raise ValueError(f"tuning_seed {self.tuning_seed} is one of `seeds`; choose another")
        if len({len(self.grid(arm)) for arm in self.arm}) > 1:
            told = ", ".join(f"{arm.name}: {len(self.grid(arm))}" for arm in self.arm)
            raise ValueError(f"every arm must be tuned with the same budget, and these have as many points: {told}")
        if self.protocol == "progressive" and any(not data.bits for data in self.data):
            raise ValueError("a progressive study needs `bits` of each data set: nothing is learnt before the pass")
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a study; relative paths in it are relative to its folder, and every recipe in it is checked.

        Raises:
            ConfigError: With the file's name, for anything that does not fit.
        """
        study = cls.parse(read_toml(path), str(path))
        study = study.model_copy(update={"data": tuple(data.below(path.parent) for data in study.data)})
        for arm in study.arm:
            for point in study.grid(arm):
                study.plan(arm, point, 0, str(path))
        return study

    def settings(self) -> list[Setting]:
        """Each data set with each of its table sizes."""
        return [Setting(data, bits) for data in self.data for bits in data.bits or (None,)]

    def grid(self, arm: Arm) -> list[dict[str, Any]]:
        """The points at which an arm is tuned; one, and empty, where nothing is."""
        axes = self.tune if arm.tune is None else arm.tune
        return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]

    def plan(self, arm: Arm, point: dict[str, Any], seed: int, where: str = "study") -> Plan:
        """The model and the training of an arm at a point of its grid.

        Raises:
            ConfigError: When arm or point do not fit the model or the training.
        """
        values = {"model": self.model | arm.model, "training": self.training.model_dump() | arm.training}
        changes = point | {"training.seed": seed}
        where = f"{where}: arm `{arm.name}`"
        found: Plan = override(Plan.parse(values, where), changes, where)
        return found


def _check_axes(axes: dict[str, tuple[Value, ...]]) -> None:
    for key, values in axes.items():
        if key in ("training.seed", "model.name"):
            raise ValueError(f"tune: `{key}` is no setting of an arm")
        if not values or len(set(values)) < len(values):
            raise ValueError(f"tune: `{key}`: expected values, each once, got {list(values)}")


class Plan(Config):
    """What one run trains."""

    model: AnyModelConfig
    training: TrainingConfig


@dataclass(frozen=True)
class Setting:
    """A data set and a table size."""

    data: StudyData
    bits: int | None

    @property
    def name(self) -> str:
        """What the tables call it."""
        return self.data.name if self.bits is None else f"{self.data.name}, 2^{self.bits} rows"


def find_study(name: str) -> Study:
    """The study of a TOML file's path, or of a name on the shelf such as `dcn2`.

    Raises:
        ConfigError: When it is neither.
    """
    if name.endswith(".toml"):
        return Study.load(Path(name))
    folder = shelf("models") / "studies"
    if Path(name).name == name and (folder / f"{name}.toml").is_file():
        return Study.load(folder / f"{name}.toml")
    known = [path.stem for path in folder.glob("*.toml")]
    raise ConfigError(f"`{name}` is neither a study file (.toml) nor one of the studies here: {nearest(name, known)}")
