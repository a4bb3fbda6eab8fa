"""Item vectors of a build: the item input, fitted once, with its vectors kept by content."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recbole_choir.errors import DataError, TableError
from recbole_choir.files import one_at_a_time
from recbole_choir.semantic.encoders.encoder import Encoder
from recbole_choir.semantic.encoders.pictures import PictureFiles
from recbole_choir.semantic.frames.fingerprint import fingerprint_frames, fingerprint_json
from recbole_choir.semantic.frames.frames import Frames
from recbole_choir.semantic.items.base import ItemInput, ItemVectors, item_ids_of
from recbole_choir.semantic.storage.tensor_file import read_tensors, write_tensors
from recbole_choir.settings.recipe import Recipe

logger = logging.getLogger(__name__)

_KIND: Final = "recbole_choir.ItemVectors"
_VERSION: Final = 1

# What a recipe says of users, of groups and of quantising: no item vector depends on it. A key that
# is not named here counts, so that a new one can never be forgotten.
_NOT_OF_VECTORS: Final = {
    "input", "profile", "profile_engine", "quantizer", "n_levels", "n_clusters", "users_per_group",
    "min_members", "agg_level", "n_snapshots", "snapshot_times", "codebooks", "top_categories",
    "sequence_length", "id_embedding_path", "aligned_text", "alignment", "interest", "rqvae",
}  # fmt: skip
_NOT_OF_ITEM_VECTORS: Final = {
    "quantizer", "n_levels", "n_clusters", "ids_per_cluster", "min_members",
}  # fmt: skip


class ItemSource:
    """An item input that is fitted only when a vector is asked for that is not kept yet.

    A run that was killed, or another one with the same items and events, takes the vectors that are
    there: nothing is encoded, aligned or paid for twice.

    Args:
        make: Makes the input, not fitted.
        identity: What makes the vectors, as plain values: part of their key.
        cache_dir: Where vectors are kept; nowhere if None.
        image_field: Column of the items with the path of a picture: what is in the file counts, not
            its path alone.

    Attributes:
        report: What the input says of its fit (hit rates of the alignment), after a ``transform``;
            None where it says nothing.
    """

    def __init__(
        self,
        make: Callable[[], ItemInput],
        identity: Mapping[str, Any],
        cache_dir: str | Path | None = None,
        image_field: str | None = None,
    ) -> None:
        self.make = make
        self.image_field = image_field
        self._pictures = PictureFiles()
        self.identity = dict(identity)
        self.cache_dir = Path(cache_dir) / "items" if cache_dir is not None else None
        self.report: dict[str, Any] | None = None
        self._first: Frames | None = None
        self._first_print = ""
        self._input: ItemInput | None = None
        self._last: tuple[str, ItemVectors] | None = None

    def fit(self, frames: Frames) -> ItemSource:
        """Remember what to fit on: the first snapshot; returns itself."""
        print_ = fingerprint_frames(frames)
        if print_ != self._first_print:  # the same again changes nothing
            self._first, self._first_print = frames, print_
            self._input = self._last = None
        return self

    def transform(self, frames: Frames) -> ItemVectors:
        """Vectors of ``frames.items`` from the events strictly before ``frames.time``.

        Raises:
            DataError: Nothing was given to fit on, the input returned vectors of other items or
                numbers that are not finite, or the folder cannot be written.
        """
        if self._first is None:
            raise DataError("items: expected a fitted input, got none: call fit first")
        key = fingerprint_json(
            {
                "made_by": self.identity,
                "fitted": self._first_print,
                "frames": fingerprint_frames(frames),
                "pictures": fingerprint_pictures(frames, self.image_field, self._pictures),
                "version": _VERSION,
            }
        )
        if self._last is not None and self._last[0] == key:
            return self._last[1]
        ids = item_ids_of(frames)
        found = self._read(key, len(ids)) or self._make_once(key, frames, ids)
        vectors = ItemVectors(ids, *found)
        self._last = (key, vectors)
        return vectors

    def _make_once(
        self, key: str, frames: Frames, ids: NDArray[np.object_]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Make and keep vectors, or take those that another process has made meanwhile."""
        path = self._path(key)
        if path is None:
            return self._made(frames, ids)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._not_kept(path, error) from error
        with one_at_a_time(path.with_name("make.lock"), "item vectors"):
            found = self._read(key, len(ids))
            if found is None:
                found = self._made(frames, ids)
                self._write(path, *found)
        return found

    def _made(
        self, frames: Frames, ids: NDArray[np.object_]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        if self._input is None and self._first is not None:
            self._input = self.make().fit(self._first)
        if self._input is None:
            raise DataError("items: expected a fitted input, got none: call fit first")
        made = self._input.transform(frames)
        x, valid = np.asarray(made.x, np.float32), np.asarray(made.valid, bool)
        if not np.array_equal(np.asarray(made.item_ids, object), ids) or len(x) != len(ids):
            raise DataError(
                f"items: expected vectors of the {len(ids)} items in their order, got those of "
                f"{len(made.item_ids)} items"
            )
        bad = int((~np.isfinite(x).all(axis=1)).sum())
        if bad:
            raise DataError(f"items: expected finite numbers, got nan or inf for {bad} items")
        self.report = report_of(self._input)
        return np.where(valid[:, None], x, np.float32(0)), valid

    def _path(self, key: str) -> Path | None:
        return None if self.cache_dir is None else self.cache_dir / f"{key}.safetensors"

    def _read(self, key: str, n: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        try:
            tensors, header = read_tensors(path, _KIND, _VERSION, "item vectors")
            x, valid = tensors["x"], tensors["valid"]
            report = json.loads(header["report"])
        except (TableError, KeyError, ValueError) as error:
            logger.warning("%s: %s: made again", path, error)
            return None
        if x.ndim != 2 or x.dtype != np.float32 or len(x) != n or valid.shape != (n,):
            logger.warning("%s: vectors of %s for %d items: made again", path, x.shape, n)
            return None
        logger.info("items: %d vectors made before, reused", n)
        self.report = report
        return x, valid.astype(bool)

    def _write(self, path: Path, x: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
        values = {"report": json.dumps(self.report)}
        try:
            write_tensors(path, _KIND, _VERSION, {"x": x, "valid": valid}, values)
        except OSError as error:
            raise self._not_kept(path, error) from error

    @staticmethod
    def _not_kept(path: Path, error: OSError) -> DataError:
        return DataError(f"{path}: item vectors cannot be kept: {error.strerror or error}")


def item_identity(recipe: Recipe, encoder: Encoder | None) -> dict[str, Any]:
    """What decides about item vectors, next to items and events: plain values."""
    items = recipe.items.model_dump(mode="json") if recipe.items is not None else {}
    rest = recipe.model_dump(mode="json", exclude={*_NOT_OF_VECTORS, "items"})
    return {
        "recipe": rest,
        "items": {k: v for k, v in items.items() if k not in _NOT_OF_ITEM_VECTORS},
        "encoder": None if encoder is None else encoder.identity,
    }


def fingerprint_pictures(
    frames: Frames, image_field: str | None, files: PictureFiles | None = None
) -> str:
    """Fingerprint of the content of the items' picture files, "" without any."""
    if image_field is None or image_field not in frames.items.columns:
        return ""
    read = files or PictureFiles()
    paths = frames.items[image_field]
    digests = [read.digest(str(path).strip()) for path in paths[paths.notna()]]
    return fingerprint_json({"pictures": digests})


def report_of(source: Any) -> dict[str, Any] | None:
    """What an input says of its fit, as plain values: its ``report`` or ``diagnostics``.

    Without the seconds it took: equal inputs make equal files. An undefined figure is None.
    """
    found = getattr(source, "report", None) or getattr(source, "diagnostics", None)
    if is_dataclass(found) and not isinstance(found, type):
        found = asdict(found)
    if not isinstance(found, Mapping):
        return None
    kept = {str(name): value for name, value in found.items() if name != "seconds"}
    text = json.dumps(kept, default=lambda value: value.item())
    plain: dict[str, Any] = json.loads(text, parse_constant=lambda name: None)
    return plain
