"""The class that `rq` connects with: a bad setting is one line, not a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobserver.broker import Connection


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"localhost", "'localhost' is not accepted; use redis://"),
        (b"\xff\xfe", "it cannot be read (it is no UTF-8 text)"),
    ],
    ids=["no url", "no text"],
)
def test_a_kept_url_that_is_none_ends_rq_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, said: str
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setenv("JOBSERVER_INSTANCE", str(tmp_path))
    (tmp_path / "redis-url").write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        Connection()
    assert str(ended.value).startswith(f"jobserver: {tmp_path / 'redis-url'}: {said}")
    assert "\n" not in str(ended.value)
