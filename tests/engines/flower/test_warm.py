"""Warm starts: a fork is as good as a process of its own, and ends with who asked for it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phloem.engines.flower import warm, warm_client

pytestmark = pytest.mark.skipif(not warm.possible(), reason="needs Linux and pidfd_open")

NURSERY = """
import os, sys
sys.path[:] = {path!r}
import numpy, random
from pathlib import Path
from phloem.engines.flower import warm

def entry():
    exec(sys.argv[1], {{}})

nursery = warm.Nursery(Path({folder!r}), entry)
print("ready", flush=True)
nursery.serve(0)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / ("long " * 40)  # longer than a socket's path may be
    folder.mkdir()
    code = NURSERY.format(path=sys.path, folder=str(folder))
    nursery = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert nursery.stdin
    assert nursery.stdout
    assert nursery.stdout.readline() == "ready\n"
    yield folder
    nursery.stdin.close()  # what it serves until
    assert nursery.wait(30) == 0
    nursery.stdout.close()


def command(folder: Path, code: str, program: str = "/bin/false") -> list[str]:
    return [sys.executable, "-I", "-S", warm_client.__file__, str(folder), program, code]


def ask(folder: Path, code: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, code), capture_output=True, text=True, timeout=60, check=False, **more
    )


def test_a_fork_has_the_folder_the_environment_and_the_files_of_who_asked(
    folder: Path, tmp_path: Path
) -> None:
    code = (
        "import json, os, sys; print(json.dumps([os.getcwd(), dict(os.environ), sys.argv]));"
        "print('wrong', file=sys.stderr); sys.exit(7)"
    )
    done = ask(folder, code, cwd=tmp_path, env={"ONLY": "this"})
    here, environment, arguments = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (7, "wrong\n")
    assert (here, arguments) == (str(tmp_path), ["/bin/false", code])
    assert environment.items() >= {("ONLY", "this")}
    assert "PATH" not in environment


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("pass", 0),
        ("import sys; sys.exit()", 0),
        ("raise ValueError('in words')", 1),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 128 + 9),
        ("import os; os._exit(5)", 5),
    ],
)
def test_who_asked_ends_as_the_fork_does(folder: Path, code: str, exit_code: int) -> None:
    done = ask(folder, code)
    assert done.returncode == exit_code
    assert ("ValueError: in words" in done.stderr) == ("ValueError" in code)


def test_a_fork_runs_its_exit_functions_and_flushes(folder: Path) -> None:
    assert (
        ask(folder, "import atexit; atexit.register(print, 'bye'); print('now', end=' ')").stdout
        == "now bye\n"
    )


def test_every_fork_draws_its_own_random_numbers(folder: Path) -> None:
    code = "import numpy, random; print(numpy.random.random(), random.random(), numpy.random.default_rng().random())"
    drawn = [ask(folder, code).stdout.split() for _ in range(2)]
    assert all(one != other for one, other in zip(*drawn, strict=True))


def test_many_forks_run_at_once(folder: Path) -> None:
    code = "import time; time.sleep(1.0); print('done')"
    started = time.monotonic()
    asked = [subprocess.Popen(command(folder, code), stdout=subprocess.PIPE, text=True) for _ in range(8)]
    assert [one.communicate(timeout=60)[0] for one in asked] == ["done\n"] * 8
    assert time.monotonic() - started < 6.0


def test_a_fork_ends_when_who_asked_is_killed(folder: Path, tmp_path: Path) -> None:
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    asked = subprocess.Popen(command(folder, code))
    pid = None
    limit = time.monotonic() + 30
    while not pid:
        assert time.monotonic() < limit
        with contextlib.suppress(OSError, ValueError):
            pid = int((tmp_path / "pid").read_text())
    asked.kill()
    asked.wait()
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < limit, "the fork still runs"
    assert ask(folder, "print('next')").stdout == "next\n"


def test_who_asked_does_not_wait_for_what_the_fork_left_behind(folder: Path, tmp_path: Path) -> None:
    code = (
        "import os, sys, time\n"
        "left = os.fork()\n"
        "if left == 0: time.sleep(600)\n"
        f"open({str(tmp_path / 'left')!r}, 'w').write(str(left)); sys.exit(3)"
    )
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    asked = subprocess.run(command(folder, code), timeout=60, check=False, **quiet)
    os.kill(int((tmp_path / "left").read_text()), signal.SIGKILL)
    assert asked.returncode == 3


def test_a_fork_can_be_interrupted_and_told_to_end(folder: Path) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.{})"
    assert ask(folder, code.format("SIGTERM")).returncode == 128 + signal.SIGTERM
    assert "KeyboardInterrupt" in ask(folder, code.format("SIGINT")).stderr


def test_what_a_fork_imported_the_next_one_finds_imported(folder: Path) -> None:
    name = "scipy.special"
    look = f"import sys; print({name!r} in sys.modules, 'wave' in sys.modules)"
    assert ask(folder, look).stdout == "False False\n"
    ask(folder, f"import {name}, wave")
    assert ask(folder, look).stdout == "True False\n"  # only of packages that are known to take it well


def test_a_module_of_the_apps_own_stays_the_apps_own(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "pandas.py").write_text("whose = 'this app'")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import pandas; print(pandas.whose)"
    assert ask(folder, code).stdout == "this app\n"
    assert ask(folder, "import sys; print('pandas' in sys.modules)").stdout == "False\n"


def test_an_app_with_packages_of_its_own_is_started_as_flower_does(folder: Path) -> None:
    done = subprocess.run(
        [*command(folder, "word", "/bin/echo"), "--allow-runtime-dependency-installation"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "word --allow-runtime-dependency-installation\n"


def test_a_request_that_is_none_is_survived(folder: Path) -> None:
    here = os.getcwd()
    for junk in (b"", b"\0", b"\xff\xff\xff\xff", b"\0\0\0\2[]", b"\0\0\0\2{}"):
        line = socket.socket(socket.AF_UNIX)
        try:
            os.chdir(folder)
            line.connect("ask")
        finally:
            os.chdir(here)
        line.sendall(junk)
        line.shutdown(socket.SHUT_WR)
        line.settimeout(30)
        line.recv(10)
        line.close()
    assert ask(folder, "print('next')").stdout == "next\n"


def test_without_a_nursery_the_program_itself_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path, "word", "/bin/echo"), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "word\n")


@pytest.mark.service("flower")
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["flower-supernode", "--no-such-option"], 2, "--no-such-option"),
        (["no-such-program"], 2, "no-such-program is not beside"),
    ],
)
def test_the_command_runs_flowers_program_and_ends_as_it_does(
    words: list[str], code: int, said: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "phloem.cli.main", "flower", "warm", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert not [
        path for path in Path("/tmp").glob("phloem-warm-*") if path.stat().st_mtime > time.time() - 60
    ]
