-- Shared by the scripts: the steps that job states are made of. Each script gets, put in front of it when it is loaded,
-- the paragraphs of this file that define what it mentions; no paragraph has an empty line in it.
-- @RQ@ = RQ's key prefix, @OURS@ = ours; see keys.py for all keys. @EVENTS@ = most entries the event stream keeps without
-- a recorder, @BACKLOG@ = most that a recorder may have before it.
if redis.replicate_commands then redis.replicate_commands() end -- before Redis 7 scripts that read TIME need it

local call = redis.call

local FAR = '32503680000' -- year 3000: RQ's readers drop started entries with a score in the past (leases are ours)

-- Unix ms of the server's clock, the only one that counts.
local TIME = call('TIME')
local NOW = TIME[1] * 1000 + math.floor(TIME[2] / 1000)

local function iso(seconds, micros)
  -- civil-from-days, https://howardhinnant.github.io/date_algorithms.html
  local floor, rest = math.floor, seconds % 86400
  local z = (seconds - rest) / 86400 + 719468
  local era = floor(z / 146097)
  local doe = z - era * 146097
  local yoe = floor((doe - floor(doe / 1460) + floor(doe / 36524) - floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + floor(yoe / 4) - floor(yoe / 100))
  local mp = floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%06dZ', yoe + era * 400 + (month <= 2 and 1 or 0), month,
    doy - floor((153 * mp + 2) / 5) + 1, rest / 3600, rest / 60 % 60, rest % 60, micros)
end

-- The server's time in UTC text.
local ISO = iso(TIME[1], TIME[2])

local ENDED = {finished = 'finished', failed = 'failed', stopped = 'failed', canceled = 'canceled'}

local function job_key(id) return '@RQ@job:' .. id end

local function base(origin) return string.match(origin, '^[^:]*') end

local function origins(queue) return {queue .. ':high', queue, queue .. ':low'} end

-- Commands on one key that several jobs of a batch have in common are sent once, by flush; two arguments each at most.
local batches, order = {}, {}

local function gather(command, key, first, second)
  local of = batches[command]
  if not of then
    of = {}
    batches[command] = of
  end
  local batch = of[key]
  if not batch then
    batch = {command, key, n = 2}
    of[key], order[#order + 1] = batch, batch
  end
  local n = batch.n + 1
  batch[n] = first
  if second then
    n = n + 1
    batch[n] = second
  end
  batch.n = n
end

local function flush()
  for i = 1, #order do call(unpack(order[i], 1, order[i].n)) end
  batches, order = {}, {}
end

-- Count that something happened in a queue, for good: completed, failed, canceled, retried, enqueued, deduplicated.
local totals = {}

local function count(origin, what)
  local field = base(origin) .. ' ' .. what
  totals[field] = (totals[field] or 0) + 1
  return field
end

-- Whether a recorder brings the events into the ledger. What it has not recorded yet is never trimmed.
local recorder
local function is_recorded()
  if recorder == nil then recorder = call('EXISTS', '@OURS@recorder') == 1 end
  return recorder
end

local has_said = false

local function event(name, id, run, ...)
  has_said = true
  call('XADD', '@OURS@events', '*', 'event', name, 'job', id, 'run', run or '', ...)
end

-- What XINFO says of a stream, by its words; of none that it is empty.
local function stream(key)
  local flat, found = redis.pcall('XINFO', 'STREAM', key), {length = 0}
  for i = 1, #flat, 2 do found[flat[i]] = flat[i + 1] end
  return found
end

-- Of a stream's events, as `stream` tells of it, those that the ledger lacks: how many, when the first was (ms, or ''),
-- and about how many bytes they take.
local function unrecorded(events)
  local known = call('HMGET', '@OURS@recorder', 'position', 'base', 'events')
  local first = call('XRANGE', '@OURS@events', '(' .. (known[1] or '0-0'), '+', 'COUNT', 1)[1]
  if not first then return 0, '', 0 end
  local added = events['entries-added']
  local lacking = added and known[2] and added - tonumber(known[2]) - tonumber(known[3]) or events['length']
  local bytes = redis.pcall('MEMORY', 'USAGE', '@OURS@events') -- of some nodes, for all; some providers forbid it
  if type(bytes) ~= 'number' then bytes = events['length'] * 256 end
  lacking = math.max(1, lacking)
  return lacking, string.match(first[1], '^%d+'), math.floor(bytes * math.min(1, lacking / math.max(1, events['length'])))
end

-- Refuse to make jobs while events that are not recorded are at their bound: by the key that whoever measures has set
-- (backlog.lua), or by their number when nobody has for long. Writes nothing, but fails on a full server: once a script
-- has written anything (a DEL, say) it may go on. Returns the error, or nil.
local function refusal()
  local is_full = call('SETRANGE', '@OURS@full', 0, '') > 0
  if not is_full and is_recorded() then is_full = call('XLEN', '@OURS@events') > @BACKLOG@ end
  if is_full then return redis.error_reply('FULL the events that are not recorded yet are at their bound') end
end

-- Tell the workers of a queue that it has waiting jobs, and wake an idle one, unless eight are being woken already.
local function wake(queue)
  call('SADD', '@OURS@ready', queue)
  local tokens = '@OURS@wake:' .. queue
  if call('LLEN', tokens) < 8 then call('RPUSH', tokens, '1') end
end

-- Put a waiting job into its list; front: before all others.
local function push(id, origin, front)
  local list = '@RQ@queue:' .. origin
  -- RQ's readers know a queue from this set; a list that is not new is in it.
  if call(front and 'LPUSH' or 'RPUSH', list, id) == 1 then call('SADD', '@RQ@queues', list) end
  wake(base(origin))
end

local function delay(id, origin, due)
  call('SADD', '@RQ@queues', '@RQ@queue:' .. origin)
  call('ZADD', '@RQ@scheduled:' .. origin, due / 1000, id)
end

-- Forget a job whole. Its call stays answered for ten minutes, as long as a caller may repeat it.
local function purge(id, origin)
  local job = job_key(id)
  local seen = call('HMGET', job, 'call', 'run')
  for _, registry in ipairs({'finished:', 'failed:', 'canceled:'}) do
    call('ZREM', '@RQ@' .. registry .. origin, id)
  end
  call('DEL', job, '@RQ@results:' .. id, '@RQ@executions:' .. id, '@OURS@log:' .. (seen[2] or ''))
  if seen[1] then call('SET', '@OURS@call:' .. seen[1], id .. ' ' .. (seen[2] or '') .. ' new', 'EX', 600, 'NX') end
end

-- Forget a job that a registry of ended ones names. One that by now runs anew or lies elsewhere (stock tools leave
-- such entries, and so does a hash that expired) loses only that entry. Returns its run, or nil.
local function evict(registry, id, origin)
  local f = call('HMGET', job_key(id), 'status', 'origin', 'run')
  if f[1] and (ENDED[f[1]] ~= registry or f[2] ~= origin) then
    call('ZREM', '@RQ@' .. registry .. ':' .. origin, id)
    return nil
  end
  purge(id, origin)
  return f[3]
end

-- Keep at most `keep` jobs of a queue in a registry, its three priorities taken as one; the oldest go, `spare` at most:
-- one script must not hold the server for long, and what is left goes with the next ends.
local function trim(registry, origin, keep, spare)
  local keys, total = {}, 0
  for i, name in ipairs(origins(base(origin))) do
    keys[i] = name
    total = total + call('ZCARD', '@RQ@' .. registry .. ':' .. name)
  end
  while total > keep and spare > 0 do
    local oldest, of, score
    for _, name in ipairs(keys) do
      local head = call('ZRANGE', '@RQ@' .. registry .. ':' .. name, 0, 0, 'WITHSCORES')
      if head[1] and (not score or tonumber(head[2]) < score) then
        oldest, of, score = head[1], name, tonumber(head[2])
      end
    end
    if not oldest then return end
    evict(registry, oldest, of)
    total, spare = total - 1, spare - 1
  end
end

-- A rate key that is held back: until when (ms), and how many jobs wait for it, so that they keep their order.
local function limit_key(name) return '@OURS@limit:' .. name end

-- Let no job with a rate key start before a time; a hold that is longer stays.
local function hold(name, till)
  local key = limit_key(name)
  if till <= tonumber(call('HGET', key, 'until') or 0) then return end
  call('HSET', key, 'until', string.format('%.0f', till), 'jobs', 0)
  call('PEXPIREAT', key, string.format('%.0f', till))
end

-- A new run of a job, from an enqueue's fields in the order of request.py; returns nothing.
local function create(id, call_id, run, type, origin, data, timeout, attempts, due, key, owner, backoff, limit, _, trace)
  local at = 0
  if string.sub(due, 1, 1) == '+' then at = NOW + tonumber(string.sub(due, 2)) elseif due ~= '' then at = tonumber(due) end
  local later = at > NOW
  local fields = {'created_at', ISO, 'data', data, 'origin', origin, 'description', type, 'timeout', timeout,
    'status', later and 'scheduled' or 'queued', 'type', type, 'run', run, 'call', call_id,
    'attempt', 0, 'attempts', attempts}
  local function add(name, value)
    if value and value ~= '' then fields[#fields + 1] = name; fields[#fields + 1] = value end
  end
  add('key', key); add('owner', owner); add('backoff', backoff); add('limit', limit); add('trace', trace)
  if later then add('due', string.format('%.0f', at)) else add('enqueued_at', ISO) end
  call('HSET', job_key(id), unpack(fields))
  if later then delay(id, origin, at) else push(id, origin) end
  event(later and 'delayed' or 'queued', id, run, 'type', type, 'queue', origin, 'key', key or '', 'owner', owner or '',
    'attempts', attempts, 'due', later and string.format('%.0f', at) or '', 'payload', #data <= 4096 and data or '', 'trace', trace or '')
  count(origin, 'enqueued')
end

-- Note an end with which more is to be done, by RQ's own code: other jobs wait for it (RQ's depends_on), or it is of a
-- job that stock RQ made, with its callbacks, repeats and webhooks. word: finished, failed, canceled, or stopped (was
-- canceled while it ran); run: nil when stock RQ made the job; may_be_awaited: false when it is known that no job waits.
local function follow_up(id, word, run, may_be_awaited)
  if not run or may_be_awaited ~= false and call('EXISTS', job_key(id) .. ':dependents') == 1 then
    call('ZADD', '@OURS@aftermath', NOW, word .. ':' .. id)
  end
end

-- What is counted → the registry that settle is to trim for it, and by what: it would bring `trim` into each script else.
local untrimmed = {}

-- How a job's age at its end is told to RQ's registry (as a score) and to EXPIRE. The sweep ends the job at that age, with
-- its registry and its event; that it expires is for when none runs.
local ends = {}

local function until_age(age)
  local at = ends[age]
  if not at then -- of two in one ms, too, the older is known
    at = {string.format('%.6f', TIME[1] + TIME[2] / 1000000 + age), string.format('%.0f', age + 3600)}
    ends[age] = at
  end
  return at[1], at[2]
end

-- The end of a job that has left all lists and registries: its state, its registry, its retention. exec: whose end it
-- was, or nil; rerun: the enqueue that is to follow, of this id or of another, or nil.
local function conclude(id, origin, status, keep, age, exec, rerun)
  local job = job_key(id)
  local registry = ENDED[status]
  local field = count(origin, status == 'finished' and 'completed' or registry)
  if not untrimmed[field] then
    -- Of many that are kept one in a hundred may be too many: to count them costs as much as to end one.
    local every = math.min(50, math.max(1, math.floor(keep / 100)))
    untrimmed[field] = {by = trim, registry = registry, origin = origin, keep = keep, every = every}
  end
  local follower = rerun and cjson.decode(rerun)
  if follower and follower[1] == id then
    purge(id, origin)
    create(unpack(follower))
    if exec then call('HSET', job, 'exec', exec) end -- the end may be handed in once more
    return
  end
  call('HSET', job, 'status', status, 'ended_at', ISO, 'said', status .. ISO)
  if not exec then call('HSET', job, 'exec', '') end -- what handed nothing in must not pass for recorded
  local score, expiry = until_age(age)
  -- RQ scores canceled jobs by when that was, the others by when they expire.
  gather('ZADD', '@RQ@' .. registry .. ':' .. origin, status == 'canceled' and until_age(0) or score, id)
  call('EXPIRE', job, expiry)
  call('EXPIRE', '@RQ@results:' .. id, expiry)
  if follower then
    call('HDEL', job, 'rerun') -- a retry of this one brings no second
    if call('EXISTS', job_key(follower[1])) == 0 then create(unpack(follower)) end
  end
end

-- Cancel a job: a waiting or delayed one never runs, a running one is told. keep, age: of its queue's failed ones.
-- Returns 'canceled', 'asked' (it runs), 'ended' (too late) or 'missing'.
local function cancel(id, keep, age)
  local job = job_key(id)
  local f = call('HMGET', job, 'status', 'origin', 'run', 'exec', 'rerun')
  if not f[1] then return 'missing' end
  if ENDED[f[1]] then return 'ended' end
  if f[1] == 'started' then
    call('HSET', job, 'cancel', '1')
    return 'asked'
  end
  call('LREM', '@RQ@queue:' .. f[2], 0, id)
  for _, registry in ipairs({'scheduled:', 'deferred:', 'ready:'}) do call('ZREM', '@RQ@' .. registry .. f[2], id) end
  event('canceled', id, f[3], 'queue', f[2])
  follow_up(id, 'canceled', f[3])
  conclude(id, f[2], 'canceled', keep, age, f[4], f[5])
  return 'canceled'
end

-- What a worker holds, an entry `<id>:<exec>` each: its origin, when it started (s), its worker, and flags: shown (RQ's
-- readers see the execution), shared (its worker held others when it was lost).
local function held(entry, value)
  value = value or call('HGET', '@OURS@held', entry)
  if not value then return nil end
  local origin, started, flags, worker = string.match(value, '^(%S+) (%S+) (%S+) (.*)$')
  local run = {origin = origin, started = started, worker = worker}
  if flags ~= '-' then run.shown, run.shared = string.find(flags, 'n'), string.find(flags, 'h') end
  return run
end

local function note(entry, run)
  local flags = run.shown and (run.shared and 'nh' or 'n') or run.shared and 'h' or '-'
  gather('HSET', '@OURS@held', entry, run.origin .. ' ' .. run.started .. ' ' .. flags .. ' ' .. run.worker)
end

-- Take a run off its worker: nothing of the execution is left but what the job's hash says, once flush has run.
local function release(entry, run)
  gather('ZREM', '@RQ@wip:' .. run.origin, entry)
  gather('ZREM', '@OURS@leases', entry)
  gather('HDEL', '@OURS@held', entry)
  if not run.shown then return end
  local id, exec = string.match(entry, '^([^:]*):(.*)$')
  gather('SREM', '@RQ@worker:' .. run.worker .. ':executions', entry)
  call('DEL', '@RQ@execution:' .. entry)
  call('ZREM', '@RQ@executions:' .. id, exec)
end

-- Clear away an execution whose job is no longer its own: deleted or moved by stock tools, or run by another by now.
local function forsake(entry, run)
  if run then release(entry, run) else gather('ZREM', '@OURS@leases', entry) end
end

-- The server's time as RQ writes it in results.
local SECONDS = string.format('%.3f', NOW / 1000)

-- One entry of the job's attempt history, of which the last ten are kept, in RQ's result format (rq/results.py); RQ's
-- types: 1 successful, 2 failed.
local function record(id, kind, worker, field, value, exec, started, attempt)
  local results = '@RQ@results:' .. id
  call('XADD', results, '*', 'type', kind, 'worker_name', worker, field, value,
    'execution_id', exec, 'execution_started_at', started, 'execution_ended_at', SECONDS)
  if tonumber(attempt) > 10 then call('XTRIM', results, 'MAXLEN', '10') end
end

-- Count that a job ended the process it ran in; returns whether that makes it poison, which no attempt runs again.
local function is_poison(id) return call('HINCRBY', job_key(id), 'crashes', '1') >= 3 end

-- What every script does last: the loader calls it.
local function settle()
  local is_time = false
  flush()
  for field, n in pairs(totals) do
    local sum, one = call('HINCRBY', '@OURS@totals', field, n), untrimmed[field]
    if one and sum % one.every < n then one.by(one.registry, one.origin, one.keep, 100 + 10 * one.every + n) end
    is_time = is_time or sum % 20 < n
  end
  -- To look whether the events are too many is worth it each twentieth time, where times are counted.
  if (is_time or next(totals) == nil) and has_said and not is_recorded() then call('XTRIM', '@OURS@events', 'MAXLEN', '~', '@EVENTS@') end
end
