"""Worker processes, from the side of the parent process."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import IO, Any, Self, cast


class WorkerError(Exception):
    """A worker gave no answer; the message says why."""


class Worker:
    """A process in which one contender runs one workload, ready when the constructor returns.

    It has its own thread pools and its own peak memory, and sleeps between requests.

    Args:
        contender: its name.
        workload: its name.
        time_limit: seconds for each answer: the first step, then each request.
        memory_limit: bytes.
        num_steps: steps of the unroll, if not the workload's.

    Raises:
        WorkerError: it did not finish its first step.
    """

    def __init__(
        self,
        contender: str,
        workload: str,
        time_limit: float,
        memory_limit: int,
        num_steps: int | None = None,
    ):
        command = [sys.executable, "-m", "benchmarks.worker"]
        command += [f"--contender={contender}", f"--workload={workload}"]
        command += [f"--memory_limit={memory_limit}"]
        command += [] if num_steps is None else [f"--num_steps={num_steps}"]
        self._time_limit = time_limit
        self._log = tempfile.TemporaryFile()  # noqa: SIM115, `close` closes it
        # Give it a session of its own, so that compilers that it starts end with it.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )
        self._requests = cast(IO[bytes], self._process.stdin)
        self._answers = cast(IO[bytes], self._process.stdout)
        try:
            self.first = self._answer("its first step")
        except BaseException:
            self.close()
            raise

    def measure(self, **request: Any) -> dict[str, Any]:
        """Returns `times` and `peak_bytes` of further steps (`timing.time_steps`).

        Raises:
            WorkerError: the process ended or took too long.
        """
        try:
            self._requests.write((json.dumps(request) + "\n").encode())
            self._requests.flush()
        except BrokenPipeError:
            raise WorkerError(self._reason()) from None
        return self._answer("the next steps")

    def close(self) -> None:
        """Ends the process and the processes that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _answer(self, awaited: str) -> dict[str, Any]:
        ready, _, _ = select.select([self._answers], [], [], self._time_limit)
        if not ready:
            raise WorkerError(f"more than {self._time_limit:.0f} s until the end of {awaited}")
        line = self._answers.readline()
        if not line:
            raise WorkerError(self._reason())
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _reason(self) -> str:
        """Returns why a process has ended without an answer."""
        code = self._process.wait()
        if code < 0:
            return f"ended by {signal.Signals(-code).name}"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"exit code {code}: {lines[-1] if lines else 'nothing on stderr'}"
