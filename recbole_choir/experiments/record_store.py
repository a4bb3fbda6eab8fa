"""The records of a folder: each a JSON file, or packed as the lines of one compressed file.

A run leaves a file of its own, so that a study can be stopped at any time and resumed. What is kept
for others is packed: ``records.jsonl.xz``, a line a record, in the order of their names, each with
its name under ``file``::

    runs = pd.read_json("docs/records/ml-1m/records.jsonl.xz", lines=True)

Every reader here takes both forms, and a folder may have both: then a file of its own wins over a
line. A pack also holds what lies in folders below its own (``summary/differences.json``), so small
studies can share the pack of the folder above them. A line is a whole record: what all runs of a
study have in common is repeated in the text and hardly at all in its compressed bytes.
"""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Final

from recbole_choir import record as records
from recbole_choir.errors import DataError
from recbole_choir.files import parse_json, write_whole

PACK: Final = "records.jsonl.xz"
#: Bytes of its lines; those of all records of docs/ are a few per cent of it.
LARGEST_PACK: Final = 1 << 30
#: Records among the files of a folder; a hidden one is not whole yet (``files.whole_file``).
_RECORDS: Final = "[!.]*.json"
#: Folder of summaries: each start of a study writes them whole, so the newest is the right one.
SUMMARY: Final = "summary"
#: Folder in which runs that are not over keep what they have.
_UNFINISHED: Final = "runs"
#: Keys of a line that are not the record's own.
_OWN: Final = frozenset({"file", "content"})


def read_records(folder: Path) -> dict[str, Any]:
    """All records directly in a folder, whichever form they have.

    Args:
        folder: A folder, or a packed file alone.

    Returns:
        Name of the file -> content, sorted by name; nothing where there is no such folder.

    Raises:
        DataError: A file is not readable.
    """
    if folder.is_file():
        found = dict(_read_pack(folder))
    else:
        found = _packed(folder)
        found |= {path.name: _read_file(path) for path in folder.glob(_RECORDS)}
    return {name: found[name] for name in sorted(found) if "/" not in name}


def read_record(path: Path) -> Any:
    """The record at a path, a file of its own or a line of a pack; None where there is neither.

    Raises:
        DataError: It is not readable.
    """
    if path.is_file():
        return _read_file(path)
    return _packed(path.parent).get(path.name)


def folders_with_records(folder: Path) -> list[Path]:
    """The folders directly below one that have records, sorted; some may be in a pack alone."""
    names = {path.name for path in folder.iterdir() if path.is_dir()}
    names |= {name.split("/")[0] for name in _packed(folder) if "/" in name}
    return [folder / name for name in sorted(names) if read_records(folder / name)]


def pack(folder: Path, replace: bool = False) -> tuple[Path, int]:
    """Move all records of a folder, and of those below it, into its packed file.

    Args:
        folder: The folder. Packs of folders below it stay as they are.
        replace: A record whose name is packed with another content takes its place.

    Returns:
        The packed file, and how many records were moved.

    Raises:
        DataError: There is no such folder, a file is not readable, or a record of the same name
            and with another content is packed.
    """
    _check_folder(folder)
    packed, target = _packed(folder), folder / PACK
    new: dict[str, Any] = {}
    files = list(_plain(folder))
    for path in files:
        name, content = path.relative_to(folder).as_posix(), _read_file(path)
        if name in packed and _text(packed[name]) == _text(content):
            continue
        if name in packed and not replace and path.parent.name != SUMMARY:
            raise DataError(
                f"{path}: expected what is packed under that name, got another content; "
                "--replace packs the file"
            )
        new[name] = content
    if new:
        _write_pack(target, {**_read_pack(target), **new})
    for path in files:
        path.unlink()
    for parent in sorted({path.parent for path in files} - {folder}, reverse=True):
        if not any(parent.iterdir()):
            parent.rmdir()
    return target, len(files)


def unpack(folder: Path) -> tuple[Path, int]:
    """Write the lines of a folder's packed file as files of their own, and remove it.

    Returns:
        The folder, and how many records were written.

    Raises:
        DataError: There is no packed file, or a file of a record's name has another content.
    """
    _check_folder(folder)
    source = folder / PACK
    found = _read_pack(source)
    if not found:
        raise DataError(f"{folder}: expected packed records ({PACK}), found none")
    for name, content in found.items():
        path = folder / name
        if path.is_file() and _text(_read_file(path)) != _text(content):
            raise DataError(f"{path}: expected what is packed under that name, got another content")
    for name, content in found.items():
        records.write_json(folder / name, content)
    source.unlink()
    return folder, len(found)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise DataError(f"records: expected a folder, found none at {folder}")


def _plain(folder: Path) -> Iterator[Path]:
    """Files of records in a folder and below it."""
    for path in sorted(folder.rglob(_RECORDS)):
        if _UNFINISHED not in path.relative_to(folder).parts[:-1]:
            yield path


def _packed(folder: Path) -> dict[str, Any]:
    """Packed records by their names relative to a folder, from its pack and those above it."""
    folder = Path(os.path.abspath(folder))
    found: dict[str, Any] = {}
    for above in reversed((folder, *folder.parents)):  # the nearest wins
        below = folder.relative_to(above).as_posix()
        prefix = "" if above == folder else f"{below}/"
        found |= {
            name.removeprefix(prefix): content
            for name, content in _read_pack(above / PACK).items()
            if name.startswith(prefix)
        }
    return found


def _read_pack(path: Path) -> Mapping[str, Any]:
    """Name -> content of every line; nothing where there is no such file."""
    if not path.is_file():
        return {}
    about = path.stat()
    return _parse(path, about.st_mtime_ns, about.st_size)


#: What a file that is no pack raises.
_NO_PACK: Final = (
    OSError,
    EOFError,
    lzma.LZMAError,
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
)


@lru_cache(maxsize=16)
def _parse(path: Path, _mtime: int, _size: int) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    try:
        for line in _decompressed(path).splitlines():
            content = parse_json(line)
            name = content.pop("file")
            if not isinstance(name, str) or _leaves(name):
                raise ValueError(f"expected names of files in its folder, got {name!r}")
            found[name] = content["content"] if content.keys() == {"content"} else content
    except _NO_PACK as error:
        raise DataError(f"{path}: not packed records: {' '.join(str(error).split())}") from None
    return found


def _leaves(name: str) -> bool:
    """Whether a name in a pack points out of the pack's folder."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


def _decompressed(path: Path) -> bytes:
    """The text of a pack, which no small file can make large.

    Raises:
        ValueError: It is larger than any pack of records.
    """
    reader = lzma.LZMADecompressor()
    text = reader.decompress(path.read_bytes(), LARGEST_PACK + 1)
    if len(text) > LARGEST_PACK:
        raise ValueError(f"expected at most {LARGEST_PACK >> 20} MiB, got more")
    if not reader.eof:
        raise EOFError("it ends early")
    return text


def _write_pack(path: Path, content: Mapping[str, Any]) -> None:
    """Write lines whose bytes follow from the records alone."""
    lines = [_text(_line(name, content[name])) + "\n" for name in sorted(content)]
    write_whole(path, lzma.compress("".join(lines).encode("ascii"), preset=6))


def _line(name: str, content: Any) -> dict[str, Any]:
    """A record's own fields with its name; what has no fields, or one of these, one level down."""
    flat = isinstance(content, dict) and _OWN.isdisjoint(content)
    return {"file": name, **content} if flat else {"file": name, "content": content}


def _text(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _read_file(path: Path) -> Any:
    try:
        return records.strict(records.read_json(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable JSON: {' '.join(str(error).split())}") from None
