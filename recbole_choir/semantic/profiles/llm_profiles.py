"""Users' profiles by a language model: facts, prompts, store, texts (paper 4.2.1)."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_choir.errors import ProfileError
from recbole_choir.semantic.frames.frames import USER_ID, Frames
from recbole_choir.semantic.profiles.engines import make_generator
from recbole_choir.semantic.profiles.estimate import Estimate, estimate
from recbole_choir.semantic.profiles.facts import FactTable
from recbole_choir.semantic.profiles.prompt import PromptWriter
from recbole_choir.semantic.profiles.redact import fields_to_leave_out, load_redactor
from recbole_choir.semantic.profiles.runner import write_profiles
from recbole_choir.semantic.profiles.schema import ProfileChecker
from recbole_choir.semantic.profiles.store import FILE_NAME, ProfileStore
from recbole_choir.semantic.profiles.template_engine import TemplateEngine
from recbole_choir.semantic.profiles.types import (
    BatchGenerator,
    Failure,
    Generator,
    KeyMaker,
    Outcome,
    Prompt,
    Reply,
)
from recbole_choir.semantic.profiles.verbalize import verbalize
from recbole_choir.settings.profiles import TEMPLATE, ProfileSettings
from recbole_choir.settings.recipe import InputRecipe

logger = logging.getLogger(__name__)

#: Inputs that read the users' written profiles.
PROFILE_INPUTS: Final = ("text", "aligned")

#: What makes the engine: the settings' by default, a fake one in tests.
MakeGenerator = Callable[[ProfileSettings], Generator | BatchGenerator]


class LlmProfiles:
    """Writes the profiles of all users of a snapshot; called once a snapshot, in order of time.

    ::

        facts before the snapshot -> prompts, one at a time -> those the store does not know
              -> engine -> checked -> store;   texts of all users <- store
        too few events, or failed -> the template's text

    A prompt that did not change since an earlier snapshot, run or dataset comes from the store.

    Args:
        settings: Of the recipe, with ``engine`` set to a language model's.
        store_path: SQLite file of the profiles.
        windows_days: Recent and medium window of a prompt, in days.
        progress: Show progress bars.
        make: Makes the engine, once it is needed.

    Attributes:
        statistics: Counts for the manifest, of all snapshots so far.

    Raises:
        ConfigError: The template or the redaction hook cannot be used.
    """

    def __init__(
        self,
        settings: ProfileSettings,
        store_path: str | Path,
        windows_days: Sequence[float] = (7, 30),
        progress: bool = True,
        make: MakeGenerator = make_generator,
    ) -> None:
        self.settings = settings
        self.store_path = Path(store_path)
        self.windows_days = windows_days
        self.progress = progress
        self._make = make
        self._writer = PromptWriter(
            settings.prompt, load_redactor(settings.redact_hook), settings.max_tokens
        )
        self._checker = ProfileChecker(settings.script)
        self._template = TemplateEngine()
        self._kept: _Kept | None = None
        self._last: dict[str, bytes] = {}  # user -> key of the last prompt
        self.statistics: dict[str, Any] = {"engine": settings.engine, "snapshots": []}

    def __call__(self, frames: Frames) -> pd.Series:
        """Texts of ``frames.users`` from what happened before ``frames.time``, by user id.

        Raises:
            ProfileError: Too many users failed, the engine is dead, or a cap of the settings ended
                the run: what is written is kept, and the next run goes on.
            ConfigError: The engine cannot be made, or a field to redact does not exist.
            DataError: The store cannot be used.
        """
        described = self._described(frames)
        table = self._table(frames, described)
        rows = np.flatnonzero(table.n_events >= self.settings.min_events)
        generator = self._generator()
        maker = KeyMaker(generator.model_id, generator.parameters)
        keys: list[bytes] = []
        with ProfileStore(self.store_path, self.settings.lease_seconds) as store:
            outcome = write_profiles(
                self._noted(table, rows, maker, keys),
                generator,
                self._checker,
                store,
                self.settings,
                progress=self.progress,
                total=len(rows),
            )
            if outcome.stopped or len(keys) < len(rows):
                raise ProfileError(
                    f"profiles: {outcome.stopped or 'the run ended early'}; {outcome.done} of "
                    f"{len(rows)} users have theirs and keep it: run again to go on"
                )
            found = store.get(keys)
        texts = np.full(len(table), "", object)
        reasons: Counter[str] = Counter()
        for row, key in zip(rows, keys, strict=True):
            result = found.get(key)
            if isinstance(result, str):
                texts[row] = result
            else:
                reasons[result.reason if isinstance(result, Failure) else "lost"] += 1
        rest = np.flatnonzero(texts == "")
        texts[rest] = self._template.write(described.iloc[rest])
        self._count(generator, table, rows, keys, outcome, reasons)
        return pd.Series(texts, index=described[USER_ID].to_numpy(object), dtype=object)

    def estimate(self, *snapshots: Frames) -> Estimate:
        """What calls with these frames would ask for, at what cost; nothing is sent."""
        generator = self._generator()
        maker = KeyMaker(generator.model_id, generator.parameters)
        prompts = itertools.chain.from_iterable(self.prompts(frames) for frames in snapshots)
        with ProfileStore(self.store_path, self.settings.lease_seconds) as store:
            return estimate(prompts, maker, store, self.settings)

    def prompts(self, frames: Frames) -> Iterator[Prompt]:
        """The prompts of a snapshot, written one at a time: to be read before they are sent."""
        table = self._table(frames, self._described(frames))
        rows = np.flatnonzero(table.n_events >= self.settings.min_events)
        yield from self._writer.prompts(table, rows)

    def _described(self, frames: Frames) -> pd.DataFrame:
        return verbalize(frames, self.windows_days, windows_end=self.settings.windows_end)

    def close(self) -> None:
        """Free the model of an engine in this process."""
        if self._kept is not None:
            self._kept.let_go()
            self._kept = None

    def _table(self, frames: Frames, described: pd.DataFrame) -> FactTable:
        fields = [str(c) for c in frames.users.columns if c != USER_ID]
        return FactTable(
            frames,
            described,
            self.windows_days,
            self.settings.windows_end,
            fields_to_leave_out(self.settings.redact, fields),
            self.settings.titles,
        )

    def _generator(self) -> Generator | BatchGenerator:
        """An engine; one that holds a model in this process is made once."""
        if self._kept is not None:
            return self._kept
        made = self._make(self.settings)
        if isinstance(made, BatchGenerator):
            self._kept = _Kept(made)
            return self._kept
        return made

    def _noted(
        self, table: FactTable, rows: NDArray[np.intp], maker: KeyMaker, keys: list[bytes]
    ) -> Iterator[Prompt]:
        for prompt in self._writer.prompts(table, rows):
            keys.append(maker.key(prompt))
            yield prompt

    def _count(
        self,
        generator: Generator | BatchGenerator,
        table: FactTable,
        rows: NDArray[np.intp],
        keys: list[bytes],
        outcome: Outcome,
        reasons: Counter[str],
    ) -> None:
        users = table.user_ids[rows]
        before = [self._last.get(user) for user in users]
        new = sum(old is None for old in before)
        changed = sum(old is not None and old != key for old, key in zip(before, keys))
        self._last.update(zip(users, keys, strict=True))
        fallback = sum(reasons.values())
        failed = dict(sorted(reasons.items()))
        snapshot: dict[str, Any] = {
            "users": len(table),
            "with_prompt": len(rows),
            "new": new,
            "changed": changed,
            "unchanged": len(rows) - new - changed,
            "template_alone": len(table) - len(rows),
            "asked": outcome.prompts
            - outcome.reused
            - outcome.failed_before
            - outcome.duplicates
            - outcome.elsewhere,
            "reused": outcome.reused,
            "fallback": fallback,
            "failed": failed,
            "requests": outcome.requests,
            "prompt_tokens": outcome.prompt_tokens,
            "completion_tokens": outcome.completion_tokens,
            "seconds": round(outcome.seconds, 1),
        }
        total = self.statistics
        total["model"] = generator.model_id
        total["snapshots"].append(snapshot)
        for name in ("asked", "reused", "fallback", "requests"):
            total[name] = sum(s[name] for s in total["snapshots"])
        total["failed"] = dict(
            sum((Counter(s["failed"]) for s in total["snapshots"]), Counter[str]())
        )
        logger.info(
            "profiles: %d of %d users with events: %d new, %d with a changed prompt, %d unchanged; "
            "%d asked, %d failed and have the template's text (%s)",
            *(len(rows), len(table), new, changed, snapshot["unchanged"], snapshot["asked"]),
            *(fallback, ", ".join(f"{k} {n}" for k, n in failed.items()) or "none"),
        )


def profile_writer(
    recipe: InputRecipe, out: Path, cache_dir: str | Path | None = None, progress: bool = True
) -> LlmProfiles | None:
    """Who asks the recipe's language model; None where nothing is to be asked.

    Args:
        recipe: Its input and profile engine.
        out: Folder of the table.
        cache_dir: Folder of the store; ``.profiles`` next to the table if None.
        progress: Show progress bars.
    """
    if recipe.input not in PROFILE_INPUTS or recipe.profile_engine == TEMPLATE:
        return None
    store = store_path(recipe.profile, out, None if cache_dir is None else Path(cache_dir))
    return LlmProfiles(recipe.profile, store, recipe.windows_days, progress)


def store_path(settings: ProfileSettings, out: Path, cache_dir: Path | None = None) -> Path:
    """Where the profiles for what is written to ``out`` are kept: ``.profiles`` next to it.

    Args:
        settings: ``store`` names another file.
        out: Of a table, or a file of profiles.
        cache_dir: Folder to use instead of ``.profiles``.
    """
    if settings.store is not None:
        return Path(settings.store)
    return (cache_dir if cache_dir is not None else out.parent / ".profiles") / FILE_NAME


class _Kept:
    """A batch engine that the end of one run does not close: loading its model takes minutes."""

    def __init__(self, inner: BatchGenerator) -> None:
        self.inner = inner
        self.name = inner.name
        self.model_id = inner.model_id
        self.parameters = inner.parameters
        self.batch_size = inner.batch_size
        self._working = Lock()

    def complete_many(
        self, prompts: Sequence[Prompt], seeds: Sequence[int]
    ) -> list[Reply | Failure]:
        """What the engine answers."""
        with self._working:
            return self.inner.complete_many(prompts, seeds)

    def close(self) -> None:
        """Do nothing: a run is over, and the next one needs the model."""

    def let_go(self) -> None:
        """Close the engine, unless an interrupted run's thread is still inside of it."""
        if self._working.acquire(blocking=False):
            try:
                self.inner.close()
            finally:
                self._working.release()
