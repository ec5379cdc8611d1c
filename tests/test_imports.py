"""Importing recsys does nothing but bind names."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import recsys

NEVER = {"fbgemm_gpu", "ray", "torchrec", "transformers", "triton"}
"""What no public name may load."""
LATE = {"matplotlib", "numpy", "pandas", "pyarrow", "pydantic", "rich", "scipy", "sklearn", "torch", "tyro"}
"""What `import recsys` leaves to its names."""


def in_fresh_python(code: str) -> Any:
    """Run it; its last line is JSON."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_import_loads_nothing_heavy() -> None:
    loaded = in_fresh_python("import recsys, sys, json; print(json.dumps([m.split('.')[0] for m in sys.modules]))")
    assert "recsys" in loaded
    assert not set(loaded) & (NEVER | LATE)


def test_public_names_but_the_scikit_learn_one_load_no_engine_and_no_plots() -> None:
    loaded = in_fresh_python(
        "import recsys, sys, json; [getattr(recsys, n) for n in recsys.__all__ if n != 'Ranker']\n"
        "print(json.dumps([m.split('.')[0] for m in sys.modules]))"
    )
    assert "torch" in loaded
    assert not set(loaded) & (NEVER | {"matplotlib", "sklearn"})


def test_import_changes_nothing_around_it() -> None:
    before, after = in_fresh_python(
        "import json, logging, os, sys, warnings\n"
        "def seen(): return [dict(os.environ), len(logging.root.handlers), [str(f) for f in warnings.filters],\n"
        "                    sys.path[:], os.getcwd()]\n"
        "before = seen()\n"
        "import recsys\n"
        "print(json.dumps([before, seen()]))"
    )
    assert before == after


def test_public_names_are_sorted_and_there() -> None:
    assert recsys.__all__ == sorted(recsys.__all__)
    assert dir(recsys) == recsys.__all__
    assert set(recsys._HOMES) == set(recsys.__all__) - {"__version__"}
    for name in recsys.__all__:
        assert getattr(recsys, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'recsys' has no attribute 'lod'"):
        recsys.lod  # noqa: B018


MODULES = [found.name for found in pkgutil.walk_packages(recsys.__path__, "recsys.")]


@pytest.mark.parametrize("name", MODULES)
def test_each_module_has_what_it_lists(name: str) -> None:
    module = importlib.import_module(name)
    names = getattr(module, "__all__", [])
    assert len(set(names)) == len(names)
    assert all(hasattr(module, one) for one in names)
    assert module.__doc__


def test_the_package_is_typed() -> None:
    assert (Path(recsys.__file__).parent / "py.typed").is_file()
