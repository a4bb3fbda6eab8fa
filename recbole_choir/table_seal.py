"""The seal of a semantic table: what it held, and what it was made from, when it was whole.

A seal is the entry ``seal`` of the manifest::

    version       1
    manifest      sha256 of the rest of the manifest
    files         file -> sha256
    contents      file -> sha256 of its rows in the order of their ids, however they are stored
    interactions  a snapshot: rows strictly before its time, and their fingerprint

Files and manifest say whether the table is the one that was sealed. The interactions say whether
it belongs to the rows that a dataset has now: another time of a snapshot, another user behind an id
or another row gives another fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recbole_choir import table_format as tf
from recbole_choir.errors import TableError

logger = logging.getLogger("recbole_choir")

SEAL: Final = "seal"
VERSION: Final = 1
#: Files that a run reads: these are checked whenever a table is loaded, the others by
#: ``recbole-choir tables check``.
READ: Final = (tf.USERS, tf.GROUPS, tf.ITEMS, tf.ITEM_VECTORS, tf.SOFT, tf.SOFT_VECTORS)
#: Columns that say whose a row is, outermost first.
_KEYS: Final = (
    tf.SNAPSHOT,
    tf.SPACE,
    tf.SIDE,
    tf.USER_ID,
    tf.ITEM_ID,
    tf.ID,
    tf.GROUP_ID,
    tf.MEMBER,
)
#: Two hashes of each row, 64 bits each.
_STARTS: Final = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))


@dataclass(frozen=True)
class RowsStamp:
    """Interactions up to a time.

    Args:
        rows: How many.
        fingerprint: Of user, item, time and label of each, whatever their order.
    """

    rows: int
    fingerprint: str


def stamp_rows(
    users: Sequence[str],
    items: Sequence[str],
    user: NDArray[np.integer],
    item: NDArray[np.integer],
    time: NDArray[np.floating],
    label: NDArray[Any],
    moments: Sequence[float] | NDArray[np.floating],
) -> list[RowsStamp]:
    """Count and fingerprint the interactions strictly before each moment.

    Args:
        users, items: Raw ids.
        user, item: ``[N]`` positions in them.
        time: ``[N]`` epoch seconds.
        label: ``[N]`` 0 or 1.
        moments: Rising.

    Returns:
        One stamp a moment. The same rows give the same stamps in any order and numbering.
    """
    moment = (np.asarray(time, np.float64) + 0.0).view(np.uint64)
    who, what = _hashed(users)[user], _hashed(items)[item]
    outcome = np.asarray(label).astype(np.uint64)
    # the first snapshot that knows the row, 0 to S
    known = np.searchsorted(np.asarray(moments, np.float64), time, side="right")
    hashes = []
    for start in _STARTS:
        row = _mixed(_mixed(_mixed(what + outcome + start) ^ who) ^ moment)
        # sums wrap around; they are the same in whatever order
        parts = [row[known == k].sum(dtype=np.uint64) for k in range(len(moments))]
        hashes.append(np.cumsum(parts, dtype=np.uint64))
    counts = np.cumsum(np.bincount(known, minlength=len(moments) + 1))
    return [
        RowsStamp(int(n), "".join(f"{int(h[k]):016x}" for h in hashes))
        for k, n in enumerate(counts[: len(moments)])
    ]


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each number as another, every bit of which depends on every bit (SplitMix64's last step)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _hashed(ids: Sequence[str]) -> NDArray[np.uint64]:
    """Eight bytes of a hash of each id."""
    texts = (str(i).encode("utf-8", "surrogatepass") for i in ids)
    joined = b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts)
    return np.frombuffer(joined, "<u8")


def make_seal(
    folder: Path, manifest: Mapping[str, Any], interactions: Sequence[RowsStamp] | None
) -> dict[str, Any]:
    """The seal of a table as it lies in a folder.

    Args:
        folder: The table, all but its manifest.
        manifest: The manifest without a seal.
        interactions: Those that each snapshot was made from; None where nobody knows.

    Raises:
        OSError: A file cannot be read.
    """
    files = [p for p in sorted(folder.iterdir()) if p.is_file() and p.name != tf.MANIFEST]
    files = [p for p in files if not p.name.startswith(".")]
    seal: dict[str, Any] = {
        "version": VERSION,
        "manifest": _manifest_digest(manifest),
        "files": {path.name: file_digest(path) for path in files},
        "contents": {path.name: contents_digest(path) for path in files if path.name in READ},
    }
    if interactions is not None:
        seal["interactions"] = [asdict(stamp) for stamp in interactions]
    return seal


def check_seal(folder: Path, manifest: Mapping[str, Any], everything: bool = False) -> bool:
    """Compare a table's files and manifest with its seal, each file read once, in pieces.

    Args:
        folder: The table.
        manifest: Its manifest, seal and all.
        everything: Also the files that no run reads.

    Returns:
        False for a table without a seal, with a log line: it is older, or another tool's.

    Raises:
        TableError: The seal does not hold; both sides are named.
    """
    seal = manifest.get(SEAL)
    if seal is None:
        logger.warning(
            "%s: no seal, so a change of its contents goes unseen; "
            "recbole-choir tables seal %s makes one",
            *(folder, shlex.quote(str(folder))),
        )
        return False
    files, contents = _parts(folder, seal)
    _compare(
        folder / tf.MANIFEST, str(seal.get("manifest")), _manifest_digest(manifest), "", folder
    )
    for name in READ:
        if name not in files and (folder / name).exists():
            raise TableError(f"{folder}: expected no {name}, as when it was sealed, got one")
    for name, want in files.items():
        path = folder / name
        if not everything and name not in READ:
            continue
        if not path.is_file():
            raise TableError(f"{folder}: expected a file {name}, which is in its seal, found none")
        got = file_digest(path)
        if got != want:
            _compare(path, want, got, _whether_contents(path, contents.get(name)), folder)
    return True


def sealed_interactions(folder: Path, manifest: Mapping[str, Any]) -> list[RowsStamp] | None:
    """What a seal says of the interactions of each snapshot; None where it says nothing.

    Raises:
        TableError: It is no list of rows and fingerprints, one a snapshot.
    """
    seal = manifest.get(SEAL)
    found = seal.get("interactions") if isinstance(seal, dict) else None
    if found is None:
        return None
    try:
        stamps = [RowsStamp(int(one["rows"]), str(one["fingerprint"])) for one in found]
    except (TypeError, KeyError, ValueError):
        stamps = []
    if len(stamps) != len(manifest["snapshots"]):
        raise TableError(
            f"{folder / tf.MANIFEST}: expected rows and fingerprint of the interactions of "
            f"{len(manifest['snapshots'])} snapshots in the seal, got {str(found)[:120]}"
        )
    return stamps


def check_interactions(
    folder: Path,
    times: Sequence[float] | NDArray[np.floating],
    made_from: Sequence[RowsStamp],
    here: Sequence[RowsStamp],
) -> None:
    """Compare the interactions that a table was made from with those that a dataset has.

    Raises:
        TableError: They differ before the time of a snapshot.
    """
    for number, (time, then, now) in enumerate(zip(times, made_from, here), start=1):
        if then != now:
            raise TableError(
                f"{folder}: snapshot {number} was made from {then.rows} interactions with "
                f"fingerprint {then.fingerprint[:16]}, but before its time {float(time):.10g} the "
                f"dataset has {now.rows} with fingerprint {now.fingerprint[:16]}: the times of "
                "the snapshots, the ids or the rows are others than when the table was made"
            )


def file_digest(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def contents_digest(path: Path) -> str:
    """sha256 of what a file holds, in the order of the ids and not of the rows.

    Compression, row groups, the width of numbers and dictionaries change nothing.

    Raises:
        OSError, ValueError: The file cannot be read.
    """
    digest = hashlib.sha256()
    if path.suffix == ".npy":
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        digest.update(f"{array.shape}".encode())
        for start in range(0, len(array), 4096):
            digest.update(np.asarray(array[start : start + 4096], "<f4").tobytes())
        return digest.hexdigest()
    table = pq.read_table(path)
    table = pa.table({name: _plain(table.column(name)) for name in sorted(table.column_names)})
    keys = [(name, "ascending") for name in _KEYS if name in table.column_names]
    table = table.take(pc.sort_indices(table, sort_keys=keys)) if keys else table
    for name in table.column_names:
        digest.update(f"{name}\0{table.num_rows}\0".encode())
        _feed(digest, table.column(name).combine_chunks())
    return digest.hexdigest()


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    return column.cast(kind.value_type) if pa.types.is_dictionary(kind) else column


def _feed(digest: Any, array: pa.Array) -> None:
    """Hash a column: which are missing, then the values."""
    kind = array.type
    digest.update(array.is_valid().to_numpy(zero_copy_only=False).tobytes())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        lengths = pc.fill_null(pc.list_value_length(array), 0)
        digest.update(lengths.to_numpy(zero_copy_only=False).astype("<i8"))
        _feed(digest, pc.list_flatten(array))
    elif pa.types.is_floating(kind):
        numbers = array.cast(pa.float64()).to_numpy(zero_copy_only=False) + 0.0
        numbers[np.isnan(numbers)] = np.nan
        digest.update(numbers.astype("<f8"))
    elif pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        whole = pc.fill_null(array.cast(pa.int64()), 0)
        digest.update(whole.to_numpy(zero_copy_only=False).astype("<i8"))
    else:
        texts = pc.fill_null(array.cast(pa.string()), "")
        lengths = pc.binary_length(texts).to_numpy(zero_copy_only=False)
        digest.update(lengths.astype("<i8"))
        digest.update("".join(texts.to_pylist()).encode("utf-8", "surrogatepass"))


def _parts(folder: Path, seal: Any) -> tuple[dict[str, str], dict[str, str]]:
    version = seal.get("version") if isinstance(seal, dict) else None
    files = seal.get("files") if version == VERSION else None
    if not isinstance(files, dict) or any("/" in name or "\\" in name for name in files):
        got = f"version {version!r}" if version != VERSION else f"files {str(files)[:80]}"
        raise TableError(
            f"{folder / tf.MANIFEST}: expected a seal of version {VERSION} with the sha256 of each "
            f"file, got {got}"
        )
    contents = seal.get("contents")
    return files, contents if isinstance(contents, dict) else {}


def _compare(path: Path, want: str, got: str, more: str, folder: Path) -> None:
    if want != got:
        raise TableError(
            f"{path}: changed since the table was sealed: expected sha256 {want[:16]}, got "
            f"{got[:16]}{more}; make the table again, or, if you changed it yourself, "
            f"recbole-choir tables seal --again {shlex.quote(str(folder))}"
        )


def _whether_contents(path: Path, want: str | None) -> str:
    if want is None:
        return ""
    try:
        same = contents_digest(path) == want
    except (OSError, ValueError, EOFError, pa.ArrowException):
        return ", and it cannot be read"
    return " (the same rows in other bytes)" if same else " (the rows of its ids are others)"


def _manifest_digest(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != SEAL}
    rest = json.loads(json.dumps(rest))  # keys as the file will have them: their order counts
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
