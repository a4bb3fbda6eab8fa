"""Clicks of the news portal G1 (Globo.com).

References:
    G. de Souza Pereira Moreira, F. Ferreira, A. M. da Cunha, "News Session-Based Recommendations
    using Deep Neural Networks", DLRS 2018.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from .complete_journey_raw import whole
from .positives import OPTIONS, PositiveOnly, Positives
from .raw import RawFile, RawFolder

_FILE = "clicks.tar"
_CONTEXTS = {
    "environment": "click_environment",
    "device_group": "click_deviceGroup",
    "os": "click_os",
    "country": "click_country",
    "region": "click_region",
    "referrer_type": "click_referrer_type",
}
_COLUMNS = (
    "user_id",
    "session_id",
    "session_start",
    "session_size",
    "click_article_id",
    "click_timestamp",
    *_CONTEXTS.values(),
)
#: An article lives for about a day: popularity is counted over the last 24 hours.
DAY_MS = 86_400_000


class GloboNewsClicks(PositiveOnly):
    """Clicks on news articles, with sampled negatives; nothing is known of the articles.

    A session is a context like the device: its rows carry its id. Times are milliseconds in the
    raw files and seconds here.
    """

    name: ClassVar[str] = "globo-news-clicks"
    folders: ClassVar[tuple[str, ...]] = ("globo-news-clicks", "globo")
    source: ClassVar[str] = (
        "https://www.kaggle.com/datasets/gspmoreira/news-portal-user-interactions-by-globocom"
        " (the folder clicks/ as clicks.tar, .tar.gz or .tar.xz)"
    )
    files: ClassVar[tuple[RawFile, ...]] = (
        RawFile(
            name=_FILE,
            columns=_COLUMNS,
            numeric=("user_id", "click_article_id", "click_timestamp"),
            required=_COLUMNS,
            rows=2_988_181,
            header=True,
        ),
    )
    #: As for every positive-only set; the popularity window is in seconds. Four negatives a click
    #: and 3 million rows, a fifth of the users: max_rows=0 takes all of them, 15 million rows.
    options: ClassVar[Mapping[str, Any]] = {
        **OPTIONS,
        "negatives_per_positive": 4,
        "popularity_window": DAY_MS / 1000,
        "uniform_share": 0.05,
        "max_rows": 3_000_000,
    }

    def positives(self, raw: RawFolder) -> Positives:
        parts: list[pd.DataFrame] = []
        for chunk in raw.chunks(_FILE):
            part = pd.DataFrame(
                {
                    "user": whole(chunk["user_id"]),
                    "item": whole(chunk["click_article_id"]),
                    "time": whole(chunk["click_timestamp"]),
                    "session": whole(chunk["session_id"]),
                }
            )
            for name, column in _CONTEXTS.items():
                part[name] = chunk[column].astype("category")
            parts.append(part)
        for name in _CONTEXTS:
            known = sorted({c for part in parts for c in part[name].cat.categories})
            for part in parts:
                part[name] = part[name].cat.set_categories(known)
        rows = pd.concat(parts, ignore_index=True)
        rows = rows.sort_values(["time", "user", "item", "session", *_CONTEXTS])
        again = rows.duplicated(["time", "user", "item"])
        self.facts["clicks_counted_twice"] = int(again.sum())
        rows = rows[~again].reset_index(drop=True)
        context = pd.DataFrame({f"{n}:token": rows[n].astype(object) for n in _CONTEXTS})
        context.insert(0, "session_id:token", rows["session"].astype(str))
        self.facts |= {"sessions": int(rows["session"].nunique())}
        self.facts |= {
            "users": int(rows["user"].nunique()),
            "articles": int(rows["item"].nunique()),
        }
        return Positives(
            user_id=rows["user"].astype(str).to_numpy(object),
            item_id=rows["item"].astype(str).to_numpy(object),
            time=rows["time"].to_numpy(np.float64) / 1000.0,
            context=context,
            catalogue=rows["item"].drop_duplicates().astype(str).to_numpy(object),
        )

    def sides(self, raw: RawFolder) -> Iterator[tuple[str, pd.DataFrame]]:
        yield from ()
