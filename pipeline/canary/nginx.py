"""The nginx in front of the two pools: started, told a new configuration, looked after."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path

from components.errors import RetrainError
from pipeline.canary.nginx_config import STATUS_PATH, Front, render

_DEADLINE = 20.0  # seconds for a start or a reload
_TOLD = 2000  # characters of what nginx printed


@dataclass(frozen=True)
class Nginx:
    """One nginx with a folder of its own: configuration, pid, logs, temporary files.

    It is a daemon: it goes on when the process that started it ends, however that ends.

    Attributes:
        folder: nginx's prefix.
        binary: a path, or a name to look for.
    """

    folder: Path
    binary: str

    def apply(self, front: Front) -> None:
        """Makes nginx run and work by a configuration; where it does already, nothing happens.

        The configuration is checked before it takes the place of the old one. No connection is dropped:
        requests that have begun are ended by the old workers.

        Raises:
            RetrainError: there is no nginx, it refuses the configuration, or it does not come up; the old
                configuration stays.
        """
        if os.geteuid() == 0:  # or its workers, as nobody, could not write into the folder
            front = replace(front, user=pwd.getpwuid(0).pw_name)
        generation = f"{front.percent:g} {hashlib.sha256(repr(front).encode()).hexdigest()[:16]}"
        if self.pid() is not None and self.generation(front) == generation:
            return
        for folder in (self.folder, self.folder / "temp"):
            folder.mkdir(parents=True, exist_ok=True)
        new = self.folder / "nginx.conf.new"
        new.write_text(render(front, generation))
        self._run("-t", "-q", config=new.name)
        new.replace(self.folder / "nginx.conf")
        before = self._workers()
        if self.pid() is None:
            self._end(before)
            self._run(config="nginx.conf")
        else:
            self._signal(signal.SIGHUP)
        self._wait(front, generation, before)

    def pid(self) -> int | None:
        """The process of the master; None: it does not run."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.folder / "nginx.pid").read_text())
            # The number may be another process's by now; ours has its folder in the command line.
            if f"-p {self.folder}/" in (Path("/proc") / str(pid) / "cmdline").read_text().replace("\0", " "):
                return pid
        return None

    def reopen_logs(self) -> None:
        """Tells nginx that its logs were renamed to NAME.1; returns when all workers go on in new ones."""
        self._signal(signal.SIGUSR1)
        ends = time.monotonic() + _DEADLINE
        while any(file.endswith(".1") for pid in self._workers() for file in self._files(pid)):
            if time.monotonic() > ends:
                return  # they do when they are less busy; what they still write to the old ones is not read
            time.sleep(0.01)

    def stop(self) -> None:
        """Ends it after the requests that have begun."""
        self._signal(signal.SIGQUIT)
        self._end(self._workers())
        ends = time.monotonic() + _DEADLINE
        while self.pid() is not None and time.monotonic() < ends:
            time.sleep(0.05)

    def generation(self, front: Front) -> str | None:
        """By which configuration the worker goes that is asked, percent first; None: none answers."""
        host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(front.listen, front.listen)
        url = f"{'https' if front.tls else 'http'}://{host}:{front.rest_port}{STATUS_PATH}"
        # On this machine, and nothing is told to it: whose certificate it is does not matter.
        context = ssl._create_unverified_context() if front.tls else None
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with contextlib.suppress(urllib.error.URLError, OSError), opener.open(url, timeout=2) as answer:
            return str(answer.read().decode())
        return None

    def _wait(self, front: Front, generation: str, before: set[int]) -> None:
        """Until the new workers answer, and those before them take no more requests."""
        ends = time.monotonic() + _DEADLINE
        while self.generation(front) != generation or before & self._workers():
            if time.monotonic() > ends:
                raise RetrainError(
                    f"nginx does not work by its new configuration {self.folder / 'nginx.conf'} after "
                    f"{_DEADLINE:.0f} s; is the port {front.rest_port} free? It says: {self._told()}"
                )
            time.sleep(0.02)

    def _signal(self, number: int) -> None:
        pid = self.pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _workers(self) -> set[int]:
        """The workers that take requests, also those whose master was killed: these listen to nobody."""
        found = set()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                # Of one that only ends what it has begun it is "nginx: worker process is shutting down".
                if (process / "cmdline").read_text().rstrip("\0 ") == "nginx: worker process":
                    found.add(int(process.name))
        return {pid for pid in found if self._files(pid)}

    def _files(self, pid: int) -> set[str]:
        """The files of nginx's folder that a process has open."""
        with contextlib.suppress(OSError):
            opened = [os.readlink(file) for file in (Path("/proc") / str(pid) / "fd").iterdir()]
            return {file for file in opened if Path(file).parent == self.folder.resolve()}
        return set()

    def _end(self, workers: set[int]) -> None:
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGQUIT)

    def _run(self, *options: str, config: str) -> None:
        # The slash: nginx takes the prefix literally.
        command = [self._found(), "-p", f"{self.folder}/", "-e", "error.log", "-c", config, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise RetrainError(
                f"nginx refuses {self.folder / config}, and what it did before stays: "
                f"{done.stderr.strip()[-_TOLD:] or self._told()}"
            )

    def _told(self) -> str:
        log = self.folder / "error.log"
        return log.read_text(errors="replace")[-_TOLD:].strip() if log.exists() else "nothing"

    def _found(self) -> str:
        """The binary: on PATH, where distributions put it, or where the set-up has put it."""
        beside = Path(sys.executable).parent
        places = [os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", str(beside)]
        found = shutil.which(self.binary, path=os.pathsep.join(places))
        if found is None:
            raise RetrainError(
                f"serving.canary.nginx: got {self.binary!r}, and there is no such program; required is nginx "
                "1.19.5 or newer. Install it (for example 'apt-get install nginx'), or name its path"
            )
        return found
