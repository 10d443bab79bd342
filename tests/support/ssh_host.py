# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host to reach over SSH, on loopback: a real SSH server that runs commands in a folder and an environment of its own.

OpenSSH's server wants a user of the system's for itself; this one wants nothing. The client is OpenSSH's, as Ansible has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import asyncssh
from balancer import free_port


class SshHost:
    """One host. Who has its key runs commands as whoever runs the tests, with nothing of the tests' environment but PATH."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        self.address = address
        self.port = free_port(address)
        self.commands = 0
        # All that was sent here to be run, as commands and to their standard input: modules with what they are given.
        self.received = bytearray()
        self.key_file = folder / "key"
        key = asyncssh.generate_private_key("ssh-ed25519")
        self._host_key = asyncssh.generate_private_key("ssh-ed25519")
        self._authorized = asyncssh.import_authorized_keys(key.export_public_key().decode())
        key.write_private_key(str(self.key_file))
        self.key_file.chmod(0o600)
        self._environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8", "THE_HOST": folder.name}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"ssh {address}", daemon=True)
        self._thread.start()
        self._server: Any = None
        self.start()

    @property
    def variables(self) -> dict[str, Any]:
        """Ansible's, for this host. No connection is kept: nothing of it is there when the test ends."""
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "IdentitiesOnly=yes", "IdentityAgent=none"]
        options += ["ControlMaster=no", "LogLevel=ERROR", "KexAlgorithms=curve25519-sha256"]
        return {
            "ansible_host": self.address,
            "ansible_port": self.port,
            "ansible_ssh_private_key_file": str(self.key_file),
            "ansible_ssh_args": " ".join(["-F /dev/null", *(f"-o {option}" for option in options)]),
            "ansible_ssh_use_tty": False,
            "ansible_ssh_timeout": 10,
            "ansible_remote_tmp": str(self.folder / "ansible"),
        }

    def start(self) -> None:
        self._server = self._wait(self._listen())

    async def _listen(self) -> Any:
        return await asyncssh.listen(
            self.address,
            self.port,
            server_host_keys=[self._host_key],
            authorized_client_keys=self._authorized,
            process_factory=self._serve,
            sftp_factory=True,
            encoding=None,
        )

    def stop(self) -> None:
        """No new connections, and those that are there end."""
        if self._server is not None:
            self._server.close()
            self._wait(self._server.wait_closed())
            self._server = None

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _serve(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        self.commands += 1
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", process.command or "true", stdin=pipe, stdout=pipe, stderr=pipe, cwd=self.folder, env=self._environment
        )
        assert child.stdin and child.stdout and child.stderr
        self.received += (process.command or "").encode()
        # What nobody reads any more is no failure of the host's.
        with contextlib.suppress(OSError, asyncssh.Error):
            feeding = asyncio.ensure_future(self._feed(process.stdin, child.stdin))
            await asyncio.gather(_pump(child.stdout, process.stdout), _pump(child.stderr, process.stderr))
            feeding.cancel()
        process.exit(await child.wait())

    async def _feed(self, source: asyncssh.SSHReader[bytes], target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncssh.Error):
            while data := await source.read(65536):
                self.received += data
                target.write(data)
                await target.drain()
        target.close()


async def _pump(source: asyncio.StreamReader, target: asyncssh.SSHWriter[bytes]) -> None:
    while data := await source.read(65536):
        target.write(data)
        await target.drain()
