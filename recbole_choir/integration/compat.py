"""RecBole 1.2.1 made to work with today's numpy, pandas and scipy.

Every remedy is confined to RecBole's own modules:

* numpy: RecBole writes ``np.float``, ``np.long`` and others into numpy itself, so that every
  library in the process sees them (and ``hasattr(np, "float")`` starts to lie); on numpy 2 that
  also fails. Here RecBole's modules get a private view of numpy that knows the old names; numpy
  itself is left alone.
* pandas: the few methods that pandas 3 breaks are compiled again from RecBole's source with two
  expressions rewritten (:class:`_PandasThree`). What pandas 2 does with the result is unchanged.
* pandas' Python parser, which RecBole reads atomic files with, gives way to the C parser: the same
  frame, some five to ten times sooner (:func:`read_atomic_frame`).
* torch: importing RecBole's models leaves anomaly detection as it was.
* scipy: ``dok_matrix._update`` is given back where scipy has removed it, under its private name.

The remedies apply on every version of these libraries, so that there is one behaviour to test.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

# The names that RecBole sets in Config.compatibility_settings, with the types it means by them.
NUMPY_ALIASES: dict[str, Any] = {
    "bool": np.bool_,
    "int": np.int_,
    "float": np.float64,
    "complex": np.complex128,
    "object": np.object_,
    "str": np.str_,
    "long": np.int64,  # torch.long; C long is 32 bits on Windows
    "unicode": np.str_,
    "float_": np.float64,
    "complex_": np.complex128,
    "unicode_": np.str_,
}

# RecBole's modules that use one of them. trainer/hyper_tuning.py does too, but needs ray.
_NUMPY_USERS = (
    "recbole.data.interaction",
    "recbole.data.dataset.dataset",
    "recbole.evaluator.metrics",
    "recbole.model.abstract_recommender",
    "recbole.model.layers",
    "recbole.model.context_aware_recommender.ffm",
)

# (module, class, method, rewrites expected in it); the count guards against another RecBole.
_PANDAS_METHODS = (
    ("recbole.data.dataset.dataset", "Dataset", "_load_feat", 2),
    ("recbole.data.dataset.dataset", "Dataset", "_fill_nan", 2),
    ("recbole.data.dataset.dataset", "Dataset", "_normalize", 1),
    ("recbole.data.dataset.dataset", "Dataset", "_discretization", 2),
    ("recbole.data.dataset.dataset", "Dataset", "_remap", 1),
    ("recbole.data.dataset.kg_dataset", "KnowledgeBasedDataset", "_reset_ent_remapID", 1),
    ("recbole.data.dataset.sequential_dataset", "SequentialDataset", "_benchmark_presets", 1),
)

_MARK = "_recbole_choir_remedy"
_READER = "_recbole_choir_read_csv"


class _NumpyView(ModuleType):
    """numpy as RecBole expects it: the old aliases first, everything else from numpy."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def _numpy_view() -> ModuleType:
    view = _NumpyView("numpy", "numpy with the aliases that RecBole 1.2.1 uses")
    vars(view).update(NUMPY_ALIASES)
    return view


def read_atomic_frame(
    path: Any,
    delimiter: str,
    usecols: list[str],
    dtype: dict[str, Any],
    encoding: str | None,
    engine: str,
) -> pd.DataFrame:
    """Read an atomic file as ``pandas.read_csv(engine="python")`` does, with the C parser.

    Numbers are made from their text by Python's own rule, exactly; the parsers' own may differ in
    the last bits. A separator of several characters, which only the Python parser knows, is left
    to it.

    Args:
        path, delimiter, usecols, dtype, encoding, engine: As RecBole gives them.

    Returns:
        The same frame, some ten times sooner.
    """
    columns: dict[str, Any] = {"delimiter": delimiter, "usecols": usecols, "encoding": encoding}
    if len(delimiter) != 1:
        return pd.read_csv(path, dtype=dtype, engine="python", **columns)
    # "nan", "NA" and "null" are names like any other; only an empty field is a missing one.
    frame = pd.read_csv(
        path, dtype=str, engine="c", keep_default_na=False, na_values=[""], **columns
    )
    for name, kind in dtype.items():
        if kind is not str:
            frame[name] = frame[name].to_numpy(object).astype(kind)
    return frame


class _PandasThree(ast.NodeTransformer):
    """Rewrite the two idioms that pandas 3 broke, and the slow way of reading.

    ``series.agg(len)`` is the length of the whole series under pandas 3; ``series.map(len)`` is
    element by element under every version. ``frame[f].fillna(value=v, inplace=True)`` fills a
    temporary copy under copy-on-write; ``frame[f] = frame[f].fillna(value=v)`` writes through.
    """

    def __init__(self) -> None:
        self.count = 0

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        is_agg_len = (
            isinstance(node.func, ast.Attribute)
            and node.func.attr == "agg"
            and len(node.args) == 1
            and isinstance(node.args[0], ast.Name)
            and node.args[0].id == "len"
        )
        if is_agg_len and isinstance(node.func, ast.Attribute):
            node.func.attr = "map"
            self.count += 1
        if isinstance(node.func, ast.Attribute) and node.func.attr == "read_csv":
            node.func = ast.copy_location(ast.Name(id=_READER, ctx=ast.Load()), node.func)
            self.count += 1
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        self.generic_visit(node)
        call = node.value
        if not (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr == "fillna"
            and isinstance(call.func.value, ast.Subscript)
            and any(k.arg == "inplace" for k in call.keywords)
        ):
            return node
        source = call.func.value
        call.keywords = [k for k in call.keywords if k.arg != "inplace"]
        target = ast.Subscript(value=source.value, slice=source.slice, ctx=ast.Store())
        self.count += 1
        return ast.copy_location(ast.Assign(targets=[target], value=call), node)


def _rewritten(function: FunctionType, expected: int) -> Callable[..., Any]:
    """Compile ``function`` again with the pandas rewrites; tracebacks keep RecBole's own lines."""
    lines, first_line = inspect.getsourcelines(function)
    tree = ast.parse(textwrap.dedent("".join(lines)))
    transformer = _PandasThree()
    tree = ast.fix_missing_locations(transformer.visit(tree))
    if transformer.count != expected:
        raise ImportError(
            f"recbole {function.__qualname__}: expected {expected} pandas idioms, found "
            f"{transformer.count}; recbole-choir needs RecBole 1.2.1 exactly"
        )
    ast.increment_lineno(tree, first_line - 1)
    names: dict[str, Any] = {}
    code = compile(tree, inspect.getsourcefile(function) or "<recbole>", "exec")
    exec(code, function.__globals__, names)
    result = names[function.__name__]
    result.__qualname__ = function.__qualname__
    setattr(result, _MARK, True)
    return result


def _no_numpy_settings(self: object) -> None:
    """RecBole's own settings write into numpy; :func:`apply` has made them unnecessary."""


def _dok_update(self: Any, data: dict[tuple[int, int], Any]) -> None:
    """scipy's removed ``dok_matrix._update``: take over entries without checking each."""
    self._dict.update(data)


def apply_autograd() -> None:
    """Import RecBole's models without their side effect on the whole process.

    ``sequential_recommender/sine.py`` turns autograd's anomaly detection on when it is imported;
    every backward pass of the process is slower from then on.
    """
    before = torch.is_anomaly_enabled()
    importlib.import_module("recbole.model.sequential_recommender")
    torch.autograd.set_detect_anomaly(before)


def apply_numpy() -> None:
    """Give RecBole's modules the numpy aliases they use (table rows 2 and, in part, 6 and 7)."""
    from recbole.config.configurator import Config

    view = _numpy_view()
    for name in _NUMPY_USERS:
        module = importlib.import_module(name)
        if not isinstance(vars(module).get("np"), _NumpyView):
            module.np = view  # type: ignore[attr-defined]
    Config.compatibility_settings = _no_numpy_settings


def apply_pandas() -> None:
    """Rewrite the methods of RecBole's datasets that pandas 3 breaks (rows 4 to 7)."""
    for module_name, class_name, method, expected in _PANDAS_METHODS:
        module = importlib.import_module(module_name)
        setattr(module, _READER, read_atomic_frame)
        cls = getattr(module, class_name)
        function = vars(cls)[method]
        if not hasattr(function, _MARK):
            setattr(cls, method, _rewritten(function, expected))


def apply_scipy() -> None:
    """Restore ``dok_matrix._update`` where scipy removed it (row 8)."""
    if not hasattr(sp.dok_matrix, "_update"):
        sp.dok_matrix._update = _dok_update


def apply() -> None:
    """Make RecBole 1.2.1 work with the installed numpy, pandas and scipy. Idempotent.

    Raises:
        ImportError: RecBole is missing, or is not the version whose code is remedied here.
    """
    apply_autograd()
    apply_numpy()
    apply_pandas()
    apply_scipy()
