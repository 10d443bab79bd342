# Copyright (c) The haproxy-autoscale contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Start HAProxy or reload it without dropping a connection, and prove from its own answer that it did."""

from __future__ import annotations

import os
import signal
import time

# Not from collections.abc: on Python 3.8 its names take no brackets when they are evaluated.
from typing import Callable, Iterable, Mapping, NamedTuple, Sequence

from . import haproxy_process, haproxy_socket
from .haproxy_inspect import Definition, Running, Surroundings, files_of, is_same_file, observe
from .haproxy_socket import SocketError

# Runs a program without a shell, with these variables besides the environment and this standard input:
# (return code, standard output, standard error).
Run = Callable[[Sequence[str], Mapping[str, str], "bytes | None"], "tuple[int, str, str]"]


def runner(run_command: Callable[..., tuple[int, str, str]]) -> Run:
    """How a module runs programs: by `run_command` of its AnsibleModule."""

    def run(words: Sequence[str], environment: Mapping[str, str], data: bytes | None) -> tuple[int, str, str]:
        return run_command(list(words), environ_update=dict(environment), data=data, binary_data=True)

    return run


# How long one question to a socket may take, in seconds; the whole of a reload has the operator's own bound.
SOCKET_TIMEOUT = 5.0


class ApplyError(Exception):
    """HAProxy was not brought to its file; the message has HAProxy's own words where it gave some."""


class Plan(NamedTuple):
    """How a process is started and reloaded: the option `reload_method` with `auto` resolved.

    `binary` is the program's path, `master_socket` where a process that we start gets its master socket,
    `service_command` the words before the action and the service's name ("systemctl", "--no-ask-password").
    """

    method: str
    binary: str
    master_socket: str
    service_name: str
    service_command: Sequence[str]
    timeout: float


class Proof(NamedTuple):
    """The process after it was started or reloaded, and how it was proven, in words."""

    running: Running
    text: str


def _words(*outputs: str) -> str:
    """HAProxy's own words, shortened to what a message can hold."""
    lines = [line.strip() for output in outputs for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if "ALERT" in line or "rror" in line or "Fail" in line] or lines
    return "; ".join(telling[-6:])[:1500]


def check(binary: str, config_path: str, around: Surroundings, text: str | None, run: Run) -> tuple[bool, list[str]]:
    """Whether HAProxy accepts our file in its place among the others, and what it says (`haproxy -c`, Management Guide 3).

    With `text` that is judged instead of the file, from standard input, so that a refused one never exists as a file. Warnings
    leave it accepted.
    """
    data = None if text is None else text.encode("utf-8", "surrogateescape")
    code, output, errors = run(check_command(binary, config_path, around, config_path if text is None else "/dev/stdin"), around.environment, data)
    lines = [line.strip() for line in (output + "\n" + errors).splitlines()]
    said = [line for line in lines if "[ALERT]" in line or "[WARNING]" in line]
    if code != 0 and not said:
        said = [line for line in lines if line] or [f"exit status {code} without a word"]
    # A template's mistake repeats itself on every server line; the first ones tell.
    return code == 0, said[:20]


def check_command(binary: str, config_path: str, around: Surroundings, place: str) -> list[str]:
    """The words that have HAProxy judge all files that it is given, with the one at `place` as ours."""
    files = [place if is_same_file(path, config_path) else path for path in files_of(around.config_files, config_path)]
    return [binary, "-c", *_given(around.folder, files)]


def _given(folder: str, files: Iterable[str]) -> list[str]:
    """The words that give HAProxy its files, and the folder where relative paths in them start."""
    return [*(["-C", folder] if folder else []), *(word for path in files for word in ("-f", path))]


def find_service_command(service_name: str, run: Run) -> list[str]:
    """The service manager that knows `service_name`: systemd (`systemctl`), else an init script (`service`).

    Empty when the name is empty or nobody knows it.
    """
    if not service_name:
        return []
    if os.path.isdir("/run/systemd/system"):
        systemctl = haproxy_process.find_binary("systemctl", ("/usr/bin", "/bin"))
        if systemctl and run([systemctl, "cat", "--", service_name], {}, None)[0] == 0:
            return [systemctl, "--no-ask-password"]
    service = haproxy_process.find_binary("service")
    if service and os.path.exists(os.path.join("/etc/init.d", service_name)):
        return [service]
    return []


def choose_method(reload_method: str, running: Running | None, service_command: Sequence[str], master_socket: str) -> str:
    """Resolve `auto`. Pure.

    The master's socket gives the strongest proof. A service manager comes next, but only systemd: init scripts reload
    with a plain -sf, which drops connections where our own hands the listeners over.
    """
    if reload_method != "auto":
        return reload_method
    if running is not None:
        if running.workers is not None:
            return "master_socket"
        return "service" if running.process.has_master and _is_systemd(service_command) else "pid"
    if service_command:
        return "service"
    return "master_socket" if master_socket else "pid"


def _is_systemd(service_command: Sequence[str]) -> bool:
    return bool(service_command) and os.path.basename(service_command[0]) == "systemctl"


def _service(plan: Plan, action: str, run: Run) -> None:
    if not plan.service_command:
        raise ApplyError(f"reload_method is service, but no service manager knows service_name {plan.service_name!r}")
    # systemctl takes the action first, service the name.
    words = [action, plan.service_name] if _is_systemd(plan.service_command) else [plan.service_name, action]
    code, output, errors = run([*plan.service_command, *words], {}, None)
    if code != 0:
        raise ApplyError(f"the service manager failed to {action} {plan.service_name}: {_words(output, errors)}")


def start(definition: Definition, plan: Plan, around: Surroundings, run: Run) -> Proof:
    """Start HAProxy on its file and wait until it answers. Raises ApplyError with HAProxy's own words."""
    if plan.method == "service":
        _service(plan, "start", run)
    else:
        words = [plan.binary, "-D", *_given(around.folder, around.config_files), "-p", definition.pid_file]
        if plan.method == "master_socket":
            if not plan.master_socket:
                raise ApplyError("reload_method is master_socket, but the option master_socket names no path")
            words += ["-W", "-S", plan.master_socket]
        code, output, errors = run(words, around.environment, None)
        if code != 0:
            raise ApplyError(f"HAProxy did not start: {_words(output, errors)}")

    def answers(running: Running) -> str:
        if running.servers is not None and running.worker is not None:
            return f"process {running.worker.pid} answers"
        return ""

    return _wait(definition, plan, answers, "HAProxy was started")


def reload(definition: Definition, plan: Plan, around: Surroundings, before: Running, run: Run) -> Proof:
    """Reload HAProxy gracefully to its file and prove it. Raises ApplyError with HAProxy's own words.

    The proof of each way (Management Guide, 4 and 9.4; measured on 2.6, 3.0 and 3.2):
    with a master socket, the master's own answer or counters and a new worker; without one, a new worker or process
    under the same configuration that answers on the statistics socket, which is weaker, and the text says so.
    """
    said = ""
    if plan.method == "master_socket":
        said = _reload_by_master_socket(before, plan.timeout)
    elif plan.method == "service":
        _service(plan, "reload", run)
    elif before.process.has_master:
        _wait_until_it_takes_signals(before, plan.timeout)
        try:
            os.kill(before.process.pid, signal.SIGUSR2)
        except OSError as error:
            raise ApplyError(f"the master {before.process.pid} could not be told to reload: {error.strerror}") from error
    else:
        _replace_process(definition, plan, around, before, run)

    def replaced(now: Running) -> str:
        return _proof_of_reload(before, now, said)

    return _wait(definition, plan, replaced, "the reload was asked for")


def _wait_until_it_takes_signals(before: Running, timeout: float) -> None:
    """A master that is just starting would be ended by the signal that asks for a reload, and one whose worker has just begun
    can lose it (measured on 2.6, 3.0 and 3.2: within milliseconds of the first answer). Raises ApplyError."""
    deadline = time.monotonic() + timeout
    while True:
        since = time.time() - haproxy_process.start_time(before.worker or before.process.identity)
        if since >= 1 and haproxy_process.catches(before.process.pid, signal.SIGUSR2):
            return
        if haproxy_process.identify(before.process.pid) != before.process.identity:
            raise ApplyError(f"the master {before.process.pid} has ended")
        if time.monotonic() >= deadline:
            raise ApplyError(f"the master {before.process.pid} is still starting after {timeout:.0f} s, and was not told to reload")
        time.sleep(0.1)


def _reload_by_master_socket(before: Running, timeout: float) -> str:
    """Ask the master to reload. From 2.7 it answers when it is done: "Success=1" is returned. 2.6 answers nothing.

    What is no whole answer proves neither that it was done nor that it was not: then its counters have to."""
    if before.workers is None:
        raise ApplyError(f"reload_method is master_socket, but the master cannot be asked: {before.problem}")
    try:
        answer = haproxy_socket.send(before.master_socket, "reload", timeout)
    except SocketError:
        return ""
    if answer.startswith("Success=1"):
        return "Success=1"
    if answer.startswith("Success=0"):
        raise ApplyError(f"HAProxy refused the reload: {_words(answer)}")
    # "Unknown command", "Permission denied" and the like end as every answer does.
    if answer.strip() and answer.endswith("\n\n"):
        raise ApplyError(f"the master answered to the reload with {answer.strip()[:500]!r}")
    return ""


def _replace_process(definition: Definition, plan: Plan, around: Surroundings, before: Running, run: Run) -> None:
    """Start a second process that takes the place of the first (-sf), as the old script did; -x hands the listening
    sockets over, so that no connection is refused in between, where the running process was told to give them."""
    old = before.process.command_line
    words = [plan.binary, *old.options, *_given(old.folder, old.config_files)]
    words += ["-p", old.pid_file or definition.pid_file]
    handed = ["-x", before.stats_socket] if before.passes_listeners else []
    # Never what the pid file says: an id from a stale one is another program by now, and -sf would signal it.
    # Those before it, too: one that a killed run had begun to start would serve on, and nobody would renew it.
    older = [pid for pid in before.process.older if haproxy_process.identify(pid) is not None]
    replacing = ["-sf", *map(str, [before.process.pid, *older])]
    code, output, errors = run([*words, *handed, *replacing], around.environment, None)
    if code != 0 and handed and "Failed to get the sockets from the old process" in output + errors:
        # The file says `expose-fd listeners`, and the process was started from an older one that did not: whoever moves over from
        # the old script has that once. Nothing was replaced yet.
        code, output, errors = run([*words, *replacing], around.environment, None)
    if code != 0:
        raise ApplyError(f"HAProxy's new process did not start: {_words(output, errors)}")


def _proof_of_reload(before: Running, now: Running, said: str) -> str:
    """The proof that `now` is the reloaded `before`; empty while there is none. Raises ApplyError on a failed one."""
    if now.workers is not None and before.workers is not None:
        if now.workers.failed_reloads > before.workers.failed_reloads:
            raise ApplyError("HAProxy's master counts a failed reload; the old worker goes on")
        known = {worker.pid for worker in before.workers.current + before.workers.old}
        fresh = now.workers.serving is not None and now.workers.serving.pid not in known
        if fresh and now.workers.reloads > before.workers.reloads and now.servers is not None:
            counted = f"the master counts reload {now.workers.reloads}"
            return f"{said or counted}, worker {now.worker.pid if now.worker else '?'} answers"
        return ""
    old = {before.process.identity, before.worker}
    if now.worker is None or now.worker in old:
        return ""
    if now.servers is not None:
        return f"process {now.worker.pid} answers on the statistics socket (no master socket: a weaker proof)"
    if before.servers is None:
        return f"process {now.worker.pid} runs (no socket answers: the weakest proof)"
    return ""


def _wait(definition: Definition, plan: Plan, proven: Callable[[Running], str], what: str) -> Proof:
    """Look at the process until `proven` says how it is, at most for the plan's timeout. Raises ApplyError."""
    deadline = time.monotonic() + plan.timeout
    while True:
        running = observe(definition, SOCKET_TIMEOUT)
        if running is not None:
            text = proven(running)
            if text:
                return Proof(running, text)
        if time.monotonic() >= deadline:
            problem = running.problem if running else f"no process runs {definition.config_path}"
            raise ApplyError(f"{what}, but not proven within {plan.timeout:.0f} s: {problem or 'no new worker'}")
        time.sleep(0.1)
