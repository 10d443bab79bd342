# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""What a balancer keeps between runs, in its state folder: the last good file and the record of what is in force."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from .haproxy_process import Identity

Kept = TypeVar("Kept")


class StateError(Exception):
    """The state folder cannot be used, or another run holds its lock; the message names the path."""


class Record(NamedTuple):
    """What the last proven apply brought into force: the file's checksum, and the process it was proven on.

    `main` is the master, or the one process where there is no master (and then `worker` is the same). `leaving` are the servers, as
    (backend, name), that are in the process until their connections end, and `differences` the sentences of haproxy_plan.drift
    that were true right after a reload: that is how HAProxy reads its file, and another reload would mend nothing. `others` is the
    checksum of the other files of the process (haproxy_inspect.others_checksum).
    """

    checksum: str
    main: Identity
    worker: Identity
    leaving: frozenset[tuple[str, str]] = frozenset()
    differences: tuple[str, ...] = ()
    others: str = ""


def checksum(data: bytes) -> str:
    """The SHA-256 of `data` in hexadecimal: how a text is named in the record, in facts and between the modules."""
    return hashlib.sha256(data).hexdigest()


def last_good_path(state_dir: str, name: str) -> str:
    """Where the last file that was proven in force is kept for the process `name`."""
    return os.path.join(state_dir, f"{name}.last-good.cfg")


def _record_path(state_dir: str, name: str) -> str:
    return os.path.join(state_dir, f"{name}.json")


def read_bytes(path: str) -> bytes | None:
    """The bytes of a file, None when there is none. Raises StateError when it is there and cannot be read."""
    try:
        with open(path, "rb") as handle:
            return handle.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}") from error


def _read_kept(path: str, make: Callable[[Any], Kept]) -> Kept | None:
    """What `make` makes of the JSON in a file of ours; None when there is none, or it makes no sense.

    Raises StateError when it is there and cannot be read.
    """
    data = read_bytes(path)
    if data is None:
        return None
    try:
        return make(json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def read_record(state_dir: str, name: str) -> Record | None:
    """The record of the process `name`, None when there is none or it makes no sense (that costs one reload at most).

    Raises StateError when it is there and cannot be read.
    """

    def make(found: Any) -> Record:
        leaving = frozenset((str(backend), str(server)) for backend, server in found.get("leaving", []))
        differences = tuple(str(sentence) for sentence in found.get("differences", []))
        return Record(found["checksum"], Identity(*found["main"]), Identity(*found["worker"]), leaving, differences, str(found.get("others", "")))

    return _read_kept(_record_path(state_dir, name), make)


class Failure(NamedTuple):
    """A configuration whose reload failed: the text's checksum, the program that it was tried with (see
    haproxy_process.fingerprint), HAProxy's words, and when, in seconds since 1970."""

    checksum: str
    program: str
    error: str
    when: float


def _failure_path(state_dir: str, name: str) -> str:
    return os.path.join(state_dir, f"{name}.failed.json")


def write_failure(state_dir: str, name: str, failure: Failure) -> None:
    """Keep what failed, so that it is not tried every minute: each try refuses connections. Raises StateError."""
    write_atomically(_failure_path(state_dir, name), json.dumps(failure._asdict()).encode())


def read_failure(state_dir: str, name: str) -> Failure | None:
    """The last failure; None when there is none, or it makes no sense. Raises StateError when it cannot be read."""

    def make(found: Any) -> Failure:
        return Failure(str(found["checksum"]), str(found["program"]), str(found["error"]), float(found["when"]))

    return _read_kept(_failure_path(state_dir, name), make)


def clear_failure(state_dir: str, name: str) -> None:
    """Forget the last failure. Raises StateError."""
    _remove(_failure_path(state_dir, name))


class Refusal(NamedTuple):
    """What runs in a row have refused: which servers there would have been (see haproxy_report), and how many runs."""

    servers: str
    runs: int


def refusal_path(state_dir: str, name: str) -> str:
    """Where a refused run notes what it refused."""
    return os.path.join(state_dir, f"{name}.refused.json")


def read_refusal(state_dir: str, name: str) -> Refusal | None:
    """What the last runs refused; None when the last one refused nothing, or it makes no sense (then counting begins anew).

    Raises StateError when it is there and cannot be read.
    """
    return _read_kept(refusal_path(state_dir, name), lambda found: Refusal(str(found["servers"]), int(found["runs"])))


class Members(NamedTuple):
    """Who the servers of a text are: its checksum, and group to instances as the template got them."""

    checksum: str
    instances: dict[str, list[dict[str, Any]]]


def members_path(state_dir: str, name: str) -> str:
    """Where the members of the file on disk are noted."""
    return os.path.join(state_dir, f"{name}.members.json")


def read_members(state_dir: str, name: str) -> Members | None:
    """The members that were noted last; None when there are none, or it makes no sense. Raises StateError when it cannot be read."""

    def make(found: Any) -> Members:
        instances = {str(group): [dict(one, instance_id=str(one["instance_id"])) for one in row] for group, row in found["instances"].items()}
        return Members(str(found["checksum"]), instances)

    return _read_kept(members_path(state_dir, name), make)


def missing_path(state_dir: str, name: str) -> str:
    """Where it is noted in how many runs in a row a member has been missing."""
    return os.path.join(state_dir, f"{name}.missing.json")


def read_missing(state_dir: str, name: str) -> dict[str, int]:
    """Instance id to the number of runs in a row that it has been missing in; empty also when it makes no sense (then counting begins
    anew). Raises StateError when it cannot be read."""
    return _read_kept(missing_path(state_dir, name), lambda found: {str(one): int(runs) for one, runs in found.items()}) or {}


def outage_path(state_dir: str, name: str) -> str:
    """Where it is noted since when the instances cannot be found."""
    return os.path.join(state_dir, f"{name}.outage.json")


def read_outage(state_dir: str, name: str) -> float | None:
    """Since when the instances cannot be found, in seconds since 1970; None when the last run found them, or it makes no sense.

    Raises StateError when it cannot be read.
    """
    return _read_kept(outage_path(state_dir, name), lambda found: float(found["since"]))


class Intent(NamedTuple):
    """What a run is about to do to a process, written before the first command: our drain and maintenance look like a
    person's afterwards. On the process `worker` (None: one that it is about to start) it takes out `leavers`, which
    have the administrative state of before with them, and adds the servers `added`, each as (backend, name). `settings` are the
    commands that take back what it sets on those that stay, as (backend, name, command), unless the file `checksum` has come into
    force all the same."""

    worker: Identity | None
    leavers: dict[tuple[str, str], int]
    added: set[tuple[str, str]]
    settings: tuple[tuple[str, str, str], ...] = ()
    checksum: str = ""


def _intent_path(state_dir: str, name: str) -> str:
    return os.path.join(state_dir, f"{name}.intent.json")


def write_intent(state_dir: str, name: str, intent: Intent) -> None:
    """Keep what a run is about to do. Raises StateError."""
    leavers = [[backend, server, admin] for (backend, server), admin in intent.leavers.items()]
    kept = {"worker": intent.worker, "leavers": leavers, "added": sorted(intent.added), "settings": intent.settings, "checksum": intent.checksum}
    write_atomically(_intent_path(state_dir, name), json.dumps(kept).encode())


def read_intent(state_dir: str, name: str) -> Intent | None:
    """What a run that never came to its end was about to do; None when the last one did, or it makes no sense.

    Raises StateError when it is there and cannot be read.
    """

    def make(found: Any) -> Intent:
        leavers = {(str(backend), str(server)): int(admin) for backend, server, admin in found["leavers"]}
        added = {(str(backend), str(server)) for backend, server in found["added"]}
        settings = tuple((str(backend), str(server), str(command)) for backend, server, command in found.get("settings", []))
        return Intent(Identity(*found["worker"]) if found["worker"] else None, leavers, added, settings, str(found.get("checksum", "")))

    return _read_kept(_intent_path(state_dir, name), make)


def clear_intent(state_dir: str, name: str) -> None:
    """Note that a run has come to its end. Raises StateError."""
    _remove(_intent_path(state_dir, name))


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}") from error


# How the names of files end that are not in their place yet; nobody else's do.
_TEMPORARY = ".autoscale"


def write_atomically(path: str, data: bytes, like: os.stat_result | None = None, owner: int | None = None, mode: int = 0o600) -> None:
    """Replace the file at `path` by `data`: whole or not at all, and on the disk when this returns.

    The file keeps the mode and owner in `like`; without it, it has `mode`, and is ours, or the user `owner`'s where we may give files
    away. Raises StateError.
    """
    folder = os.path.dirname(path)
    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f".{os.path.basename(path)}.", suffix=_TEMPORARY)
        with os.fdopen(descriptor, "wb") as handle:
            if like is not None:
                if (like.st_uid, like.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(descriptor, like.st_uid, like.st_gid)
                os.fchmod(descriptor, like.st_mode & 0o7777)
            else:
                os.fchmod(descriptor, mode)
                if owner is not None and os.geteuid() == 0:
                    os.fchown(descriptor, owner, -1)
            handle.write(data)
            handle.flush()
            _sync(descriptor)
        os.replace(temporary, path)
        _sync_folder(folder)
    except OSError as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise StateError(f"{path}: {error.strerror}") from error


def shortage(folder: str, size: int) -> str:
    """Why files of `size` bytes together cannot be written into `folder`, or into the one that it would be made in; empty
    when they can be. Nothing is written."""
    folder = os.path.abspath(folder)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    # Root may write whatever the mode says; on a read-only file system it may not (access(2)).
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"{folder} cannot be written"
    found = os.statvfs(folder)
    free = found.f_frsize * (found.f_bfree if os.geteuid() == 0 else found.f_bavail)
    return f"no space left in {folder}: {size} bytes are needed, {free} are free" if free < size else ""


def paths(state_dir: str, name: str) -> list[str]:
    """The files that are kept for the process `name`."""
    return [path(state_dir, name) for path in (last_good_path, _record_path, _intent_path, _failure_path)]


def remove_leftovers(path: str) -> None:
    """Remove what killed runs left of their writes of `path`; for the holder of the lock alone."""
    folder, name = os.path.split(path)
    # What mkstemp puts in the middle.
    ours = re.compile(rf"\.{re.escape(name)}\.[a-z0-9_]{{8}}{re.escape(_TEMPORARY)}")
    # They are in nobody's way: where the folder is missing or closed to us, the writes to come have better words.
    with contextlib.suppress(OSError):
        for entry in os.listdir(folder):
            if ours.fullmatch(entry):
                os.unlink(os.path.join(folder, entry))


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        # So says a file system that cannot (fsync(2)); it gives what it can without.
        if error.errno != errno.EINVAL:
            raise


def _sync_folder(folder: str) -> None:
    """Bring a folder's entries to the disk: a rename alone may be gone after a power cut (fsync(2))."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: str) -> None:
    """Bring a file that somebody else wrote, and its name, to the disk. Raises StateError."""
    try:
        with open(path, "rb") as handle:
            _sync(handle.fileno())
        _sync_folder(os.path.dirname(os.path.realpath(path)))
    except OSError as error:
        raise StateError(f"{path} cannot be brought to the disk: {error.strerror}") from error


def save(state_dir: str, name: str, text: bytes, record: Record) -> None:
    """Keep `text` as the last good file and `record` beside it. Raises StateError."""
    write_atomically(last_good_path(state_dir, name), text)
    kept = {**record._asdict(), "leaving": sorted(record.leaving)}
    write_atomically(_record_path(state_dir, name), json.dumps(kept, sort_keys=True).encode())


@contextlib.contextmanager
def lock(state_dir: str, name: str, timeout: float) -> Iterator[None]:
    """Hold the lock of the process `name`, waiting for at most `timeout` seconds; makes the state folder (0750) when
    it is missing. The kernel lets go of it when the holder dies, however it dies (flock(2)). Raises StateError."""
    path = os.path.join(state_dir, f"{name}.lock")
    try:
        os.makedirs(state_dir, mode=0o750, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(f"the state folder cannot be used: {path}: {error.strerror}") from error
    try:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise StateError(f"{path}: {error.strerror}") from error
            if time.monotonic() >= deadline:
                raise StateError(f"{path} is held: another run is applying a configuration, waited {timeout:.0f} s")
            time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)
