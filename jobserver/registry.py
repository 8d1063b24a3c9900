"""The allow-list: every job type, queue and recurring entry found in the declared modules."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType

from jobserver.errors import (
    CallbackRefused,
    DeclarationInvalid,
    NotBuilt,
    UnknownJobType,
    UnknownQueue,
)
from jobserver.job_type import JobType
from jobserver.listener import Listener
from jobserver.policy import RESERVED_QUEUES, Queue
from jobserver.schedule import Recurring


class Registry:
    """Job types, queues and recurring entries by name."""

    def __init__(self, *, overrides: Mapping[str, Mapping[str, float]] | None = None) -> None:
        self.types: dict[str, JobType] = {}
        self.queues: dict[str, Queue] = {}
        self.entries: dict[str, Recurring] = {}
        self.listeners: list[Listener] = []
        self._declared: dict[str, Queue] = {}  # as declared, without what the environment overrides
        self._overrides = overrides or {}
        self._names: dict[str, str] = {}
        self._modules: dict[str, ModuleType] = {}

    def discover(self, names: Iterable[str]) -> None:
        """Import the named modules, and in packages every submodule called `jobs`; add all found.

        Raises DeclarationInvalid for two things of one name, ImportError for a missing module.
        """
        modules = [module for name in names for module in _modules(name)]
        self._modules.update((module.__name__, module) for module in modules)
        values = [value for module in modules for value in vars(module).values()]
        for queue in (value for value in values if isinstance(value, Queue)):
            self.add_queue(queue)
        for job_type in (value for value in values if isinstance(value, JobType)):
            self.add(job_type)
        found = [value for value in values if isinstance(value, Listener)]
        self.listeners.extend(one for one in dict.fromkeys(found) if one not in self.listeners)
        for entry in (value for value in values if isinstance(value, Recurring)):
            self.add_entry(entry)
        if built := sorted(self.planned & set(self.types)):
            raise DeclarationInvalid(f"{built[0]!r} is built: take it off its queue's `planned`")

    @property
    def planned(self) -> set[str]:
        """The names of job types that are still to be built."""
        return {name for queue in self.queues.values() for name in queue.planned}

    def add(self, job_type: JobType) -> None:
        """Add one job type and, unless it is declared already, its queue."""
        known = self.types.get(job_type.name)
        if known not in (None, job_type):
            raise DeclarationInvalid(f"two job types are called {job_type.name!r}")
        self.types[job_type.name] = job_type
        self.add_queue(job_type.queue)

    def add_queue(self, queue: Queue) -> None:
        """Add one queue; its name, key and aliases must be free.

        A queue that is only named somewhere is the one that is declared elsewhere.
        """
        name = queue.name
        known = self._declared.get(name, queue)
        if Queue(name) not in (known, queue) and known != queue:
            raise DeclarationInvalid(f"two different queues are called {name!r}")
        if known == Queue(name):
            known = queue
        self._declared[name] = known
        self.queues[name] = known.overridden(self._overrides.get(name, {}))
        for other in (name, known.key, *known.aliases):
            if other is None:
                continue
            if other.lower() in RESERVED_QUEUES:
                raise DeclarationInvalid(f"queue {name!r}: {other!r} is a reserved name")
            holder = self._names.setdefault(other.lower(), name)
            if holder != name:
                raise DeclarationInvalid(f"queues {holder!r} and {name!r} both answer to {other!r}")

    def add_entry(self, entry: Recurring) -> None:
        """Add one recurring entry."""
        if self.entries.get(entry.id) not in (None, entry):
            raise DeclarationInvalid(f"two recurring entries are called {entry.id!r}")
        self.entries[entry.id] = entry

    def job_type(self, name: str | JobType) -> JobType:
        """Return the job type of that name; raises UnknownJobType with the nearest, or NotBuilt."""
        if isinstance(name, JobType):
            name = name.name
        try:
            return self.types[name]
        except KeyError:
            if name in self.planned:
                raise NotBuilt(f"The job type {name!r} is planned, but not built yet") from None
            raise UnknownJobType(_unknown("job type", name, self.types)) from None

    def check_callback(self, path: str) -> None:
        """Raise CallbackRefused unless the path names a function of one of the declared modules.

        What such a module only imports is refused: no module is there to make its imports callable.
        """
        module, _, name = path.rpartition(".")
        found = getattr(self._modules.get(module), name, None)
        if not inspect.isfunction(found) or found.__module__ != module:
            declared = ", ".join(sorted(self._modules))
            raise CallbackRefused(f"{path!r} is no function of a module with job types: {declared}")

    def queue(self, name: str) -> Queue:
        """Return the queue with this name, key or alias, whatever its case; raises UnknownQueue."""
        try:
            return self.queues[self._names[name.lower()]]
        except KeyError:
            raise UnknownQueue(_unknown("queue", name, self._names)) from None


def _modules(name: str) -> Iterator[ModuleType]:
    module = importlib.import_module(name)
    yield module
    paths = getattr(module, "__path__", ())
    for found in pkgutil.walk_packages(paths, prefix=f"{name}.", onerror=_raise):
        if found.name.endswith(".jobs"):
            yield importlib.import_module(found.name)


def _raise(name: str) -> None:
    # Called where the import's error is being handled; by default its package would be left out.
    raise


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"No {what} is called {name!r}{hint}"
