"""A tiny dataset with every kind of hole that RecBole meets: see tiny_data."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def tiny_data(tmp_path: Path) -> Path:
    """A data_path with dataset `tiny`.

    u3 has no row in .user and i3 none in .item; one rating, one tag list and one float list are
    missing. Ratings present: 5, 5, 1, 5 (mean 4). Heights present: 160, 180 (mean 170).
    """
    folder = tmp_path / "data" / "tiny"
    folder.mkdir(parents=True)
    (folder / "tiny.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "u1\ti1\t5\t10\nu1\ti2\t5\t20\nu2\ti1\t1\t30\nu2\ti3\t5\t40\nu3\ti2\t\t50\n"
    )
    (folder / "tiny.user").write_text(
        "user_id:token\tage:token\theight:float\nu1\tyoung\t160\nu2\told\t180\n"
    )
    (folder / "tiny.item").write_text(
        "item_id:token\ttags:token_seq\tvec:float_seq\ni1\ta b\t0 10\ni2\t\t5\n"
    )
    return tmp_path / "data"


@pytest.fixture
def tiny_values(tiny_data: Path) -> dict[str, object]:
    """Configuration values for `tiny`."""
    return {
        "data_path": str(tiny_data),
        "load_col": {
            "inter": ["user_id", "item_id", "rating", "timestamp"],
            "user": ["user_id", "age", "height"],
            "item": ["item_id", "tags", "vec"],
        },
        "threshold": {"rating": 4},
        "filter_inter_by_user_or_item": False,
        "normalize_all": False,
    }
