"""Which plan a session follows: one for a CPU's cores, or one for a GPU."""

from __future__ import annotations

from pathlib import Path

from recsys.dataflow.gpu_plan import GpuPlan, is_gpu_plan
from recsys.dataflow.plan import DataFlowPlan
from recsys.errors import ConfigError

__all__ = ["Plan", "for_cpu", "for_gpu", "read_plan"]

Plan = DataFlowPlan | GpuPlan


def read_plan(path: str | Path) -> Plan:
    """A plan of either kind.

    Raises:
        ConfigError: When the file is absent, no plan, or a plan that cannot be.
    """
    path = Path(path)
    return GpuPlan.read(path) if is_gpu_plan(path) else DataFlowPlan.read(path)


def for_cpu(plan: Plan | None) -> DataFlowPlan | None:
    """The plan, if a CPU can follow it.

    Raises:
        ConfigError: When it is a GPU's.
    """
    if isinstance(plan, GpuPlan):
        raise ConfigError(
            f"the plan for `{plan.workload}` is for a GPU ({plan.gpu}): use it with device cuda, or make one for a "
            "CPU's cores with `recsys plan`"
        )
    return plan


def for_gpu(plan: Plan | None) -> GpuPlan | None:
    """The plan, if a GPU can follow it.

    Raises:
        ConfigError: When it is a CPU's.
    """
    if isinstance(plan, DataFlowPlan):
        raise ConfigError(
            f"the plan for `{plan.workload}` is for a CPU's cores: use it with device cpu, or make one for a GPU with "
            "`recsys plan --device cuda`"
        )
    return plan
