"""Amazon product reviews 2014, 5-core: Beauty, Sports, Toys, as sequences.

The words of an item are no catalogue text. GRAM made them: a hierarchical k-means of the items'
embeddings by a large text encoder, each cluster on an item's path named by the top token of its
items' texts (file name: c128, l7: clusters and depth). So ``title`` is that path in words, and
``topic``, its first word, is the coarsest cluster: a semantic id already. Items of one ``topic``
are close in a space of content made elsewhere, and every model that reads it, Base too, has part of
what a semantic table would add.

References:
    J. McAuley et al., "Image-based Recommendations on Styles and Substitutes", SIGIR 2015; R. He
    and J. McAuley, "Ups and Downs", WWW 2016. Words about items: J. Lee et al., GRAM, ACL 2025.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import pandas as pd

from recbole_choir.errors import DataError

from .positives import LAST_TRAINED_PLACE, PositiveOnly, Positives, places_from_end
from .raw import RawFile, RawFolder
from .text import clean_text
from .yelp import read_sequences

_WORD_START = "\u2581"  # T5's mark of a piece that starts a word


def _files(category: str, words: str, users: int, items: int) -> tuple[RawFile, ...]:
    return (
        RawFile(
            name=f"{category}_user_sequence.txt",
            columns=("sequence",),
            separator="\t",
            required=("sequence",),
            rows=users,
        ),
        RawFile(
            name=f"{category}_item_generative_indexing_hierarchy_{words}_split.txt",
            columns=("words",),
            separator="\t",
            required=("words",),
            rows=items,
        ),
    )


class _Amazon2014(PositiveOnly):
    """Purchases (reviews) of one category with sampled negatives; only the order is known.

    ``topic`` and ``title`` are a semantic id in words, not the shop's category and title (see the
    module). Time is the place in the sequence, counted from the user's last purchase (0) backwards.
    """

    folders: ClassVar[tuple[str, ...]] = ("amazon-2014-5core-sequences", "amazon-2014-5core")
    source: ClassVar[str] = (
        "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html, as sequences with words by"
        " GRAM (ACL 2025)"
    )

    trained_until: ClassVar[float | None] = LAST_TRAINED_PLACE

    def positives(self, raw: RawFolder) -> Positives:
        sequences, words = (f.name for f in self.files)
        users, items, size = read_sequences(raw, sequences)
        lines = pd.concat([c["words"] for c in raw.chunks(words)], ignore_index=True)
        parts = lines.str.partition(" ")
        self._items, self._words = parts[0], parts[2].str.strip().str.strip("|")
        unknown = set(items) - set(self._items)
        if unknown:
            raise DataError(
                f"{raw.path}/{sequences}: expected items of {words}, got '{min(unknown)}'"
            )
        return Positives(
            user_id=users,
            item_id=items,
            time=places_from_end(size),
            context=pd.DataFrame(index=range(len(items))),
            catalogue=self._items.to_numpy(object),
        )

    def sides(self, raw: RawFolder) -> Iterator[tuple[str, pd.DataFrame]]:
        # "_wed|ding|_ring": pieces joined to words again; the first one is the coarsest.
        text = self._words.str.replace("|", "", regex=False)
        text = text.str.replace(_WORD_START, " ", regex=False)
        first = self._words.str.split("|").str[0].str.replace(_WORD_START, "", regex=False)
        yield (
            "item",
            pd.DataFrame(
                {
                    "item_id:token": self._items,
                    "title:token_seq": clean_text(text),
                    "topic:token": clean_text(first),
                }
            ),
        )


class AmazonBeauty(_Amazon2014):
    """Beauty: 22,363 users, 12,101 items, 198,502 purchases."""

    name: ClassVar[str] = "amazon-2014-beauty"
    files: ClassVar[tuple[RawFile, ...]] = _files("Beauty", "v1_c128_l7_len32768", 22_363, 12_101)
    expected: ClassVar[Mapping[str, int]] = {"users": 22_363, "items": 12_101}


class AmazonSports(_Amazon2014):
    """Sports and Outdoors: 35,598 users, 18,357 items, 296,337 purchases."""

    name: ClassVar[str] = "amazon-2014-sports"
    files: ClassVar[tuple[RawFile, ...]] = _files("Sports", "v1_c32_l7_len32768", 35_598, 18_357)
    expected: ClassVar[Mapping[str, int]] = {"users": 35_598, "items": 18_357}


class AmazonToys(_Amazon2014):
    """Toys and Games: 19,412 users, 11,924 items, 167,597 purchases."""

    name: ClassVar[str] = "amazon-2014-toys"
    files: ClassVar[tuple[RawFile, ...]] = _files("Toys", "v1_c32_l5_len32768", 19_412, 11_924)
    expected: ClassVar[Mapping[str, int]] = {"users": 19_412, "items": 11_924}
