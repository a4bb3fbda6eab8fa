"""Atomic files read by the C parser: the frame of RecBole's Python parser, numbers exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_choir.integration.compat import read_atomic_frame

# "NA" and "null" are names like any other; only an empty field is a missing one.
NAMES: dict[str, Any] = {"keep_default_na": False, "na_values": [""]}
LINES = [
    "u:token\tt:float\tx:token_seq\tf:float\ty:token",
    "01\t978300760.123456789\ta b\t0.1\tNA",
    "2\t1506826828020\t\t1e-320\t",
    '"q\tr"\t0.30000000000000004\t"a\nb"\t\tnull',
    "  ü \t-5\tc\t179769313486231570000\t1.0",
    "05\tnan\td\tinf\tTrue",
]


@pytest.mark.parametrize("separator", ["\t", ",", "::"])
def test_frames_are_those_of_the_python_parser(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "x.inter"
    # A separator of several characters is a pattern, which knows no quotes.
    lines = [line for line in LINES if len(separator) == 1 or '"' not in line]
    path.write_text("\n".join(lines).replace("\t", separator) + "\n", encoding="utf-8")
    columns = ["u:token", "t:float", "x:token_seq", "f:float", "y:token"]
    dtype = {c: np.float64 if c.endswith("float") else str for c in columns}
    named = NAMES if len(separator) == 1 else {}
    wanted = pd.read_csv(
        path,
        delimiter=separator,
        usecols=columns,
        dtype=dtype,
        encoding="utf-8",
        engine="python",
        **named,
    )
    got = read_atomic_frame(path, separator, columns, dtype, "utf-8", "python")
    # pandas 2 rounds numbers to 15 digits on the way; here they are exact under every version.
    pd.testing.assert_frame_equal(got, wanted, check_exact=False, rtol=1e-14)
    texts = pd.read_csv(
        path, delimiter=separator, dtype=str, encoding="utf-8", engine="python", **NAMES
    )
    for name in ("t:float", "f:float"):
        exact = [float(v) if isinstance(v, str) else np.nan for v in texts[name]]
        if len(separator) == 1:
            assert got[name].to_numpy().tobytes() == np.array(exact).tobytes()


def test_random_numbers_are_equal_bit_for_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal(20_000) * 10.0 ** rng.integers(-300, 300, 20_000)
    path = tmp_path / "x.inter"
    text = [f"{v!r}" for v in values.tolist()]
    path.write_text("v:float\n" + "\n".join(text) + "\n")
    got = read_atomic_frame(path, "\t", ["v:float"], {"v:float": np.float64}, None, "python")
    assert got["v:float"].to_numpy().tobytes() == values.tobytes()
