"""`python -m jobserver.supervise` brings up the whole system in the foreground; `make run` is this.

It checks what can be checked, prepares the instance directory, takes the steps that
supervisord.conf names, and becomes supervisord, which runs the programs of that file.
"""

from __future__ import annotations

import argparse
import configparser
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from dotenv import load_dotenv

from jobserver import embedded
from jobserver.broker import connect
from jobserver.broker.vitals import OLDEST, vitals
from jobserver.config import Config, redis_url_in
from jobserver.embedded import LOOPBACK, is_free
from jobserver.errors import ConfigInvalid, JobServerError

DRAIN = 6.0  # seconds: all programs together have 15 to stop


def main() -> NoReturn:
    """Start everything; ends with one line and exit code 1 when something is in the way."""
    parser = argparse.ArgumentParser(prog="python -m jobserver.supervise", description=__doc__)
    parser.add_argument("--dev", action="store_true", help="start programs again on code changes")
    options = parser.parse_args()
    try:
        start(Path.cwd(), reload=options.dev)
    except JobServerError as error:
        sys.exit(f"jobserver: {error}")


def start(root: Path, *, reload: bool = False) -> NoReturn:
    """Become the supervisor of the project in `root`; raises JobServerError if it cannot start."""
    plan = root / "supervisord.conf"
    if not plan.exists():
        raise ConfigInvalid(f"{plan} does not exist: start in the project's directory")
    load_environment(root)
    is_embedded = redis_url_in(os.environ) is None
    config = Config.from_env()
    try:
        config.instance_path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigInvalid(
            f"JOBSERVER_INSTANCE={str(config.instance_path)!r} cannot be made: {error.strerror}"
        ) from None
    _require_free(config.port, what=f"PORT={config.port}", otherwise="set PORT to another one")
    valkey: list[str] = []
    if is_embedded:
        port, valkey = embedded.prepare(config.instance_path)
        kept = config.instance_path / "redis-url"
        _require_free(
            port,
            what=f"The embedded Valkey's port {port}",
            otherwise=f"if this system does not run already, delete {kept}",
        )
    else:
        check_server(config.redis_url)
    for name, given in (("admin-token", config.admin_token), ("secret-key", config.secret_key)):
        if given is None:
            keep_secret(config.instance_path / name)
    environ = environment(config, valkey=valkey, reload=reload)
    for name in read(plan, "listen").split():
        environ[f"{name.upper()}_PORT"] = str(
            place(config.instance_path / f"{name}-url", after=config.port)
        )
    for step in steps(plan):
        take(step, environ=environ)
    command = [sys.executable, "-m", "supervisor.supervisord", "--nodaemon", "-c", str(plan)]
    if os.geteuid() == 0:
        command += ["--user", "root"]  # else supervisord warns that it keeps its privileges
    _pipe_output()
    os.execvpe(command[0], command, environ)  # noqa: S606  # no shell is wanted


def load_environment(root: Path) -> None:
    """Add .env to this process's environment, which wins; written from .env.example if missing."""
    path, example = root / ".env", root / ".env.example"
    if not path.exists() and example.exists():
        shutil.copyfile(example, path)
        path.chmod(0o600)  # it is where secrets will be put
    load_dotenv(path)


def check_server(url: str) -> None:
    """Raise ConfigInvalid unless a new enough Redis or Valkey answers; warn if it may evict."""
    masked = re.sub(r"//.*@", "//***@", url)
    connection = connect(url, timeout=2.0)
    try:
        found = vitals(connection)
    except JobServerError as error:
        raise ConfigInvalid(f"REDIS_URL={masked!r}: {error}") from None
    finally:
        connection.close()
    if found.version < OLDEST:
        version = ".".join(map(str, found.version))
        raise ConfigInvalid(
            f"REDIS_URL={masked!r}: this is Redis {version}; 6.2 or later is needed"
        )
    if found.policy != "noeviction":
        policy = repr(found.policy)
        print(f"jobserver: Redis may drop jobs: maxmemory-policy is {policy}, not 'noeviction'")


def keep_secret(path: Path) -> None:
    """Write a new random secret to `path`, readable by its owner only."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(f"{secrets.token_urlsafe(24)}\n")


def environment(config: Config, *, valkey: Sequence[str], reload: bool) -> dict[str, str]:
    """Return the environment of all programs: this process's, and what supervisord.conf uses."""
    bin_directory = str(Path(sys.executable).parent)
    style = "text" if reload or sys.stderr.isatty() else "json"
    reloader = shlex.join([sys.executable, "-m", "jobserver.reload"]) if reload else ""
    return {
        # `rq worker` and `rq info` need them, also where a .env of the user's own lacks them.
        "RQ_WORKER_CLASS": "jobserver.worker.Worker",
        "RQ_CONNECTION_CLASS": "jobserver.broker.Connection",
        "FLASK_APP": config.app,
        "LOG_FORMAT": style,
        **os.environ,
        "PATH": os.pathsep.join([bin_directory, os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
        "PORT": str(config.port),
        "WORKER_INSTANCES": str(config.worker_instances),
        "DRAIN_SECONDS": f"{min(config.drain_seconds, DRAIN):g}",
        "JOBSERVER_APP": config.app,
        "JOBSERVER_INSTANCE": str(config.instance_path),
        "JOBSERVER_EMBEDDED": "true" if valkey else "false",
        "JOBSERVER_VALKEY": shlex.join(valkey) or "none",
        "JOBSERVER_RELOADER": reloader,
    }


def place(kept: Path, *, after: int) -> int:
    """Return a port that a program can listen on: the one whose URL is kept, if it is free still.

    Else the first free one after `after`, whose URL is kept from now on.
    """
    try:
        port = urlsplit(kept.read_text(encoding="utf-8").strip()).port
    except (OSError, ValueError):
        port = None
    if port is None or not is_free(LOOPBACK, port):
        port = next(port for port in range(after + 1, 65536) if is_free(LOOPBACK, port))
        kept.write_text(f"http://{LOOPBACK}:{port}\n", encoding="utf-8")
    return port


def steps(plan: Path) -> list[list[str]]:
    """Return the commands to run before the programs start, one a line in supervisord.conf."""
    return [shlex.split(line) for line in read(plan, "prepare").splitlines() if line.strip()]


def read(plan: Path, option: str) -> str:
    """Return what supervisord.conf says to this module."""
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";",), strict=False)
    parser.read(plan, encoding="utf-8")
    return parser.get("jobserver", option, fallback="")


def take(step: list[str], *, environ: Mapping[str, str]) -> None:
    """Run one command to its end; raises JobServerError with the line that says why it failed."""
    done = subprocess.run(  # noqa: S603  # from the project's own file
        [shutil.which(step[0], path=environ["PATH"]) or step[0], *step[1:]],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return
    lines = [line for line in done.stdout.splitlines() if line.strip()] or ["no output"]
    # A traceback ends with `module.Error: message`, SQLAlchemy's with a link after that.
    said = [line for line in lines if re.match(r"[A-Za-z_][\w.]*: ", line)] or lines
    if said[-1].startswith("jobserver: "):  # wsgi.py's word on a bad setting
        raise JobServerError(said[-1].removeprefix("jobserver: "))
    message = re.sub(r"^(jobserver\.errors\.\w+|Error): ", "", said[-1])
    raise JobServerError(f"`{shlex.join(step)}` failed: {message}")


def _pipe_output() -> None:
    """Send this process's output through a `cat`, which ends with it.

    supervisord opens /dev/fd/1 anew for every program: with a file they would overwrite each
    other, a socket cannot be opened at all. Its own session keeps Ctrl-C from the cat.
    """
    sys.stdout.flush()
    cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE, start_new_session=True)  # noqa: S607
    if cat.stdin is not None:
        os.dup2(cat.stdin.fileno(), 1)
        os.dup2(cat.stdin.fileno(), 2)


def _require_free(port: int, *, what: str, otherwise: str) -> None:
    if not is_free(LOOPBACK, port):
        raise ConfigInvalid(f"{what} is taken on {LOOPBACK}; {otherwise}")


if __name__ == "__main__":
    main()
