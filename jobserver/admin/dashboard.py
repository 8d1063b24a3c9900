"""rq-dashboard at `/rq`: mounted behind our sign-in, read-only, with its faults cured.

It runs as an app of its own inside our view, made at the first visit: it shares its module's
blueprint with every app of the process, keeps its state on the app it is registered in, and its
own error pages and 500s must not become the host's. What is replaced, and why, as of rq-dashboard
0.9.0 with RQ 3: jobs and workers are read with the JSON serializer (it would unpickle them, and
fails for all workers while one JSON job runs), pages hold what they say (page n of a registry
held 8n jobs), the registries `ready` and `rate_limited` exist, a missing job is a 404, all text
is escaped, and nothing writes.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Mapping
from math import ceil
from threading import Lock
from typing import Any
from urllib.parse import urlsplit
from wsgiref.types import StartResponse, WSGIEnvironment

from flask import Blueprint, Flask, Response, abort, jsonify, render_template, request, url_for
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.wrappers import Response as BaseResponse

from jobserver import current
from jobserver.admin import pages
from jobserver.broker.broker import available
from jobserver.broker.job import call_of
from jobserver.server import Server

MAX_PER_PAGE = 200
REGISTRIES = (
    "queued",
    "scheduled",
    "deferred",
    "ready",
    "rate_limited",
    "started",
    "finished",
    "failed",
    "canceled",
)

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_CSRF = "jobserver.csrf_token"
_NONCE = "jobserver.nonce"


def blueprint() -> Blueprint:
    """Return the route that hands everything below `/rq/` to rq-dashboard."""
    routes = Blueprint("jobserver_rq", __name__)
    pages.protect(routes, role="viewer")
    mount = _Mount()

    @routes.route("/", methods=_METHODS)
    @routes.route("/<path:rest>", methods=_METHODS)
    def show(rest: str = "") -> BaseResponse:
        """Show one of rq-dashboard's pages; whatever would write is refused."""
        # One GET of its own changes state: /requeue/<queue>.
        if request.method not in ("GET", "HEAD") or rest.startswith("requeue/"):
            raise MethodNotAllowed(
                valid_methods=("GET", "HEAD"), description="The dashboard is read-only."
            )
        nonce = secrets.token_urlsafe(16)
        below = rest.encode().decode("latin-1")  # as WSGI wants it (PEP 3333)
        path = request.environ["PATH_INFO"].removesuffix(below).rstrip("/")
        environ = {
            **request.environ,
            "SCRIPT_NAME": request.environ.get("SCRIPT_NAME", "") + path,
            "PATH_INFO": f"/{below}",
            _CSRF: pages.csrf_token(),
            _NONCE: nonce,
        }
        with available():
            response = BaseResponse.from_app(mount.app(current.server()), environ, buffered=True)
        response.headers["Content-Security-Policy"] = _content_security_policy(nonce)
        return response

    return routes


# One for all apps: each rule that is added goes through ast.parse, which in two threads at once may
# fail before Python 3.12 ("AST constructor recursion depth mismatch", python/cpython#106905).
_making = Lock()


class _Mount:
    """The dashboard of one app, made when it is first looked at: importing it takes a while."""

    def __init__(self) -> None:
        self._app: Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]] | None = None

    def app(self, server: Server) -> Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]:
        """Return the WSGI app."""
        with _making:
            if self._app is None:
                self._app = _make_app(server)
            return self._app


class _Dashboard(Flask):
    """An app that keeps to our Redis connection and leaves its errors to the page around it."""

    def __init__(self, server: Server) -> None:
        super().__init__(__name__, template_folder="dashboard_templates", static_folder=None)
        self._connection = server.broker.connection

    @property
    def redis_conn(self) -> Any:
        """The engine's connection; rq-dashboard would set one with a new pool at every request."""
        return self._connection

    @redis_conn.setter
    def redis_conn(self, _: Any) -> None:
        pass

    def handle_http_exception(self, e: HTTPException) -> Any:
        """Let the page around show it."""
        raise e

    def select_jinja_autoescape(self, filename: str | None) -> bool:
        """Escape in included scripts too: one holds the queue's name as it stands in the URL."""
        return True


def _make_app(server: Server) -> _Dashboard:
    from rq_dashboard import web  # heavy

    app = _Dashboard(server)
    app.config["PROPAGATE_EXCEPTIONS"] = True
    app.config["RQ_DASHBOARD_REDIS_URL"] = (_shown(server.config.redis_url),)
    app.config["RQ_DASHBOARD_DISABLE_DELETE"] = True
    app.register_blueprint(web.blueprint, url_prefix="/")
    app.before_request(_check)
    app.context_processor(_page_values)
    reader = _Reader(web, server)
    app.view_functions.update(
        {
            "rq_dashboard.workers_overview": reader.workers_page,
            "rq_dashboard.job_view": reader.job_page,
            "rq_dashboard.list_workers": reader.list_workers,
            "rq_dashboard.list_jobs": reader.list_jobs,
            "rq_dashboard.job_info": reader.show_job,
        }
    )
    return app


class _Reader:
    """The views that replace rq-dashboard's, over the RQ classes that it has imported."""

    def __init__(self, web: Any, server: Server) -> None:
        self._web = web
        self._server = server
        self._connection: Any = server.broker.connection

    def workers_page(self, *, instance_number: int) -> str:
        """Show the page whose table list_workers fills."""
        return self._page("workers", active_tab="workers")

    def job_page(self, *, instance_number: int, job_id: str) -> str:
        """Show the page that show_job fills."""
        return self._page("job", id=self._job(job_id).id)

    def list_workers(self, *, instance_number: int) -> Response:
        """Return the workers as their hashes say.

        An RQ Worker object would lengthen the timeouts of the connection it is made with.
        """
        worker = self._web.Worker
        keys = sorted(key.decode() for key in self._connection.smembers(worker.redis_workers_keys))
        pipe = self._connection.pipeline(transaction=False)
        for key in keys:
            pipe.hgetall(key)
            pipe.smembers(f"{key}:executions")
        answers = pipe.execute()
        listed = [
            self._worker(key.removeprefix(worker.redis_worker_namespace_prefix), fields, running)
            for key, fields, running in zip(keys, answers[::2], answers[1::2], strict=True)
            if fields
        ]
        return jsonify(workers=sorted(listed, key=lambda w: (w["state"], w["queues"], w["name"])))

    def list_jobs(
        self,
        *,
        instance_number: int,
        queue_name: str,
        registry_name: str,
        per_page: str,
        order: str,
        page: str,
    ) -> Response:
        """Return one page of a registry's jobs and the links around it."""
        size, number = int(per_page), int(page)
        total, ids = self._ids(queue_name, registry_name, (number - 1) * size, size, order)
        found = [self._listed(job_id) for job_id in ids]
        last = ceil(total / size)

        def link(to: int) -> dict[str, str]:
            address = url_for(
                "rq_dashboard.jobs_overview",
                instance_number=instance_number,
                queue_name=queue_name,
                registry_name=registry_name,
                per_page=size,
                order=order,
                page=max(to, 1),
            )
            return {"url": address}

        pagination = {
            "current_page": number,
            "num_pages": last,
            "pages_in_window": [
                {"number": n, **link(n)} for n in self._web.pagination_window(total, number, size)
            ],
            "first_page": link(1),
            "last_page": link(last),
            **({"prev_page": link(number - 1)} if number > 1 else {}),
            **({"next_page": link(number + 1)} if number < last else {}),
        }
        return jsonify(
            name=queue_name,
            registry_name=registry_name,
            jobs=[job for job in found if job is not None],
            pagination=pagination,
        )

    def show_job(self, *, instance_number: int, job_id: str) -> Response:
        """Return all about one job."""
        job = self._job(job_id)
        values = self._values(job)
        depends_on = [str(parent) for parent in job.dependency_ids]
        if depends_on:
            exist = [self._web.Job.exists(p, connection=self._connection) for p in depends_on]
            values["depends_on"] = depends_on
            values["depends_on_status"] = ["active" if e else "expired" for e in exist]
        values.update(
            enqueued_at=self._web.serialize_date(job.enqueued_at),
            origin=job.origin,
            status=str(job.get_status(refresh=False).value),
            result=_readable(job.return_value),
            payload=_readable(lambda: self._payload(job)),
            metadata=json.dumps(_readable(job.get_meta), default=repr),
        )
        return jsonify(values)

    def _payload(self, job: Any) -> Any:
        type_name, payload, *_ = [*call_of(job.data)[1], None, None]
        return self._server.redacted(str(type_name), payload)

    def _page(self, name: str, **values: Any) -> str:
        return render_template(
            f"rq_dashboard/{name}.html",
            **values,
            current_instance=0,
            rq_url_prefix=f"{request.script_root}/",
            rq_version=self._web.rq_version,
            rq_dashboard_version=self._web.rq_dashboard_version,
        )

    def _job(self, job_id: str) -> Any:
        try:
            return self._fetch(job_id)
        except (self._web.NoSuchJobError, ValueError):
            abort(404, f"No job with the id {job_id!r} is known.")

    def _fetch(self, job_id: str) -> Any:
        return self._web.Job.fetch(job_id, connection=self._connection, serializer="json")

    def _listed(self, job_id: str) -> dict[str, Any] | None:
        try:
            return self._values(self._fetch(job_id))
        except self._web.NoSuchJobError:
            return None
        except ValueError as error:  # another tool's, with a status that RQ does not know
            return {"id": job_id, "description": f"unreadable: {error}", "created_at": None}

    def _values(self, job: Any) -> dict[str, Any]:
        latest = _readable(job.latest_result)
        shown = self._web.serialize_date
        return {
            "id": job.id,
            "created_at": shown(job.created_at),
            "started_at": shown(job.started_at),
            "ended_at": shown(job.ended_at),
            "exc_info": getattr(latest, "exc_string", None),
            "description": job.description,
        }

    def _worker(
        self, name: str, fields: Mapping[bytes, bytes], running: Iterable[bytes]
    ) -> dict[str, Any]:
        def text(field: bytes) -> str:
            return fields.get(field, b"").decode(errors="replace")

        return {
            "name": name,
            "pid": int(text(b"pid") or 0),
            "queues": [queue for queue in text(b"queues").split(",") if queue],
            "state": text(b"state") or "?",
            "current_job": self._current(sorted(running)),
            "last_heartbeat": text(b"last_heartbeat"),
            "birth_date": text(b"birth"),
            "successful_job_count": int(text(b"successful_job_count") or 0),
            "failed_job_count": int(text(b"failed_job_count") or 0),
            "total_working_time": float(text(b"total_working_time") or 0),
            "version": text(b"version"),
            "python_version": text(b"python_version"),
        }

    def _current(self, running: list[bytes]) -> dict[str, Any] | str:
        for entry in running:
            job = self._listed(entry.decode().partition(":")[0])
            if job is not None:
                others = f" and {len(running) - 1} more" if len(running) > 1 else ""
                call = f"{job['description'] or job['id']}{others}"
                return {
                    "job_id": job["id"],
                    "description": job["description"],
                    "created_at": job["created_at"],
                    "call_string": call,
                }
        return "idle"

    def _ids(
        self, queue_name: str, registry: str, offset: int, size: int, order: str
    ) -> tuple[int, list[str]]:
        queue = self._web.Queue(queue_name, connection=self._connection, serializer="json")
        if registry == "rate_limited":
            ids = self._rate_limited(queue)
            ids = ids[::-1] if order == "dsc" else ids
            return len(ids), ids[offset : offset + size]
        if registry == "queued":
            total = queue.count
        else:
            held = getattr(queue, f"{registry}_job_registry")
            total = held.get_job_count(cleanup=False)  # cleaning would touch live jobs
        start, end = offset, min(offset + size, total)
        if order == "dsc":
            start, end = max(total - end, 0), total - start
        if start >= end:
            return total, []
        if registry == "queued":
            ids = queue.get_job_ids(start, end - start)
        else:
            ids = held.get_job_ids(start, end - 1, cleanup=False)
        return total, ids[::-1] if order == "dsc" else ids

    def _rate_limited(self, queue: Any) -> list[str]:
        # RQ keeps these by rate limit, not by queue.
        prefix = queue.redis_queue_namespace_prefix.removesuffix("queue:")
        ids: list[str] = []
        for name in sorted(self._connection.smembers(f"{prefix}rl-keys")):
            held = self._connection.zrange(f"{prefix}rl:{name.decode()}:rate_limited", 0, -1)
            ids.extend(job_id.decode() for job_id in held)
        origins = [self._connection.hget(f"{prefix}job:{job_id}", "origin") for job_id in ids]
        return [
            job_id
            for job_id, origin in zip(ids, origins, strict=True)
            if origin and origin.decode() == queue.name
        ]


def _check() -> None:
    """Refuse addresses that rq-dashboard answers with a 500, and bring paging into its bounds."""
    values = request.view_args
    if values is None:
        return
    if values.get("instance_number", 0) != 0:
        abort(404, "There is one Redis here.")
    if values.get("registry_name", "queued") not in REGISTRIES:
        abort(404, f"RQ has no registry {values['registry_name']!r}.")
    if values.get("order", "asc") not in ("asc", "dsc"):
        abort(404, "Jobs are listed in the order 'asc' or 'dsc'.")
    for name, most in (("per_page", MAX_PER_PAGE), ("page", 10**9)):
        if name in values:
            number = _whole(values[name])
            kind = type(values[name])
            values[name] = kind(max(1, min(most, number)))


def _whole(text: str | int) -> int:
    try:
        return int(text)
    except ValueError:
        abort(404, f"{text!r} is not a number.")


def _page_values() -> dict[str, Any]:
    environ = request.environ
    return {
        "csrf_token": environ.get(_CSRF, ""),
        "nonce": environ.get(_NONCE, ""),
        "site": request.script_root.removesuffix("/rq"),
        "registries": REGISTRIES,
    }


def _readable(read: Callable[[], Any]) -> Any:
    """Return what `read` returns, or a word for what cannot be read as JSON."""
    try:
        return read()
    except (ValueError, TypeError, KeyError):
        return "(not JSON)"


def _shown(url: str) -> str:
    """Return a Redis URL without its user, password and options."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _content_security_policy(nonce: str) -> str:
    # Underscore compiles its templates with Function, jQuery and Bootstrap set style attributes.
    return (
        f"default-src 'none'; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
