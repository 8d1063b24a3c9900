"""The data model: every key in Redis, RQ's and ours, in one table.

| key | type | holds |
|---|---|---|
| rq:job:<id> | hash | RQ's fields, and ours, which are below |
| rq:queue:<origin> | list | ids of waiting jobs |
| rq:wip:<origin> | zset | `<id>:<exec>` of running jobs, scored far in the future |
| rq:scheduled:<origin> | zset | ids of delayed jobs and retries by due time (s) |
| rq:finished:, rq:failed:<origin> | zset | ids by expiry (s) |
| rq:canceled:<origin> | zset | ids by when they were canceled (s) |
| rq:job:<id>:dependents | set | ids of deferred jobs that wait for this one (RQ's depends_on) |
| rq:results:<id> | stream | one entry per ended attempt, RQ's result format |
| rq:execution:<id>:<exec> | hash | an attempt that runs for a second or more, for RQ's readers |
| rq:worker:<name>:executions | set | `<id>:<exec>` of those that the worker holds |
| jobserver:held | hash | `<id>:<exec>` of running runs → `<origin> <started> <flags> <worker>` |
| jobserver:leases | zset | `<id>:<exec>` by when the lease runs out (ms) |
| jobserver:log:<run> | list | the last lines that a run logged, as JSON |
| jobserver:events | stream | every state change |
| jobserver:recorder | hash | how far the ledger is: position, events, base, trimmed |
| jobserver:full | string | there while the events that are not recorded are at their bound |
| jobserver:totals | hash | `<queue> <what>` → how often, ever: enqueued, completed, … |
| jobserver:histograms | hash | position, counts: the ledger's waits and runs of all time |
| jobserver:ready | set | queues that ours has pushed to since a worker found them empty |
| jobserver:wake:<queue> | list | at most 8 tokens, one wakes one idle worker |
| jobserver:call:<call> | string | `<id> <run> <word>`: the first answer of an enqueue |
| jobserver:reply:<name> | hash | fingerprint, claim, reply of a request that names itself |
| jobserver:quota:<asker> | string | when an asker's bucket of requests is full again (ms) |
| jobserver:claim:<token> | string | number of the last claim in a worker's life |
| jobserver:limit:<rate key> | hash | until (ms), jobs put off meanwhile; expires then |
| jobserver:aftermath | zset | `<word>:<id>` of ends that RQ's code has to do with, by when (ms) |
| rq:suspended | string | set by `rq suspend`: nothing is claimed |
| jobserver:paused | hash | queue → `<until ms, 0 for ever> <reason>` |
| jobserver:recovery | hash | pass, grace: when recovery last ran, and rests until (ms) |
| jobserver:entries | hash | recurring entries as JSON, by id |
| jobserver:due | zset | ids of recurring entries by when they are due (ms) |
| jobserver:entry:<id> | hash | tick (where it stands), due (both ms), paused, ended (since when), \
parked (why), made, skipped, missed (how many ticks), job (its last), after (what that follows) |
| jobserver:ticks:<id> | list | its last twenty ticks: `<tick ms> <word> <how many> <job> <ms>` |
| jobserver:wake | list | at most 8 tokens, one wakes a scheduler: an entry changed |
| jobserver:schedulers | zset | scheduler processes by their last beat |
| jobserver:scheduler:<name> | hash | pid and host of one; expires without beats |

An origin is a queue of RQ's: `<queue>:high`, `<queue>` or `<queue>:low`. Our fields of a job: type,
run, call, key, limit (its rate key), owner, trace, exec (who holds it, or held it last), attempt,
attempts, backoff, progress, message, due, cancel (asked for), rerun (what follows), crashes (how
often it ended its process), logged (how many lines its run logged), said (the end that the events
know). With another RQ_KEY_PREFIX than `rq`, our keys stand behind it: `<prefix>:jobserver:…`.
"""

from __future__ import annotations

try:
    from rq.defaults import RQ_KEY_PREFIX
except ValueError as error:  # a setting is wrong, not a program: one line is enough
    raise SystemExit(f"jobserver: {error}") from error

RQ = f"{RQ_KEY_PREFIX}:"
OURS = "jobserver:" if RQ_KEY_PREFIX == "rq" else f"{RQ_KEY_PREFIX}:jobserver:"

EVENTS = f"{OURS}events"
HELD = f"{OURS}held"
RECORDER = f"{OURS}recorder"
LEASES = f"{OURS}leases"
READY = f"{OURS}ready"


def job(job_id: str) -> str:
    """Return the key of a job's hash."""
    return f"{RQ}job:{job_id}"


def results(job_id: str) -> str:
    """Return the key of a job's result stream."""
    return f"{RQ}results:{job_id}"


def wake(queue: str) -> str:
    """Return the key of a queue's wake-up tokens."""
    return f"{OURS}wake:{queue}"


def worker(name: str) -> str:
    """Return the key of the hash of a worker that is registered with RQ."""
    return f"{RQ}worker:{name}"


def log(run: str) -> str:
    """Return the key of the lines that a run logged."""
    return f"{OURS}log:{run}"


def call(call_id: str) -> str:
    """Return the key that remembers the answer to a call."""
    return f"{OURS}call:{call_id}"


def waiting(origin: str) -> str:
    """Return the key of the list of an RQ queue."""
    return f"{RQ}queue:{origin}"


def registry(name: str, origin: str) -> str:
    """Return the key of an RQ registry: wip, scheduled, finished, failed, canceled, deferred."""
    return f"{RQ}{name}:{origin}"
