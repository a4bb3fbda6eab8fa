"""Profiles alone, without groups: for whoever wants the texts and nothing else."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np

from recbole_choir.errors import ConfigError
from recbole_choir.files import write_whole
from recbole_choir.semantic.frames.frames import Frames
from recbole_choir.semantic.frames.snapshots import snapshot_times
from recbole_choir.semantic.profiles.llm_profiles import LlmProfiles, store_path
from recbole_choir.settings.profiles import LLM_ENGINES, TEMPLATE
from recbole_choir.settings.recipe import Recipe


def export_profiles(
    frames: Frames,
    recipe: Recipe,
    out: str | Path,
    *,
    snapshots: bool = False,
    dry_run: bool = False,
    show: int = 0,
    show_progress: bool = True,
) -> str:
    """Have the recipe's language model write the users' profiles, or say what that would take.

    Args:
        frames: In canonical form.
        recipe: Its ``profile_engine`` and ``profile``; the rest does not matter here.
        out: JSON lines ``time``, ``user_id``, ``text``; written whole at the end. The store lies
            in ``.profiles`` next to it, where tables in the same folder look for it as well.
        snapshots: At each of the recipe's snapshots instead of once after all events.
        dry_run: Ask nothing; return the estimate.
        show: With ``dry_run``, prompts to return as well, of the first users.
        show_progress: Show progress bars.

    Returns:
        Lines for a person.

    Raises:
        ConfigError: The recipe's engine is the template, which needs no such care.
        ProfileError: The profiles cannot be written; what is written is kept.
    """
    if recipe.profile_engine == TEMPLATE:
        raise ConfigError(
            f"profile_engine: expected one of {', '.join(LLM_ENGINES)}, got '{TEMPLATE}': nothing "
            "to be asked"
        )
    out = Path(out)
    times = frames.interactions["timestamp"].to_numpy(np.float64)
    moments = (
        snapshot_times(times, recipe) if snapshots else [float(np.nextafter(times.max(), np.inf))]
    )
    before = [frames.before(float(moment)) for moment in moments]
    with closing(
        LlmProfiles(
            recipe.profile, store_path(recipe.profile, out), recipe.windows_days, show_progress
        )
    ) as profiles:
        if dry_run:
            return "\n".join([*_shown(profiles, before[-1], show), str(profiles.estimate(*before))])
        lines = []
        for moment in before:
            texts = profiles(moment)
            lines += [
                json.dumps({"time": moment.time, "user_id": user, "text": text}, ensure_ascii=False)
                for user, text in texts.items()
            ]
    write_whole(out, "\n".join(lines) + "\n")
    out.chmod(0o600)  # what is told of users is for their owner alone
    s = profiles.statistics
    return (
        f"{len(lines)} profiles in {out}: {s['asked']} asked, {s['reused']} from the store, "
        f"{s['fallback']} failed and have the template's text"
    )


def _shown(profiles: LlmProfiles, frames: Frames, n: int) -> list[str]:
    out = []
    for _, prompt in zip(range(n), profiles.prompts(frames)):
        out += [f"--- {role} ---\n{text}\n" for role, text in prompt.messages]
    return out
