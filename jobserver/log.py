"""How a process of ours logs: one JSON object a line, or readable lines on a terminal.

The standard library's `logging` is the way in, and structlog for who prefers it: both end here.
Only processes that are ours call `start`: an application that embeds the engine logs as it likes.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import structlog

from jobserver.config import Config
from jobserver.day_file import DayFile
from jobserver.keeper import Keeper
from jobserver.lines import Lines
from jobserver.progress import current_run
from jobserver.redaction import masked
from jobserver.trace import trace

Fields = dict[str, Any]
Render = Callable[[logging.LogRecord, Fields], str]

_PLAIN = len(logging.makeLogRecord({}).__dict__)  # attributes of a record that nobody added to
_OWN = {*logging.makeLogRecord({}).__dict__, "message", "asctime", "fields", "_logger", "_name"}
_LEVELS = {name: name.lower() for name in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")}

_formatter = logging.Formatter()
_second = (0, "")  # of the last line, and that as text


def start(
    config: Config, *, level: str | int | None = None, formatter: logging.Formatter | None = None
) -> list[Lines]:
    """Log as the settings say, from here on; a second call takes the place of the first.

    `level` and `formatter` are for stderr, instead of the settings'; files have JSON whatever that
    is. Handlers that the application has given the root logger stay, and then have stderr for
    themselves. Returns the handlers that were made.
    """
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, Lines)]:
        root.removeHandler(old)
    secrets = config.secrets()
    made = []
    if all(isinstance(handler, Keeper) for handler in root.handlers):
        stderr = Lines(sys.stderr)
        stderr.setFormatter(formatter or Rendered(style_of(config), secrets=secrets))
        stderr.setLevel(level or config.log_level)
        made.append(stderr)
        root.setLevel(min(stderr.level, _level(config.log_level)))
    if config.log_dir:
        file = Lines(DayFile(config.log_dir))
        file.setFormatter(Rendered(as_json, secrets=secrets))
        file.setLevel(config.log_level)
        made.append(file)
    for handler in made:
        root.addHandler(handler)
    logging.getLogger("jobserver").setLevel(min(_level(level), _level(config.log_level)))
    # It logs whole addresses, with what stands in their queries.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if not structlog.is_configured():
        _take_structlog()
    return made


class Rendered(logging.Formatter):
    """Renders records, of the standard library and of structlog, without what is secret."""

    def __init__(self, render: Render, *, secrets: Sequence[str] = ()) -> None:
        super().__init__()
        self._render = render
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a line, or as several if it is for a terminal."""
        run = current_run()
        text = self._render(record, fields_of(record))
        return masked(text, (*self._secrets, *run.secrets) if run else self._secrets)


class Masked(logging.Formatter):
    """A formatter of the standard library's that keeps secrets."""

    def __init__(self, format: str, *, date_format: str, secrets: Sequence[str]) -> None:
        super().__init__(format, date_format)
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """Return a record in the format given."""
        run = current_run()
        return masked(super().format(record), (*self._secrets, *(run.secrets if run else ())))


def fields_of(record: logging.LogRecord) -> Fields:
    """Return what a record says, and of which job and trace it is part."""
    known = record.__dict__
    fields: Fields = {
        "timestamp": _time(record.created),
        "level": _LEVELS.get(record.levelname, record.levelname),
        "logger": record.name,
        "pid": record.process,
    }
    if type(record.msg) is dict:  # structlog's, which brings what was bound to it
        fields |= record.msg
    else:
        fields["event"] = record.getMessage()
        fields |= structlog.contextvars.get_contextvars()
    if run := current_run():
        fields |= {"job": run.id, "run": run.run_id, "type": run.type, "attempt": run.attempt}
        fields["trace"] = run.trace
    elif name := trace():
        fields["trace"] = name
    ours = known.get("fields")
    if ours:
        fields |= ours
    if len(known) > _PLAIN + (ours is not None):
        fields |= {name: value for name, value in known.items() if name not in _OWN}
    if record.exc_info and record.exc_info[0]:
        fields["exception"] = _formatter.formatException(record.exc_info)
    if record.stack_info:
        fields["stack"] = record.stack_info
    return fields


def as_json(_: logging.LogRecord, fields: Fields) -> str:
    """Return a line of JSON; what JSON cannot say is there as Python shows it."""
    try:
        return orjson.dumps(fields, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, orjson.JSONEncodeError):  # text that is no Unicode, keys of odd types
        return json.dumps({str(name): value for name, value in fields.items()}, default=repr)


def as_text(record: logging.LogRecord, fields: Fields) -> str:
    """Return a readable line, with a traceback below it."""
    below = [fields.pop(name) for name in ("exception", "stack") if name in fields]
    event, level = fields.pop("event", ""), fields.pop("level").upper()
    for name in ("timestamp", "logger", "pid"):
        fields.pop(name)
    if record.__dict__.get("fields"):  # the words say it already
        fields = {}
    at = time.strftime("%H:%M:%S", time.localtime(record.created))
    head = f"{at} {level} {record.name}: {event}"
    return "\n".join([" ".join([head, *(f"{k}={v}" for k, v in fields.items())]), *below])


def style_of(config: Config) -> Render:
    """Return how stderr is written: as LOG_FORMAT says, else by whether somebody reads along."""
    style = config.log_format or ("text" if sys.stderr.isatty() else "json")
    return as_text if style == "text" else as_json


def _level(level: str | int | None) -> int:
    if isinstance(level, int):
        return level
    return logging.getLevelNamesMapping()[level] if level else logging.CRITICAL


def _take_structlog() -> None:
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _time(created: float) -> str:
    global _second
    second = int(created)
    known = _second
    if known[0] != second:
        known = _second = (second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)))
    return f"{known[1]}.{int((created - second) * 1000):03d}Z"
