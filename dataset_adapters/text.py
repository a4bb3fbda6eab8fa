"""Text made safe for tab-separated atomic files."""

from __future__ import annotations

import pandas as pd


def clean_text(values: pd.Series) -> pd.Series:
    """Make text safe for a cell of an atomic file.

    Runs of white space, tabs and line ends included, become one blank. A double quote becomes a
    single one: RecBole reads atomic files with quoting on, so that a cell that starts with a
    double quote would swallow the cells and lines behind it.

    Args:
        values: Text of any content.

    Returns:
        The same number of texts, stripped.
    """
    one_line = values.str.replace(r"[\s\x00-\x1f]+", " ", regex=True)
    return one_line.str.replace('"', "'", regex=False).str.strip()
