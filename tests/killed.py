"""Runs ``fasterrcnn`` commands in processes that kill themselves at a chosen moment, one after another.

    python killed.py < plan.json > outcome.json

The plan is a list of {"arguments": [...], "kill": {"event": ..., "number": ...}, "limit": {...}}. Everything is
imported once; each command runs in a fork of this process. An event changes the disk, or is a training step:

    write    part of a file is written; the kill comes after half of that part
    sync     os.fsync, killed before it
    replace  os.replace, killed before it
    placed   os.replace, killed after it
    remove   Path.unlink, killed before it
    step     a training step was noted

"limit" may have "bytes" (RLIMIT_FSIZE: every file ends there, as on a full disk) and "rights": "of a user" (a
read-only folder is one for root as well). The outcome is a list of {"signal", "code", "events", "said"}.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path

TIMEOUT = 120  # seconds for one command


def carry_out(plan: list[dict], timeout: float = 300) -> list[dict]:
    """Outcomes of commands that may be killed, which the process of :func:`main` carries out."""
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(plan),
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def main() -> None:
    """Reads the plan and writes the outcome."""
    plan = json.load(sys.stdin)
    import torch

    torch.set_num_threads(1)
    # What the commands and torch import when they run.
    for name in (
        *("fasterrcnn.cli", "fasterrcnn.training.run", "fasterrcnn.visualize", "torch._dynamo", "faster_coco_eval"),
        *("torch.utils.tensorboard",),
    ):
        with suppress(ImportError):
            importlib.import_module(name)

    json.dump([_forked(scenario) for scenario in plan], sys.stdout)


def _forked(scenario: dict) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        said, counts = Path(folder) / "said", Path(folder) / "counts"
        child = os.fork()
        if child == 0:
            _run(scenario, said, counts)
        signal.alarm(TIMEOUT)
        status = os.waitpid(child, 0)[1]
        signal.alarm(0)
        return {
            "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
            "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
            "events": json.loads(counts.read_text()) if counts.exists() else {},
            "said": said.read_text(),
        }


def _run(scenario: dict, said: Path, counts: Path) -> None:
    output = os.open(said, os.O_WRONLY | os.O_CREAT, 0o666)
    os.dup2(output, 1)
    os.dup2(output, 2)
    seen: dict[str, int] = {}
    code = 1
    try:
        limit = scenario.get("limit", {})
        if limit.get("rights") == "of a user":
            _give_up_rights()
        _watch(scenario.get("kill"), seen)
        if "bytes" in limit:
            _limit(limit["bytes"])
        from fasterrcnn import cli

        cli.app(scenario["arguments"])
    except SystemExit as ending:
        code = ending.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        _limit(resource.RLIM_INFINITY)
        sys.stdout.flush()
        sys.stderr.flush()
        counts.write_text(json.dumps(seen))
        os._exit(code)


def _give_up_rights() -> None:
    """Without its capabilities (Linux) root obeys the modes of files like everybody."""
    if os.getuid() == 0:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
        if ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()) != 0:
            raise OSError(ctypes.get_errno(), "capset")


def _limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _watch(kill: dict | None, seen: dict[str, int]) -> None:
    """Counts the events, and kills this process at the one chosen."""
    from fasterrcnn import files
    from fasterrcnn.training.record import Recorder

    def due(event: str) -> bool:
        seen[event] = seen.get(event, 0) + 1
        return kill is not None and (event, seen[event]) == (kill["event"], kill["number"])

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    write, sync, replace, unlink, note = files._Remembering.write, os.fsync, os.replace, Path.unlink, Recorder.step

    def writing(self, data):
        if due("write"):
            write(self, bytes(data)[: len(data) // 2])
            self.flush()
            die()
        return write(self, data)

    def syncing(handle):
        if due("sync"):
            die()
        sync(handle)

    def replacing(*names):
        if due("replace"):
            die()
        replace(*names)
        if due("placed"):
            die()

    def unlinking(self, *options, **more):
        if due("remove"):
            die()
        unlink(self, *options, **more)

    def noting(self, *numbers):
        note(self, *numbers)
        if due("step"):
            die()

    files._Remembering.write, os.fsync, os.replace = writing, syncing, replacing
    Path.unlink, Recorder.step = unlinking, noting


if __name__ == "__main__":
    main()
