# SPDX-FileCopyrightText: The haproxy-autoscale contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many instances for little: one HAProxy that answers at all their addresses."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from balancer import free_port
from certificates import signed


class Instances:
    """A HAProxy that plays all instances: it says at which address and port it was reached. It costs far less than a server in Python,
    which a hundred checks a second would keep busy."""

    def __init__(self, folder: Path, binary: str, addresses: Sequence[str]) -> None:
        self.ports = {name: free_port(addresses[0]) for name in ("plain", "other", "proxy", "tls")}
        signed(folder, "instance")
        options = {"proxy": " accept-proxy", "tls": f" ssl crt {folder}/instance.pem"}
        places = [(address, name, port) for address in addresses for name, port in self.ports.items()]
        binds = "".join(f"    bind {address}:{port} name {address}/{name}{options.get(name, '')}\n" for address, name, port in places)
        (folder / "instances.cfg").write_text(
            "global\n    nbthread 1\ndefaults\n    mode http\n    timeout client 10s\n"
            f"frontend instances\n{binds}    http-request return status 200 content-type text/plain lf-string %[so_name]\n"
        )
        self._process = subprocess.Popen([binary, "-f", str(folder / "instances.cfg"), "-db"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _attempt in range(100):
            try:
                socket.create_connection((addresses[-1], self.ports["tls"]), timeout=5).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError("the instances do not answer")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
