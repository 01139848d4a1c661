"""The rules of the house that no linter knows."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from forecaster import errors
from forecaster.reasons import ADVICE, ReasonCode

ROOT = Path(__file__).resolve().parent.parent


def test_the_drawing_of_the_errors_is_the_tree_of_classes() -> None:
    drawn = set(re.findall(r"\b(\w+Error)\b(?=\s|$)", errors.__doc__ or ""))
    classes = {name for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)}
    assert drawn == classes


def test_every_reason_code_has_a_meaning_and_an_advice() -> None:
    assert set(ADVICE) == set(ReasonCode)
    assert all(meaning.endswith(".") and advice.endswith(".") for meaning, advice in ADVICE.values())


@pytest.mark.parametrize("package", ["forecaster", "models", "training", "serving"])
def test_each_package_resolves_to_our_folder(package: str) -> None:
    code = f"import {package}; print({package}.__path__[0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert Path(done.stdout.strip()) == ROOT / package


def test_help_imports_neither_numpy_nor_a_web_framework() -> None:
    code = "import sys, serving.cli; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"numpy", "pandas", "torch", "mlflow", "fastapi", "sqlalchemy", "pydantic"}
    assert heavy.isdisjoint(done.stdout.split())


def test_no_module_of_ours_unpickles() -> None:
    loads = re.compile(r"\b(pickle|joblib|dill)\b|allow_pickle\s*=\s*True|torch\.load\(")
    guilty = [
        str(path.relative_to(ROOT))
        for package in ("forecaster", "models", "training", "serving")
        for path in (ROOT / package).rglob("*.py")
        if any(loads.search(line.split("#")[0]) and not line.lstrip().startswith(('"', "'")) for line in _code(path))
    ]
    assert guilty == []


def _code(path: Path) -> list[str]:
    """The lines of a module without its docstrings."""
    return re.sub(r'"""(?s:.*?)"""', "", path.read_text()).splitlines()
