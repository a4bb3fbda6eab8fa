"""Words on the command line, of every command, and the YAML files they name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_dataset import Door, write_dataset

from recbole_choir import cli

CASES: list[dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parent / "word_cases.yaml").read_text(encoding="utf-8")
)


def alias_bomb(levels: int) -> str:
    """Lines that stand for 9 ** levels values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


def merge_bomb(levels: int) -> str:
    """The same by merge keys."""
    lines = ["a0: &a0 {k0: 1, k1: 1}"]
    for i in range(1, levels):
        lines += [f"a{i}: &a{i}", f"  <<: [*a{i - 1}, *a{i - 1}, *a{i - 1}]", f"  z{i}: 1"]
    return "\n".join(lines) + "\n"


BAD_YAML: dict[str, str | bytes] = {
    "bad": "a: [1\n",
    "list": "- 1\n",
    "bin": b"\xff\xfe\x00\x01",
    "latin": "name: é\n".encode("latin-1"),
    "tab": "a:\n\t- b\n",
    "dup": "epochs: 1\nepochs: 2\n",
    "tag": "a: !!python/object/apply:os.system [ls]\n",
    "deep": "a: " + "[" * 5000 + "]" * 5000,
    "big": "#" * 5_000_000,
    "date": "epochs: 2020-13-45\n",
    "num": "1: 2\n",
    "null": "epochs: \x00\n",
    "self": "a: &a [*a]\n",
    "two": "a: 1\n---\nb: 2\n",
    "undefined": "a: *b\n",
    "text": "hello\n",
    "int": "epochs: " + "9" * 6000 + "\n",
    "bomb": alias_bomb(12),
    "merge": merge_bomb(30),
}


@pytest.mark.parametrize("case", CASES, ids=[" ".join(c["words"])[:70] for c in CASES])
def test_a_wrong_word_is_one_line(door: Door, tmp_path: Path, case: dict[str, Any]) -> None:
    for name, content in BAD_YAML.items():
        if f"{name}.yaml" in " ".join(case["words"]):
            raw = content.encode() if isinstance(content, str) else content
            (tmp_path / f"{name}.yaml").write_bytes(raw)
    write_dataset(tmp_path)
    assert case["line"] in door(*case["words"]).line


@pytest.mark.parametrize(
    "word", ["[" * 3000, "9" * 5000, "{a: " * 2000, "'" * 999, "&a [*a, *a]", "\x00", "._"]
)
def test_odd_values_are_one_line(door: Door, word: str) -> None:
    assert "--epochs: expected " in door("--model=Base", f"--epochs={word}").line


@pytest.mark.parametrize(
    ("raised", "code", "text"),
    [
        (MemoryError(), 2, "too little memory for these settings"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "too little memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 2, "too little memory"),
        (KeyboardInterrupt(), 130, "stopped"),
        (OSError(28, "No space left on device", "saved/x.json"), 2, "saved/x.json: No space left"),
        (PermissionError(13, "Permission denied", "a.inter"), 2, "a.inter: Permission denied"),
    ],
)
def test_what_the_machine_does_is_one_line(
    door: Door, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, text: str
) -> None:
    def check(*args: object, **kwargs: object) -> None:
        raise raised  # stands for a fault deep inside a run

    monkeypatch.setattr(cli, "check", check)
    answer = door("--model=Base")
    assert answer.code == code
    assert len(answer.err.splitlines()) == 1
    assert text in answer.err


def test_other_errors_of_a_run_are_bugs(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(*args: object, **kwargs: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(cli, "check", check)
    with pytest.raises(RuntimeError, match="shapes differ"):
        door("--model=Base")


@pytest.mark.slow
@pytest.mark.parametrize("module", ["semantic", "dataset_adapters"])
@pytest.mark.parametrize("words", [[], ["nosuch"], ["build", "--nosuch"], ["ml-1m", "--nosuch"]])
def test_modules_that_are_run_by_name(tmp_path: Path, module: str, words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"recbole_choir.{module}", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
