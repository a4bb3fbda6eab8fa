"""Kill what trains and what compares, at random moments, and count what is lost.

    python benchmarks/kill_runs.py training [--kills 100]
    python benchmarks/kill_runs.py compare [--kills 100]
    python benchmarks/kill_runs.py parent [--kills 50]

All of it on 600 made-up rows, with SIGKILL, which no process can answer. ``training`` kills a run
of ChoirRec with its semantic table, goes on from the last checkpoint, and compares the end with
that of a run nobody killed. ``compare`` kills workers of a comparison with two of them, and starts
the same command again until nothing is missing. ``parent`` kills the comparison itself, and looks
for workers that are left. The record holds the counts; it is written after each round, so that a
stop leaves what was counted.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from recbole_choir.record import versions

ROOT = Path(__file__).resolve().parent.parent
START = 1_600_000_000
#: Seeds of a comparison: many, where each start may lose many workers.
SEEDS = 10
WORKERS = 2
EPOCHS = 24
#: How long a worker may take to see that its parent is gone: it may be loading a library.
PATIENCE = 60.0


def write_data(folder: Path, n: int = 600) -> Path:
    """The dataset ``made-up``: 600 rows of 24 users and 26 items, one a minute."""
    draw = random.Random(0)
    target = folder / "data" / "made-up"
    target.mkdir(parents=True)
    inter = "user_id:token\titem_id:token\tlabel:float\ttimestamp:float\n" + "".join(
        f"u{i * 7 % 24}\ti{i * 5 % 26}\t{draw.randrange(2)}\t{START + 60 * i}\n" for i in range(n)
    )
    user = "user_id:token\tcity:token\n" + "".join(f"u{k}\tc{k % 3}\n" for k in range(24))
    item = "item_id:token\tmaker:token\n" + "".join(f"i{k}\tm{k % 5}\n" for k in range(26))
    for suffix, text in (("inter", inter), ("user", user), ("item", item)):
        (target / f"made-up.{suffix}").write_text(text)
    (folder / "made-up.yaml").write_text(
        json.dumps(
            {
                "data_path": str(folder / "data"),
                "load_col": {
                    "inter": ["user_id", "item_id", "label", "timestamp"],
                    "user": ["user_id", "city"],
                    "item": ["item_id", "maker"],
                },
            }
        )
    )
    return folder


# --- training --------------------------------------------------------------------------------


def settings(folder: Path, work: Path, seed: int) -> dict[str, Any]:
    return {
        "data_path": str(folder / "data"),
        "load_col": json.loads((folder / "made-up.yaml").read_text())["load_col"],
        "seed": seed,
        "epochs": EPOCHS,
        "stopping_step": 99,
        "train_batch_size": 128,
        "embedding_size": 4,
        "mlp_hidden_size": [8, 4],
        "dropout_prob": 0.1,
        "semantic": {"input": "random", "n_snapshots": 2},
        "checkpoint_dir": str(work / "saved"),
        "record_dir": str(work / "records"),
        "semantic_dir": str(work / "semantic"),
        "show_progress": False,
        "quiet": True,
        "state": "ERROR",
    }


def train(folder: Path, work: Path, seed: int) -> int:
    """One process that trains, from the last checkpoint where there is one; its id."""
    child = os.fork()  # libraries are loaded already: a kill then hits work and not imports
    if child:
        return child
    code = 1
    try:
        work.mkdir(exist_ok=True)
        log = os.open(work / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        from recbole_choir.quick_start import run

        found = sorted((work / "saved").glob("[!.]*-last.pth"), key=lambda p: p.stat().st_mtime)
        last = {"resume": str(found[-1])} if found else {}
        run("ChoirRec", "made-up", config_dict={**settings(folder, work, seed), **last})
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stderr.flush()
        os._exit(code)


def outcome(work: Path) -> Any:
    """What a finished run has left: every figure of its record, and the bits of its weights."""
    import torch

    (path,) = (work / "records").glob("[!.]*.json")
    record = json.loads(path.read_text())
    for entry in record["history"]:
        for name in ("seconds", "rows_per_second", "valid_seconds"):
            entry.pop(name)
        for one in entry["validations"]:
            one.pop("seconds")
    (last,) = sorted((work / "saved").glob("[!.]*-last.pth"))[-1:]
    state = torch.load(last, weights_only=True)["state_dict"]
    weights = {k: v.numpy().tobytes().hex() for k, v in state.items() if torch.is_tensor(v)}
    kept = ("test", "segments", "best_valid", "best_epoch", "history", "table", "rows")
    return {"weights": weights, **{name: record[name] for name in kept}}


def stale(work: Path) -> int:
    """Unfinished files that killed processes have left."""
    return sum(1 for p in work.rglob(".writing-*") if p.is_file())


def wait_for_epochs(work: Path, n: int, child: int) -> bool:
    """Wait until a process has written ``n`` checkpoints; False if it ends before."""
    seen: set[int] = {p.stat().st_mtime_ns for p in (work / "saved").glob("[!.]*-last.pth")}
    before = len(seen)
    while len(seen) < before + n:
        if psutil.Process(child).status() == psutil.STATUS_ZOMBIE:
            return False
        seen |= {p.stat().st_mtime_ns for p in (work / "saved").glob("[!.]*-last.pth")}
        time.sleep(0.002)
    return True


def kill_training(kills: int, folder: Path, draw: random.Random) -> None:
    # loaded once, for all children: what torch's optimisers and the table's builder load late
    for module in ("torch._dynamo", "recbole_choir.quick_start"):
        importlib.import_module(module)
    importlib.import_module("recbole_choir.semantic.table.builder")

    counts: Counter[str] = Counter()
    seed = 0
    while counts["kills"] < kills:
        seed += 1
        whole, work = folder / f"whole-{seed}", folder / f"killed-{seed}"
        begun = time.perf_counter()
        _, status = os.waitpid(train(folder, whole, seed), 0)
        seconds = time.perf_counter() - begun
        if status:
            raise SystemExit((whole / "log").read_text())
        training = json.loads(next((whole / "records").glob("*.json")).read_text())["seconds"]
        epoch = training["train"] / EPOCHS
        over = False
        while not over:
            child = train(folder, work, seed)
            if counts["kills"] < kills:
                epochs = draw.randrange(6)
                if epochs and wait_for_epochs(work, epochs, child):
                    time.sleep(draw.uniform(0.0, epoch))
                elif not epochs:
                    time.sleep(draw.uniform(0.0, seconds - training["train"]))
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status):
                counts["kills"] += 1
                trained = list((work / "saved").glob("[!.]*-last.pth"))
                counts["with a checkpoint" if trained else "before the first epoch"] += 1
                counts["unfinished files left"] += stale(work)
            elif status:
                raise SystemExit((work / "log").read_text())
            over = os.WIFEXITED(status)
        counts["runs"] += 1
        counts["bit-identical"] += outcome(whole) == outcome(work)
        counts["unfinished files at the end"] += sum(
            stale(work / part) for part in ("saved", "records")
        )
        note("training", counts)
        shutil.rmtree(whole)
        shutil.rmtree(work)


# --- compare ---------------------------------------------------------------------------------


def compare(folder: Path, out: Path) -> subprocess.Popen[bytes]:
    """The comparison in a process of its own: Base and DeepFM, two workers."""
    command = [sys.executable, str(ROOT / "run_recbole_choir.py"), "compare", "--models=DeepFM"]
    command += ["--datasets=made-up", f"--config={folder / 'made-up.yaml'}", "--tune=0"]
    command += [f"--seeds={SEEDS}", f"--workers={WORKERS}", "--epochs=2", "--learning_rate=0.01"]
    log = (folder / "log").open("ab")
    return subprocess.Popen([*command, "--out", str(out)], stdout=log, stderr=log, cwd=folder)


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    """The workers of a comparison: what its server of copies has started."""
    try:
        servers = [c for c in process.children() if "forkserver" in " ".join(c.cmdline())]
        return [worker for server in servers for worker in server.children()]
    except psutil.Error:
        return []


def records(out: Path) -> dict[str, dict[str, Any]]:
    return {p.name: json.loads(p.read_text()) for p in out.glob("[!.]*.json")}


def figures(record: dict[str, Any]) -> Any:
    return {name: record[name] for name in ("test", "segments", "best_valid", "rows")}


def finished(out: Path) -> dict[str, tuple[int, Any]]:
    """Finished records with the moment they were written."""
    # an average of two seeds is a record too, and no run
    found = {name: one for name, one in records(out).items() if "best_valid" in one}
    return {n: ((out / n).stat().st_mtime_ns, figures(one)) for n, one in found.items()}


def check_kept(before: dict[str, Any], out: Path, counts: Counter[str]) -> None:
    """What was finished before is there, and was not run again."""
    after = finished(out)
    for name, (moment, one) in before.items():
        counts["finished runs lost"] += name not in after or after[name][1] != one
        counts["finished runs run again"] += name in after and after[name][0] != moment


def check_end(out: Path, whole: dict[str, Any], counts: Counter[str]) -> None:
    """The comparison is over: every run is there, with the figures of one that nobody killed."""
    here = {name: one for name, (_, one) in finished(out).items()}
    counts["comparisons"] += 1
    counts["runs"] += len(here)
    counts["runs missing"] += len(whole.keys() - here.keys())
    counts["runs with other figures"] += sum(here[n] != whole[n] for n in here.keys() & whole)
    counts["weights left"] += len(list((out / "runs").glob("*-weights")))


def undisturbed(folder: Path) -> tuple[dict[str, Any], float]:
    """Figures of a comparison that nobody kills, and the seconds that a worker of it lives."""
    process = compare(folder, folder / "whole")
    parent, seen = psutil.Process(process.pid), {}
    while process.poll() is None:
        for worker in workers_of(parent):
            first, _ = seen.get(worker.pid, (time.monotonic(), 0.0))
            seen[worker.pid] = (first, time.monotonic())
        time.sleep(0.02)
    if process.returncode != 0:
        raise SystemExit((folder / "log").read_text())
    whole = {name: one for name, (_, one) in finished(folder / "whole").items()}
    return whole, statistics.median(last - first for first, last in seen.values())


def kill_workers(kills: int, folder: Path, draw: random.Random) -> None:
    (whole, pace), counts, turn = undisturbed(folder), Counter[str](), 0
    while counts["kills"] < kills:
        turn += 1
        out = folder / f"out-{turn}"
        code = None
        while code != 0:
            before, killed = finished(out), 0
            process = compare(folder, out)
            parent = psutil.Process(process.pid)
            known: dict[int, float | None] = {}
            while process.poll() is None:
                for worker in workers_of(parent):
                    if worker.pid not in known:
                        wants = draw.random() < 0.85 and counts["kills"] + killed < kills
                        known[worker.pid] = (
                            time.monotonic() + draw.uniform(0.0, pace) if wants else None
                        )
                    moment = known[worker.pid]
                    if moment is not None and time.monotonic() >= moment:
                        known[worker.pid] = None
                        try:
                            worker.kill()
                            killed += 1
                        except psutil.NoSuchProcess:
                            pass
                time.sleep(0.02)
            code = process.returncode
            errors = [one["error"] for one in records(out).values() if "error" in one]
            named = sum("was killed" in error for error in errors)
            counts["kills"] += killed
            counts["killed runs with a record that says so"] += named
            counts["kills of a worker whose run was over"] += max(0, killed - named)
            counts["other errors"] += len(errors) - named
            counts["starts"] += 1
            counts["wrong exit codes"] += code != (1 if errors else 0)
            check_kept(before, out, counts)
            note("compare", counts)
        check_end(out, whole, counts)
        note("compare", counts)


def kill_parents(kills: int, folder: Path, draw: random.Random) -> None:
    (whole, pace), counts, turn = undisturbed(folder), Counter[str](), 0
    slowest = 0.0
    while counts["kills"] < kills:
        turn += 1
        out = folder / f"out-{turn}"
        over = False
        while not over:
            before = finished(out)
            process = compare(folder, out)
            parent = psutil.Process(process.pid)
            workers: dict[int, psutil.Process] = {}
            wants = counts["kills"] < kills
            # one in five before it has started a worker, perhaps
            early = draw.random() < 0.2
            moment = time.monotonic() + draw.uniform(0.0, pace) if wants and early else None
            while process.poll() is None and (moment is None or time.monotonic() < moment):
                workers |= {w.pid: w for w in workers_of(parent)}
                if wants and moment is None and workers:
                    moment = time.monotonic() + draw.uniform(0.0, 3 * pace)
                time.sleep(0.02)
            over = process.poll() is not None
            counts["starts"] += 1
            if not over:
                workers |= {w.pid: w for w in workers_of(parent)}
                alive = [w for w in workers.values() if w.is_running()]
                process.kill()
                process.wait()
                counts["kills"] += 1
                counts["workers at work when killed"] += len(alive)
                begun = time.monotonic()
                _, left = psutil.wait_procs(alive, timeout=PATIENCE)
                slowest = max(slowest, time.monotonic() - begun)
                counts["workers left"] += len(left)
            elif process.returncode != 0:
                counts["wrong exit codes"] += 1
                raise SystemExit((folder / "log").read_text())
            check_kept(before, out, counts)
            note("parent", counts, {"slowest_worker_to_end_s": round(slowest, 2)})
        check_end(out, whole, counts)
        note("parent", counts, {"slowest_worker_to_end_s": round(slowest, 2)})


# --- the record ------------------------------------------------------------------------------

RECORD = ROOT / "benchmarks" / "records" / "kill_runs.json"


def note(mode: str, counts: Counter[str], more: dict[str, Any] | None = None) -> None:
    """Write what was counted so far."""
    content = json.loads(RECORD.read_text()) if RECORD.exists() else {"benchmark": "kill_runs"}
    content |= {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "versions": versions(),
    }
    content[mode] = {
        "command": f"python benchmarks/kill_runs.py {mode}",
        **dict(sorted(counts.items())),
        **(more or {}),
    }
    temporary = RECORD.with_suffix(f".{mode}")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(RECORD)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("mode", choices=("training", "compare", "parent"))
    parser.add_argument("--kills", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    kills = options.kills or {"training": 100, "compare": 100, "parent": 50}[options.mode]
    modes = {"training": kill_training, "compare": kill_workers, "parent": kill_parents}
    with tempfile.TemporaryDirectory(prefix="kill-runs-") as folder:
        modes[options.mode](kills, write_data(Path(folder)), random.Random(options.seed))
    print(json.dumps(json.loads(RECORD.read_text())[options.mode], indent=2))


if __name__ == "__main__":
    main()
