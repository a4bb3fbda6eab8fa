"""Several processes on one machine, each with a share of the rows.

RecBole's own multi-process branch needs NCCL, pads the evaluated rows with duplicates and averages
AUC over the processes. It is never entered: ``config['single_spec']`` stays True, and what is
needed is here. Rank ``r`` of ``w`` holds the rows ``r, r + w, r + 2 w, ...`` of a set, so the
gathered parts can be put back in order without sending any index.
"""

from __future__ import annotations

import logging
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from recbole_choir.errors import ChoirError, ConfigError, DataError
from recbole_choir.files import write_whole
from recbole_choir.processes import end_with_parent

logger = logging.getLogger("recbole_choir")


class ProcessError(ChoirError):
    """One of several processes failed."""


def is_active() -> bool:
    """Whether this process belongs to a group of several that :func:`init` has joined."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process, from 0; 0 when there is one process only."""
    return dist.get_rank() if is_active() else 0


def world_size() -> int:
    """Number of processes; 1 when there is one process only."""
    return dist.get_world_size() if is_active() else 1


def init(
    process_rank: int | None = None,
    n_processes: int | None = None,
    init_method: str = "env://",
    use_gpu: bool = True,
) -> None:
    """Join the process group: NCCL where every process has a CUDA device of its own, else gloo.

    Args:
        process_rank, n_processes: Default: the environment's RANK and WORLD_SIZE (``torchrun``).
        init_method: Where the processes meet, as in ``torch.distributed``.
        use_gpu: False keeps to the CPU on a machine with CUDA devices.

    Raises:
        ConfigError: If the rank or the number of processes is missing or impossible.
    """
    if is_active():
        return
    process_rank = _from_environment("RANK", process_rank)
    n_processes = _from_environment("WORLD_SIZE", n_processes)
    if not 0 <= process_rank < n_processes:
        raise ConfigError(f"nproc: expected a rank from 0 to {n_processes - 1}, got {process_rank}")
    on_gpu = use_gpu and torch.cuda.is_available() and torch.cuda.device_count() >= n_processes
    if on_gpu:
        torch.cuda.set_device(process_rank)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        init_method=init_method,
        rank=process_rank,
        world_size=n_processes,
    )


def shutdown() -> None:
    """Leave the process group, if one was joined."""
    if is_active():
        dist.destroy_process_group()


def _from_environment(name: str, value: int | None) -> int:
    if value is not None:
        return value
    text = os.environ.get(name, "")
    if not text.isdigit():
        raise ConfigError(
            f"nproc: expected the environment variable {name} to be a number, got '{text}'"
        )
    return int(text)


def _communication_device(tensor: torch.Tensor) -> torch.device:
    """NCCL moves CUDA tensors only; gloo is given CPU tensors."""
    if dist.get_backend() == "nccl":
        return (
            tensor.device if tensor.is_cuda else torch.device("cuda", torch.cuda.current_device())
        )
    return torch.device("cpu")


def _gather_parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Every rank's rows, with their true lengths, on the tensor's device."""
    device = _communication_device(tensor)
    local = tensor.detach().to(device).contiguous()
    length = torch.tensor([len(local)], dtype=torch.int64, device=device)
    lengths = [torch.zeros_like(length) for _ in range(world_size())]
    dist.all_gather(lengths, length)
    sizes = [int(n) for n in torch.cat(lengths).tolist()]
    # all_gather wants equal shapes: pad to the longest, cut again on arrival
    padded = local.new_zeros((max(sizes), *local.shape[1:]))
    padded[: len(local)] = local
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return [part[:size].to(tensor.device) for part, size in zip(parts, sizes)]


def all_gather_rows(tensor: torch.Tensor) -> torch.Tensor:
    """Concatenate the rows of all ranks in order of rank; no padding row is left.

    Args:
        tensor: ``[n_r, ...]``; n_r may differ between ranks.

    Returns:
        ``[sum n_r, ...]`` on every rank; the tensor itself with one process.
    """
    return tensor if world_size() == 1 else torch.cat(_gather_parts(tensor))


def all_gather_in_order(tensor: torch.Tensor) -> torch.Tensor:
    """Put the rows of all ranks back into the order of the whole set.

    Args:
        tensor: ``[n_r, ...]``, the rows ``r, r + w, r + 2 w, ...`` of the set.

    Returns:
        ``[N, ...]`` on every rank; the tensor itself with one process.

    Raises:
        DataError: If the lengths are not those of that sharding.
    """
    if world_size() == 1:
        return tensor
    parts = _gather_parts(tensor)
    total = sum(len(part) for part in parts)
    whole = tensor.new_empty((total, *tensor.shape[1:]))
    for r, part in enumerate(parts):
        expected = len(range(r, total, len(parts)))
        if len(part) != expected:
            raise DataError(
                f"sharded rows: expected {expected} of {total} rows on rank {r}, got {len(part)}"
            )
        whole[r :: len(parts)] = part
    return whole


def all_gather_objects(value: Any) -> list[Any]:
    """Every rank's small plain value, in order of rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over the ranks; the tensor itself with one process."""
    if world_size() == 1:
        return tensor
    total = tensor.detach().to(_communication_device(tensor)).clone()
    dist.all_reduce(total)
    return total.to(tensor.device)


def barrier() -> None:
    """Wait for all ranks."""
    if is_active():
        dist.barrier()


@torch.no_grad()
def equalise_buffers(model: torch.nn.Module) -> None:
    """Give every rank the same saved buffers, so that all predict the same.

    Each rank has seen other rows. Running statistics of batch normalisation are averaged, other
    floating buffers that belong to the state are taken from rank 0, whose state is what is saved.
    """
    if world_size() == 1:
        return
    running: set[int] = set()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._NormBase):
            for buffer in (module.running_mean, module.running_var):
                if buffer is not None:
                    buffer.copy_(all_reduce_sum(buffer) / world_size())
                    running.add(id(buffer))
    saved = set(model.state_dict(keep_vars=True))
    for name, buffer in model.named_buffers():
        if name in saved and id(buffer) not in running and buffer.is_floating_point():
            shared = buffer.detach().to(_communication_device(buffer)).contiguous().clone()
            dist.broadcast(shared, src=0)
            buffer.copy_(shared)


def spawn(
    fn: Callable[..., Any],
    nproc: int,
    args: tuple[Any, ...] = (),
    use_gpu: bool = True,
) -> list[Any]:
    """Run ``fn(*args)`` in ``nproc`` new processes that form one group.

    The processes meet in a file, so no port can be taken by somebody else in between. On the CPU
    each gets its share of this process's threads.

    Args:
        fn: A function of an importable module; it asks :func:`rank` which process it is in.
        nproc: Number of processes.
        args: Picklable arguments.
        use_gpu: False keeps to the CPU (gloo) on a machine with CUDA devices.

    Returns:
        What ``fn`` returned in each process (picklable), in order of rank.

    Raises:
        ProcessError: One line with the message of the process that failed first. The others are
            ended.
        ConfigError: If ``nproc`` is not a positive number.
    """
    if isinstance(nproc, bool) or not isinstance(nproc, int) or nproc < 1:
        raise ConfigError(f"nproc: expected a whole number from 1, got {nproc!r}")
    threads = max(1, torch.get_num_threads() // nproc)
    with tempfile.TemporaryDirectory(prefix="recbole-choir-") as folder:
        context = mp.start_processes(
            _child,
            args=(nproc, folder, threads, use_gpu, fn, args),
            nprocs=nproc,
            join=False,
            start_method="spawn",
        )
        try:
            finished = False
            while not finished:
                finished = context.join()
        except (mp.ProcessRaisedException, mp.ProcessExitedException) as error:
            whole = all((Path(folder) / f"result-{r}").is_file() for r in range(nproc))
            if not whole or isinstance(error, mp.ProcessRaisedException):
                raise ProcessError(_failure(context, error, nproc)) from error
            # gloo may abort while its connections close: by then all results are there
            logger.warning("a process ended badly after its work was done: %s", error)
        return [pickle.loads((Path(folder) / f"result-{r}").read_bytes()) for r in range(nproc)]


def _child(
    process_rank: int,
    nproc: int,
    folder: str,
    threads: int,
    use_gpu: bool,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    """What each spawned process runs; being in this package, it registers the models first."""
    end_with_parent()
    torch.set_num_threads(threads)
    init(process_rank, nproc, f"file://{folder}/meeting", use_gpu=use_gpu)
    result = fn(*args)
    write_whole(Path(folder) / f"result-{process_rank}", pickle.dumps(result))
    barrier()
    shutdown()


def _failure(context: Any, error: Exception, nproc: int) -> str:
    """The last line of the traceback of the process that failed first.

    When one process fails, its peers fail too, with a lost connection; the oldest report counts.
    """
    reports = []
    for index, name in enumerate(getattr(context, "error_files", ())):
        path = Path(name) if name else None
        if path is not None and path.exists() and path.stat().st_size:
            reports.append((path.stat().st_mtime_ns, index, path))
    if reports:
        _, index, path = min(reports)
        with open(path, "rb") as file:
            trace = str(pickle.load(file))
    else:
        index, trace = getattr(error, "error_index", 0), str(error)
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    return f"process {index} of {nproc} failed: {lines[-1] if lines else type(error).__name__}"
