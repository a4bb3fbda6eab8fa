"""Names and form of a semantic table on disk: the one thing its writer and its readers share.

A table is a folder::

    manifest.json          recipe, snapshots, sizes, fingerprints, versions
    users.parquet          snapshot, user_id, code_1 .. code_M, group_id
    groups.parquet         snapshot, group_id, level, size, n_events, attr_<field> .., sequence
    items.parquet          snapshot, item_id, code_1 .. code_M, group_id, vector    (optional)
    item_vectors.npy       float32 [V, d], the rows that ``vector`` counts from 0   (optional)
    soft.parquet           snapshot, user_id, member, weight                        (optional)
    soft_vectors.parquet   snapshot, space, side, id, vector                        (optional)
    embeddings.npy, codebooks.safetensors, item_codebooks.safetensors,
    profiles.jsonl, quality.json                                                    (optional)

Ids are the dataset's raw ids as text. ``code_l`` is -1 and ``group_id`` is null where a user has
no group. ``group_id`` is the prefix of codes that the group stands for, joined by ``-``: ``"3"``,
``"3-5"``, ``"3-5-1"``. Snapshots count from 1 in the order of their times; everything in a snapshot
was made from events strictly before its time.

An item's ``group_id`` is the cluster it belongs to, ``vector`` the row of its content vector (-1:
none). Items have levels and codewords of their own (``item_n_clusters`` in the manifest); a vector
that stays the same over snapshots is stored once.

``soft.parquet`` holds soft groups, one row a weight that is not 0. Where the manifest says ``soft:
{kind: neighbours}``, ``member`` is the raw id of another user, and never the user itself; with
``{kind: prototypes, n_prototypes: K}`` it is the number of a prototype, 0 .. K-1 as text, that
means nothing in another snapshot, and two users count for each other by the sum of the products of
their memberships; ``{kind: factors, n_factors: K}`` is the same with memberships that are
coordinates in a space and may be negative. ``soft_vectors.parquet`` holds vectors of users and
items (``side``: ``user`` or ``item``) whose product is the user's own score of the item in a space
of behaviour.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

FORMAT_VERSION: Final = 1

MANIFEST: Final = "manifest.json"
USERS: Final = "users.parquet"
GROUPS: Final = "groups.parquet"
ITEMS: Final = "items.parquet"
ITEM_VECTORS: Final = "item_vectors.npy"
SOFT: Final = "soft.parquet"
SOFT_VECTORS: Final = "soft_vectors.parquet"
EMBEDDINGS: Final = "embeddings.npy"
CODEBOOKS: Final = "codebooks.safetensors"
ITEM_CODEBOOKS: Final = "item_codebooks.safetensors"
PROFILES: Final = "profiles.jsonl"
QUALITY: Final = "quality.json"

SNAPSHOT: Final = "snapshot"
USER_ID: Final = "user_id"
ITEM_ID: Final = "item_id"
GROUP_ID: Final = "group_id"
LEVEL: Final = "level"
SIZE: Final = "size"
N_EVENTS: Final = "n_events"
SEQUENCE: Final = "sequence"
ATTR_PREFIX: Final = "attr_"
VECTOR: Final = "vector"
CODE_PREFIX: Final = "code_"
NO_CODE: Final = -1
MEMBER: Final = "member"
WEIGHT: Final = "weight"
SPACE: Final = "space"
SIDE: Final = "side"
ID: Final = "id"
USER_SIDE: Final = "user"
ITEM_SIDE: Final = "item"
NEIGHBOURS: Final = "neighbours"
PROTOTYPES: Final = "prototypes"
FACTORS: Final = "factors"
#: How many columns memberships have, in the manifest; neighbours have none.
WIDTHS: Final = {PROTOTYPES: "n_prototypes", FACTORS: "n_factors"}


def code_column(level: int) -> str:
    """Name of the column with the code of ``level``, which counts from 1."""
    return f"{CODE_PREFIX}{level}"


def group_id_of(codes: Iterable[int]) -> str:
    """Write a prefix of codes as a group id: ``[3, 5]`` becomes ``"3-5"``."""
    return "-".join(str(int(c)) for c in codes)


def fingerprint_ids(ids: Iterable[str]) -> str:
    """Fingerprint of a set of raw ids, whatever their order: 16 hexadecimal digits.

    Used on both sides: the writer stores that of the users and items it was given, the reader
    compares it with that of the dataset's vocabulary.
    """
    digest = hashlib.sha256()
    for i in sorted(set(ids)):
        digest.update(i.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return digest.hexdigest()[:16]
