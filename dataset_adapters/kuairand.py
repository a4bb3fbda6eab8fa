"""KuaiRand-Pure: videos shown by Kuaishou, some of them at random.

Format-tested: written from the published format and tested on small files in exactly that form;
the official files were not at hand.

References:
    C. Gao et al., "KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed
    Videos", CIKM 2022.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pandas as pd

from recbole_choir.errors import DataError, nearest

from .base import Adapter
from .download import Download
from .raw import RawFile, RawFolder
from .text import clean_text

_LOG = (
    "user_id",
    "video_id",
    "date",
    "hourmin",
    "time_ms",
    "is_click",
    "is_like",
    "is_follow",
    "is_comment",
    "is_forward",
    "is_hate",
    "long_view",
    "play_time_ms",
    "duration_ms",
    "profile_stay_time",
    "comment_stay_time",
    "is_profile_enter",
    "is_rand",
    "tab",
)
_REACTIONS = ("is_click", "long_view", "is_like", "is_follow", "is_comment", "is_forward")
_NEEDED = ("user_id", "video_id", "time_ms", *_REACTIONS, "is_rand", "tab")
_USER = (
    "user_id",
    "user_active_degree",
    "is_lowactive_period",
    "is_live_streamer",
    "is_video_author",
    "follow_user_num",
    "follow_user_num_range",
    "fans_user_num",
    "fans_user_num_range",
    "friend_user_num",
    "friend_user_num_range",
    "register_days",
    "register_days_range",
    *(f"onehot_feat{k}" for k in range(18)),
)
_VIDEO = (
    "video_id",
    "author_id",
    "video_type",
    "upload_dt",
    "upload_type",
    "visible_status",
    "video_duration",
    "server_width",
    "server_height",
    "music_id",
    "music_type",
    "tag",
)


def _log(name: str, rows: int | None) -> RawFile:
    return RawFile(
        name=name,
        columns=_LOG,
        numeric=("user_id", "video_id", "time_ms", *_REACTIONS),
        required=_NEEDED,
        rows=rows,
        header=True,
    )


class KuaiRandPure(Adapter):
    """Videos shown to users; label: clicked, or another reaction. Files of the folder ``data``.

    Options: ``label``, which reaction is the positive (``is_click``, ``long_view``, ``is_like``,
    ``is_follow``, ``is_comment``, ``is_forward``).

    What a user did with a video besides (likes, watching time) is known only after it was shown
    and makes no field. Ranges that describe users were taken at the end of the period: only those
    that change slowly are kept (live streamer, author, days since registration).
    """

    name: ClassVar[str] = "kuairand-pure"
    folders: ClassVar[tuple[str, ...]] = ("kuairand-pure", "KuaiRand-Pure", "KuaiRand-Pure/data")
    source: ClassVar[str] = "https://kuairand.com/ (KuaiRand-Pure, folder data)"
    downloads: ClassVar[tuple[Download, ...]] = (
        Download(
            "https://zenodo.org/records/10439422/files/KuaiRand-Pure.tar.gz",
            "md5:0820331067a3784d9691136f772b35a7",
            archive=True,
        ),
    )
    terms: ClassVar[str] = "CC BY-SA 4.0"
    files: ClassVar[tuple[RawFile, ...]] = (
        _log("log_standard_4_08_to_4_21_pure.csv", 1_141_112),
        _log("log_standard_4_22_to_5_08_pure.csv", 295_497),
        _log("log_random_4_22_to_5_08_pure.csv", 1_186_059),
        RawFile(
            name="user_features_pure.csv",
            columns=_USER,
            numeric=("user_id",),
            required=("user_id",),
            rows=27_285,
            header=True,
            quoted=True,  # "(10,50]"
        ),
        RawFile(
            name="video_features_basic_pure.csv",
            columns=_VIDEO,
            numeric=("video_id",),
            required=("video_id",),
            rows=7_583,
            header=True,
            quoted=True,
        ),
    )

    options: ClassVar[Mapping[str, Any]] = {"label": "is_click"}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if self.chosen["label"] not in _REACTIONS:
            raise DataError(
                f"{self.name}: option 'label': expected one of {', '.join(_REACTIONS)}, got"
                f" '{self.chosen['label']}'{nearest(self.chosen['label'], _REACTIONS)}"
            )

    def tables(self, raw: RawFolder) -> Iterator[tuple[str, pd.DataFrame]]:
        label = self.chosen["label"]
        for file in self.files[:3]:
            for chunk in raw.chunks(file.name):
                # Milliseconds, written as seconds without rounding.
                time = chunk["time_ms"].str.replace(r"\.0$", "", regex=True).str.zfill(4)
                yield (
                    "inter",
                    pd.DataFrame(
                        {
                            "user_id:token": chunk["user_id"],
                            "item_id:token": chunk["video_id"],
                            "label:float": chunk[label],
                            "timestamp:float": time.str[:-3] + "." + time.str[-3:],
                            "tab:token": chunk["tab"],
                            "is_rand:token": chunk["is_rand"],
                        }
                    ),
                )
        for chunk in raw.chunks("user_features_pure.csv"):
            names = ("is_live_streamer", "is_video_author", "register_days_range")
            table = {"user_id:token": chunk["user_id"]}
            yield "user", pd.DataFrame(table | {f"{n}:token": clean_text(chunk[n]) for n in names})
        for chunk in raw.chunks("video_features_basic_pure.csv"):
            yield (
                "item",
                pd.DataFrame(
                    {
                        "item_id:token": chunk["video_id"],
                        "author_id:token": chunk["author_id"],
                        "video_type:token": clean_text(chunk["video_type"]),
                        "upload_type:token": clean_text(chunk["upload_type"]),
                        "music_type:token": chunk["music_type"],
                        "video_duration:float": chunk["video_duration"],
                        # "12,65": several tags, as a list.
                        "tag:token_seq": clean_text(
                            chunk["tag"].str.replace(",", " ", regex=False)
                        ),
                    }
                ),
            )
