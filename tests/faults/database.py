"""A real PostgreSQL server on loopback, for tests."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

#: Where Debian keeps what isn't on the PATH.
_PLACES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
PASSWORD = "s3cret word"


def _program(name: str) -> str:
    found = shutil.which(name) or next((str(p / name) for p in _PLACES if (p / name).exists()), None)
    if found is None:
        raise RuntimeError(f"the tests of storage need PostgreSQL's server, and there is no {name}: see the Makefile")
    return found


class Server:
    """A server with a database for each name that is asked for; passwords are asked for, too."""

    def __init__(self) -> None:
        # The server refuses to run as root, and its folder must belong to its user.
        self._user = "postgres" if os.geteuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="tests-of-paretopress-"))
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        for path in (self.folder, secret):
            shutil.chown(path, self._user or getpass.getuser())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        access = ("-A", "scram-sha-256", "-U", "tester", f"--pwfile={secret}", "--no-sync")
        self._do("initdb", "-D", str(self.folder / "data"), *access)
        self.start()

    def _do(self, program: str, *words: str) -> None:
        subprocess.run(
            [_program(program), *words], user=self._user, check=True, stdout=subprocess.DEVNULL, cwd=self.folder
        )

    def _control(self, *words: str) -> None:
        self._do("pg_ctl", "-D", str(self.folder / "data"), "-w", *words)

    def start(self) -> None:
        """Start it."""
        settings = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
        self._control("-o", settings, "-l", str(self.folder / "log"), "start")

    def stop(self) -> None:
        """Stop it, whoever is connected."""
        self._control("-m", "immediate", "stop")

    @property
    def address(self) -> str:
        """The address of its database, without the password."""
        return f"postgresql://tester@127.0.0.1:{self.port}/postgres"

    def close(self) -> None:
        """Stop and remove it."""
        if (self.folder / "data" / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self.folder)
