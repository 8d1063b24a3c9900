"""The registry: the allow-list of types and queues, found in modules and refused in doubt."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jobserver import Every, JobServer, JobType, Queue, Retention, errors, job
from jobserver.registry import Registry
from tests import engine_jobs

WritePackage = Callable[..., None]


def a_type(name: str = "a.b", queue: Queue | str = "sync") -> JobType:
    return job(queue=queue, name=name)(lambda: None)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WritePackage:
    """Return a function that writes modules: write({"shop/jobs.py": "..."})."""
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)

    def write(files: dict[str, str]) -> None:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("from jobserver import *\n" + text if text else "")

    yield write
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_a_module_brings_its_types_queues_and_entries() -> None:
    registry = Registry()
    registry.discover(["tests.engine_jobs", "tests.engine_jobs"])
    assert registry.job_type("engine_jobs.add") is engine_jobs.add
    assert registry.queue("in-threads") == engine_jobs.THREADS
    assert set(registry.queues) == {"in-processes", "in-threads", "keeps-three"}


def test_a_package_brings_every_submodule_called_jobs(write: WritePackage) -> None:
    write(
        {
            "shop/__init__.py": "",
            "shop/jobs.py": "@job(queue='a')\ndef top(): ...",
            "shop/other.py": "@job(queue='a')\ndef hidden(): ...",
            "shop/orders/__init__.py": "",
            "shop/orders/jobs.py": (
                "B = Queue('b', executor='thread')\n@job(queue=B)\ndef deep(): ...\n"
                "tick = Every(id='tick', seconds=5, job=deep)"
            ),
            "shop/orders/more/__init__.py": "",
            "shop/orders/more/jobs/__init__.py": "@job(queue='b')\ndef deepest(): ...",
        }
    )
    registry = Registry()
    registry.discover(["shop"])
    assert set(registry.types) == {"shop.top", "orders.deep", "more.deepest"}
    assert registry.queue("b").executor == "thread"
    assert registry.entries["tick"].seconds == 5


@pytest.mark.parametrize(
    "broken",
    [
        {"shop/jobs.py": "import no_such_module_here"},
        {"shop/orders/__init__.py": "import no_such_module_here", "shop/orders/jobs.py": ""},
    ],
    ids=["the module", "its package"],
)
def test_a_module_that_cannot_be_imported_is_not_left_out(
    write: WritePackage, broken: dict[str, str]
) -> None:
    write({"shop/__init__.py": "", **broken})
    with pytest.raises(ModuleNotFoundError, match="no_such_module_here"):
        Registry().discover(["shop"])
    with pytest.raises(ModuleNotFoundError, match="no_shop_at_all"):
        Registry().discover(["no_shop_at_all"])


def test_an_unknown_type_is_refused_with_the_nearest_name() -> None:
    registry = Registry()
    registry.add(a_type("follows.sync_products"))
    with pytest.raises(errors.UnknownJobType, match=r"did you mean 'follows\.sync_products'"):
        registry.job_type("follows.sync_product")
    with pytest.raises(errors.UnknownJobType, match=r"'os\.getcwd'"):
        registry.job_type("os.getcwd")


def test_only_registered_types_count_even_by_object() -> None:
    registry = Registry()
    mine = a_type()
    registry.add(mine)
    assert registry.job_type(a_type()) is mine
    with pytest.raises(errors.UnknownJobType):
        registry.job_type(a_type("a.stranger"))


def test_two_types_of_one_name_are_refused() -> None:
    registry = Registry()
    mine = a_type()
    registry.add(mine)
    registry.add(mine)
    with pytest.raises(errors.DeclarationInvalid, match=r"a\.b"):
        registry.add(a_type())


def test_a_planned_type_is_known_as_one_that_is_not_built() -> None:
    registry = Registry()
    registry.add_queue(Queue("messages", planned=("messages.send",)))
    with pytest.raises(errors.NotBuilt, match=r"'messages\.send' is planned"):
        registry.job_type("messages.send")
    with pytest.raises(errors.UnknownJobType):
        registry.job_type("messages.receive")
    assert "messages.send" not in registry.types


def test_a_type_cannot_be_built_and_planned(write: WritePackage) -> None:
    write({"shop.py": "Q = Queue('q', planned=('shop.send',))\n@job(queue=Q)\ndef send(): ..."})
    with pytest.raises(errors.DeclarationInvalid, match=r"'shop\.send' is built"):
        Registry().discover(["shop"])


def test_routes_print_a_queue_s_first_alias_and_its_key() -> None:
    named = Queue("email", key="EMAIL_SENDING", aliases=("email-sending", "mail"))
    assert (named.public_key, named.public_name) == ("EMAIL_SENDING", "email-sending")
    plain = Queue("to-sort")
    assert (plain.public_key, plain.public_name) == ("TO_SORT", "to-sort")


def test_a_queue_answers_to_name_key_and_aliases_in_any_case() -> None:
    registry = Registry()
    queue = Queue("product-sync", key="PRODUCT_SYNC", aliases=("Sync", "ProductSync"))
    registry.add_queue(queue)
    for name in ("product-sync", "Product-Sync", "product_sync", "PRODUCT_SYNC", "sync", "SYNC"):
        assert registry.queue(name) is registry.queues["product-sync"]
    with pytest.raises(errors.UnknownQueue, match="did you mean 'product-sync'"):
        registry.queue("product-synch")


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (Queue("a", aliases=("x",)), Queue("b", aliases=("X",))),
        (Queue("a", key="B"), Queue("b")),
        (Queue("a", key="K"), Queue("b", key="k")),
        (Queue("a", executor="thread"), Queue("a", executor="process", concurrency=1)),
    ],
)
def test_two_queues_never_answer_to_one_name(one: Queue, two: Queue) -> None:
    for first, second in ((one, two), (two, one)):
        registry = Registry()
        registry.add_queue(first)
        with pytest.raises(errors.DeclarationInvalid):
            registry.add_queue(second)


@pytest.mark.parametrize(
    "wrong", [{"key": "STATUS"}, {"aliases": ("trigger",)}, {"aliases": ("Stats", "monitoring")}]
)
def test_a_name_that_is_a_path_of_the_seeds_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(errors.DeclarationInvalid, match="reserved"):
        Registry().add_queue(Queue("a", **wrong))  # type: ignore[arg-type]


@pytest.mark.parametrize("overrides", [{}, {"sync": {"concurrency": 2.0}}], ids=["plain", "env"])
def test_a_queue_that_is_only_named_is_the_one_declared_elsewhere(
    overrides: dict[str, dict[str, float]],
) -> None:
    declared = Queue("sync", executor="thread", aliases=("s",))
    named, whole = a_type("a.named", "sync"), a_type("a.whole", declared)
    for order in ((named, whole), (whole, named), (named, whole, named)):
        registry = Registry(overrides=overrides)
        for job_type in order:
            registry.add(job_type)
        assert registry.queue("s").executor == "thread"
        assert registry.queue("sync").concurrency == (2 if overrides else None)
    for queues in ((Queue("sync"), declared), (declared, Queue("sync"))):
        registry = Registry(overrides=overrides)
        for queue in queues:
            registry.add_queue(queue)
        assert registry.queue("s").executor == "thread"


def test_the_environment_has_the_last_word_on_a_queue() -> None:
    registry = Registry(overrides={"sync": {"failed_age": 60.0, "concurrency": 3.0}})
    queue = Queue("sync", concurrency=9, retention=Retention(failed_count=5))
    registry.add_queue(queue)
    registry.add_queue(queue)
    assert registry.queue("sync").concurrency == 3
    assert registry.queue("sync").retention == Retention(failed_count=5, failed_age=60)


def test_two_recurring_entries_of_one_id_are_refused() -> None:
    registry = Registry()
    job_type = a_type()
    registry.add_entry(Every(id="tick", seconds=5, job=job_type))
    registry.add_entry(Every(id="tick", seconds=5, job=job_type))
    with pytest.raises(errors.DeclarationInvalid, match="tick"):
        registry.add_entry(Every(id="tick", seconds=6, job=job_type))
    with pytest.raises(errors.DeclarationInvalid, match="seconds"):
        Every(id="often", seconds=0.5, job=job_type)


def test_one_name_is_not_a_list_of_letters() -> None:
    with pytest.raises(errors.DeclarationInvalid, match="use a list of modules"):
        JobServer(jobs="shop.jobs")


def test_a_callback_must_be_a_function_of_a_declared_module() -> None:
    registry = Registry()
    registry.discover(["tests.engine_jobs"])
    registry.check_callback("tests.engine_jobs.on_success")
    for path in (
        *("os.getcwd", "tests.engine_jobs.os.getcwd", "tests.engine_jobs.add", "on_success", ""),
        *("tests.engine_jobs.current_run", "tests.engine_jobs.Path.cwd", "tests.engine_jobs.none"),
    ):
        with pytest.raises(errors.CallbackRefused, match=r"tests\.engine_jobs"):
            registry.check_callback(path)
