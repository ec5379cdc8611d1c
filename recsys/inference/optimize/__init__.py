"""Bring your own model: any `nn.Module`, its look-ups and its network each run where they are fastest."""

from recsys.inference.optimize.entry import OptimizedModule, optimize
from recsys.inference.optimize.report import Left, Placed, Report
from recsys.inference.optimize.work import OptimizeConfig

__all__ = ["Left", "OptimizeConfig", "OptimizedModule", "Placed", "Report", "optimize"]
