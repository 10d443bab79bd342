# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Try whether HAProxy will be able to listen where a configuration says.

`haproxy -c` does not see a bind that cannot be made. The reload does, and while it tries, the frontends that are there
refuse connections for two seconds (measured on 2.6, 3.0 and 3.2). So it is tried before the file is written.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from collections.abc import Iterable

from .haproxy_config import Bind

# With these the kernel judges differently than it would judge us (Configuration Manual, 5.1).
_OTHER_RULES = frozenset(["interface", "namespace", "transparent"])
# Places that are no address of this host, or are inherited from whoever starts HAProxy (Configuration Manual, 11.1).
_NO_ADDRESS = re.compile(r"^(abns|abnsz|fd|sockpair|rhttp)@")
_UDP = re.compile(r"^(quic4|quic6|quic|udp4|udp6|udp)@")


def impossible(binds: Iterable[Bind], owner: int | None) -> list[str]:
    """Why some of these binds cannot be made, a sentence for each; empty when all can.

    `owner` is the user id that HAProxy was started by, None when it does not run: another user's privileges are not ours
    to judge. Nothing listens afterwards, and nothing is created. What cannot be tried from here is passed over.
    """
    found = []
    for bind in dict.fromkeys(binds):
        reason = _reason(bind, owner)
        if reason:
            found.append(f"bind {bind.address}: {reason}")
    return found


def _reason(bind: Bind, owner: int | None) -> str:
    address = bind.address
    if "$" in address or _NO_ADDRESS.match(address) or _OTHER_RULES.intersection(bind.options):
        return ""
    if address.startswith(("/", "unix@")):
        return _path_reason(re.sub("^unix@", "", address), owner)
    kind = socket.SOCK_DGRAM if _UDP.match(address) else socket.SOCK_STREAM
    host, _colon, ports = re.sub(r"^[a-z0-9+]+@", "", address).rpartition(":")
    host = host.strip("[]")
    bounds = [int(bound) for bound in ports.split("-")[:2] if bound.isdigit()]
    if not bounds or max(bounds) > 65535:
        return ""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if host in ("", "*"):
        host = "0.0.0.0"  # noqa: S104 - tried for a moment, never listened on
    try:
        # A range is a bind for each port; its ends tell enough.
        for port in sorted({bounds[0], bounds[-1]}):
            _try(family, kind, host, port, "v6only" in bind.options)
    except socket.gaierror:
        return ""  # a name: `haproxy -c` resolves it, and refuses what it cannot
    except OSError as error:
        if error.errno == errno.EACCES and owner not in (None, os.geteuid()):
            return ""
        return error.strerror or str(error)
    return ""


def _try(family: socket.AddressFamily, kind: socket.SocketKind, host: str, port: int, v6only: bool) -> None:
    with socket.socket(family, kind) as probe:
        # As HAProxy does it, so that its own listeners are not in our way, and those of others are. Bound and never
        # listening, the probe takes no connection.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
        probe.bind((host, port))


def _path_reason(path: str, owner: int | None) -> str:
    """HAProxy makes the socket under another name in the same folder and renames it."""
    folder = os.path.dirname(path) or "/"
    if not os.path.isdir(folder):
        return f"there is no folder {folder}"
    if owner in (None, os.geteuid()) and not os.access(folder, os.W_OK | os.X_OK):
        return f"the folder {folder} cannot be written"
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return ""
    return "" if stat.S_ISSOCK(mode) else "there is a file that is no socket"
