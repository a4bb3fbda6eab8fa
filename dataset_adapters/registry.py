"""Which adapters there are, and where their raw files lie."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_choir.errors import DataError, nearest

from .ali_ccp import AliCCP
from .amazon import AmazonBeauty, AmazonSports, AmazonToys
from .amazon2023 import Amazon2023AllBeauty
from .base import Adapter
from .complete_journey import CompleteJourney, CompleteJourneySparse
from .complete_journey_coupons import CompleteJourneyCoupons
from .globo import GloboNewsClicks
from .kuairand import KuaiRandPure
from .movielens import MovieLens1M, MovieLens100K
from .raw import find_file
from .ta_feng import TaFeng
from .taobao_ad import TaobaoAd
from .taobao_logs import TaobaoUserBehavior, Tmall
from .yelp import Yelp, YelpThinned

#: Environment variable with the folder that holds the datasets' raw folders.
ENVIRONMENT_KEY = "RECBOLE_CHOIR_DATA"

_CLASSES: tuple[type[Adapter], ...] = (
    MovieLens1M,
    MovieLens100K,
    CompleteJourney,
    CompleteJourneySparse,
    CompleteJourneyCoupons,
    Yelp,
    YelpThinned,
    TaFeng,
    GloboNewsClicks,
    AmazonBeauty,
    AmazonSports,
    AmazonToys,
    Amazon2023AllBeauty,
    TaobaoAd,
    TaobaoUserBehavior,
    Tmall,
    AliCCP,
    KuaiRandPure,
)


def adapters() -> dict[str, type[Adapter]]:
    """Return every adapter class by the name of its dataset."""
    return {cls.name: cls for cls in _CLASSES}


def get_adapter(name: str, options: Mapping[str, Any] | None = None) -> Adapter:
    """Return an adapter of one dataset.

    Args:
        name: Name of the dataset, e.g. ``ml-1m``.
        options: Choices other than the adapter's defaults, by name.

    Raises:
        DataError: No adapter has this name, or it has no such option.
    """
    known = adapters()
    if name not in known:
        raise DataError(
            f"dataset: no adapter for '{name}'{nearest(name, known)}, expected one of "
            f"{', '.join(sorted(known))}"
        )
    return known[name](**(options or {}))


def find_raw(name: str, raw_data_path: str | os.PathLike[str] | None = None) -> Path:
    """Find the folder with the raw files of a dataset.

    Args:
        name: Name of the dataset.
        raw_data_path: Folder that holds one folder per dataset, or the dataset's own folder; the
            config key ``raw_data_path``. None: the environment variable ``RECBOLE_CHOIR_DATA``.

    Returns:
        The folder that holds the dataset's first raw file, in any supported compression.

    Raises:
        DataError: No such dataset, or its files are in none of the places looked at.
    """
    adapter = get_adapter(name)
    places = [p for p in (raw_data_path, os.environ.get(ENVIRONMENT_KEY)) if p]
    for place in places:
        top = Path(place).expanduser()
        for folder in (*(top / f for f in adapter.folders), top):
            if find_file(folder, adapter.files[0].name) is not None:
                return folder
    unset = f"nothing: raw_data_path and {ENVIRONMENT_KEY} are not set"
    where = " and ".join(f"'{p}'" for p in places) or unset
    folders = " or ".join(f"{f}/" for f in adapter.folders)
    files = ", ".join(f.name for f in adapter.files)
    raise DataError(
        f"{name}: raw files not found, looked in {where}, expected a folder {folders} with {files} "
        f"(or .gz) under raw_data_path or ${ENVIRONMENT_KEY}; get them from {adapter.where_from()}"
    )


def prepare(
    name: str,
    out_dir: str | os.PathLike[str],
    raw_data_path: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Path:
    """Find the raw files of a dataset and convert them, unless that was done already.

    Args:
        name: Name of the dataset.
        out_dir: The dataset's own folder (RecBole's ``data_path`` with the dataset's name).
        raw_data_path: As in :func:`find_raw`.
        progress: Show a progress bar per raw file.

    Returns:
        ``out_dir``, holding the atomic files.

    Raises:
        DataError: As in :func:`find_raw` and :meth:`Adapter.convert`.
    """
    raw = find_raw(name, raw_data_path)
    return get_adapter(name).convert(raw, out_dir, progress=progress)
