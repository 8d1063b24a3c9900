"""The configuration: where each value comes from, and what is refused with which words."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, fields
from pathlib import Path

import pytest

from jobserver.config import Config, redis_url_in
from jobserver.errors import ConfigInvalid
from jobserver.setting import number, setting


def config_of(instance: Path, **environ: str) -> Config:
    return Config.from_env({"JOBSERVER_INSTANCE": str(instance), **environ})


@pytest.fixture
def instance(tmp_path: Path) -> Path:
    return tmp_path


def test_an_empty_environment_gives_the_defaults(instance: Path) -> None:
    config = config_of(instance)
    assert config == Config(instance_path=instance)
    assert config.redis_url == "redis://localhost:6379/0"
    assert config.key_prefix == "rq"
    assert config.database_url == f"sqlite:///{instance}/jobserver.db"
    assert config.port == 3000
    assert config.admin_token is None
    assert config.secret_key is None
    assert config.auth == "on"
    assert (config.worker_concurrency, config.worker_processes, config.worker_instances) == (
        10,
        2,
        2,
    )
    assert (config.drain_seconds, config.lease_seconds, config.poll_interval) == (25, 15, 2)
    assert config.queue_overrides == {}


def test_the_process_environment_is_read_by_default(
    monkeypatch: pytest.MonkeyPatch, instance: Path
) -> None:
    monkeypatch.setenv("JOBSERVER_INSTANCE", str(instance))
    monkeypatch.setenv("PORT", "3456")
    assert Config.from_env().port == 3456


def test_an_empty_variable_counts_as_unset(instance: Path) -> None:
    config = config_of(instance, PORT="", REDIS_URL=" ", REDIS_HOST="")
    assert config == Config(instance_path=instance)


def test_relative_paths_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Config.from_env({}).instance_path == tmp_path / "instance"
    assert Config.from_env({"JOBSERVER_INSTANCE": "kept"}).instance_path == tmp_path / "kept"


def test_redis_url_wins_over_its_parts(instance: Path) -> None:
    config = config_of(instance, REDIS_URL="redis://a.example:1/2", REDIS_HOST="b.example")
    assert config.redis_url == "redis://a.example:1/2"


def test_redis_parts_win_over_the_embedded_server(instance: Path) -> None:
    (instance / "redis-url").write_text("redis://127.0.0.1:7777/0\n")
    assert config_of(instance).redis_url == "redis://127.0.0.1:7777/0"
    assert config_of(instance, REDIS_DB="3").redis_url == "redis://localhost:6379/3"


@pytest.mark.parametrize(
    ("parts", "url"),
    [
        ({"REDIS_PORT": "7000"}, "redis://localhost:7000/0"),
        ({"REDIS_PASSWORD": "p@ss/w:rd"}, "redis://:p%40ss%2Fw%3Ard@localhost:6379/0"),
        (
            {"REDIS_USERNAME": "app", "REDIS_PASSWORD": "x", "REDIS_HOST": "r.example"},
            "redis://app:x@r.example:6379/0",
        ),
        ({"REDIS_HOST": "::1"}, "redis://[::1]:6379/0"),
    ],
)
def test_redis_parts_make_a_url(parts: dict[str, str], url: str) -> None:
    assert redis_url_in(parts) == url


def test_no_redis_variable_names_no_server() -> None:
    assert redis_url_in({"REDIS_URL": "", "PATH": "/bin"}) is None


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://[::1]:6379/1",
        "rediss://user:secret@redis.example:6380/0?ssl_cert_reqs=none",
        "unix:///run/valkey.sock?db=1",
    ],
)
def test_tcp_tls_and_socket_urls_are_accepted(instance: Path, url: str) -> None:
    assert config_of(instance, REDIS_URL=url).redis_url == url


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("postgres://app:x@db.example/jobs", "postgresql+psycopg://app:x@db.example/jobs"),
        ("postgresql://db.example/jobs", "postgresql+psycopg://db.example/jobs"),
        ("postgresql+psycopg://db.example/jobs", "postgresql+psycopg://db.example/jobs"),
        ("sqlite:////var/lib/jobs.db", "sqlite:////var/lib/jobs.db"),
    ],
)
def test_a_database_url_names_the_installed_driver(instance: Path, given: str, meant: str) -> None:
    assert config_of(instance, DATABASE_URL=given).database_url == meant


def test_secrets_kept_in_the_instance_are_read_where_no_variable_is_set(instance: Path) -> None:
    (instance / "admin-token").write_text("kept-admin-token\n")
    (instance / "secret-key").write_text("kept-secret-key\n")
    kept = config_of(instance)
    assert (kept.admin_token, kept.secret_key) == ("kept-admin-token", "kept-secret-key")
    given = config_of(instance, JOBSERVER_ADMIN_TOKEN="given-token")
    assert (given.admin_token, given.secret_key) == ("given-token", "kept-secret-key")


def test_lists_and_words_are_read(instance: Path) -> None:
    config = config_of(
        instance,
        CORS_ORIGINS="https://shop.example, http://localhost:5173",
        JOBSERVER_AUTH="OFF",
        LOG_LEVEL="debug",
    )
    assert config.cors_origins == ("https://shop.example", "http://localhost:5173")
    assert config.auth == "off"
    assert config.log_level == "DEBUG"


def test_queue_variables_override_by_queue_and_setting(instance: Path) -> None:
    config = config_of(
        instance,
        QUEUE_PRODUCT_SYNC_ATTEMPTS="5",
        QUEUE_PRODUCT_SYNC_GLOBAL_CONCURRENCY="1",
        QUEUE_PRODUCT_SYNC_FAILED_AGE="0.5e3",
        QUEUE_EMAIL_CONCURRENCY="7",
        QUEUE_EMAIL_TIMEOUT="",
        QUEUE_URL="amqp://other.example",
    )
    assert config.queue_overrides == {
        "product-sync": {"attempts": 5, "global_concurrency": 1, "failed_age": 500.0},
        "email": {"concurrency": 7},
    }


@pytest.mark.parametrize(
    ("variable", "value", "accepts"),
    [
        ("PORT", "http", "a whole number from 1 to 65535"),
        ("PORT", "70000", "a whole number from 1 to 65535"),
        ("WORKER_CONCURRENCY", "0", "a whole number from 1 to 1000"),
        ("WORKER_PROCESSES", "2.5", "a whole number from 1 to 1000"),
        ("DRAIN_SECONDS", "-1", "a number ≥ 0"),
        ("DRAIN_SECONDS", "nan", "a number ≥ 0"),
        ("LEASE_SECONDS", "inf", "a number ≥ 1"),
        ("JOBSERVER_AUTH", "no", "on or off"),
        ("LOG_LEVEL", "loud", "DEBUG or INFO or WARNING or ERROR"),
        ("RQ_KEY_PREFIX", "my app", "letters, digits and _ . : - { }"),
        ("RQ_KEY_PREFIX", "é", "letters, digits and _ . : - { }"),
        ("REDIS_URL", "localhost:6379", "redis://, rediss:// or unix://"),
        ("REDIS_URL", "redis://localhost:port/0", "redis://, rediss:// or unix://"),
        ("REDIS_URL", "redis://localhost/first", "redis://, rediss:// or unix://"),
        ("REDIS_URL", "http://localhost/0", "redis://, rediss:// or unix://"),
        ("REDIS_URL", "unix://", "redis://, rediss:// or unix://"),
        ("REDIS_PORT", "six", "a whole number from 1 to 65535"),
        ("REDIS_DB", "-1", "a whole number ≥ 0"),
        ("REDIS_HOST", "a/b", "a host name or address"),
        ("DATABASE_URL", "mysql://localhost/x", "sqlite:/// and a path, or postgresql://"),
        ("CORS_ORIGINS", "shop.example", "origins like https://shop.example"),
        ("CORS_ORIGINS", "https://shop.example/path", "origins like https://shop.example"),
        ("QUEUE_EMAIL_ATTEMPTS", "none", "a whole number from 1 to 2147483647"),
        ("QUEUE_EMAIL_COMPLETED_AGE", "0", "a number ≥ 1"),
    ],
)
def test_a_bad_value_is_one_line_with_variable_value_and_what_is_accepted(
    instance: Path, variable: str, value: str, accepts: str
) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        config_of(instance, **{variable: value})
    message = str(caught.value)
    assert message.startswith(f"{variable}: {value!r} is not accepted; use {accepts}")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("JOBSERVER_ADMIN_TOKEN", "short"),
        ("SECRET_KEY", "with a space"),
        ("REDIS_URL", "ftp://user:with a space@redis.example"),
        ("DATABASE_URL", "mysql://user:with a space@db.example/x"),
    ],
)
def test_no_message_shows_a_secret(instance: Path, variable: str, value: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        config_of(instance, **{variable: value})
    assert str(caught.value).startswith(f"{variable}: ")
    assert "short" not in str(caught.value)
    assert "with a space" not in str(caught.value)


def test_a_bad_kept_file_is_named_by_its_path(instance: Path) -> None:
    (instance / "redis-url").write_text("nonsense")
    with pytest.raises(ConfigInvalid, match="redis-url: 'nonsense' is not accepted"):
        config_of(instance)


def test_the_repr_shows_no_secret(instance: Path) -> None:
    config = config_of(
        instance,
        REDIS_URL="redis://:hush-redis@localhost",
        DATABASE_URL="postgresql://u:hush-database@localhost/x",
        SECRET_KEY="hush-session",
        JOBSERVER_ADMIN_TOKEN="hush-token",
    )
    assert "hush" not in repr(config)


def test_a_config_cannot_be_changed(instance: Path) -> None:
    with pytest.raises(FrozenInstanceError):
        config_of(instance).port = 1  # type: ignore[misc]


@dataclass(frozen=True, kw_only=True)
class ShopSettings(Config):
    resync_hours: float = setting(
        "RESYNC_HOURS", kind=number(0.1), help="Hours between syncs.", default=6.0, shown="6"
    )


def test_an_application_adds_settings_in_a_subclass(instance: Path) -> None:
    environ = {"JOBSERVER_INSTANCE": str(instance), "RESYNC_HOURS": "1.5", "PORT": "4000"}
    settings = ShopSettings.from_env(environ)
    assert isinstance(settings, ShopSettings)
    assert (settings.resync_hours, settings.port) == (1.5, 4000)
    with pytest.raises(ConfigInvalid, match=r"RESYNC_HOURS: 'often' is not accepted"):
        ShopSettings.from_env({"RESYNC_HOURS": "often"})


def test_the_table_has_one_row_per_setting() -> None:
    rows = ShopSettings.table().splitlines()
    assert rows[0] == "| Variable | Default | Accepts | What it is |"
    assert len(rows) == 2 + len(fields(ShopSettings))
    assert "| `PORT` | `3000` | a whole number from 1 to 65535 | Port of the web process. |" in rows
    assert rows[-1].startswith("| `RESYNC_HOURS` | `6` |")
