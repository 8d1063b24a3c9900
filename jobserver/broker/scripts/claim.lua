-- Hand waiting jobs to a worker, each from its list to RQ's started registry with its lease, in one step.
-- ARGV: worker, request, token (of this life of the worker), lease_ms, free process slots, free thread slots,
--       look (1: also into queues that none of ours has pushed to), queues, then per queue:
--       name, executor (1 process, 2 thread), quota, room (jobs this worker may take), global limit (0: none);
--       then the executions that the worker knows it holds.
-- request grows by one with each new claim of a worker's life. A request that was answered before is a repeat: it
-- takes nothing, and hands out what the worker holds without knowing.
-- Returns per job {id, exec, run, type, data, timeout, attempt, attempts, backoff, origin, started_at, canceled, trace}.
local worker, request, token, lease = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local free, queues, jobs, width = {tonumber(ARGV[5]), tonumber(ARGV[6])}, tonumber(ARGV[8]), {}, 5
local last = OURS .. 'claim:' .. token
local STARTED = string.format('%.3f', NOW / 1000)

local function read(id)
  return call('HMGET', job_key(id), 'run', 'type', 'data', 'timeout', 'attempt', 'attempts', 'backoff', 'cancel', 'status', 'exec',
    'ended_at', 'limit', 'trace')
end

local function row(id, exec, f, attempt, origin, started)
  return {id, exec, f[1] or '', f[2] or '', f[3] or '', f[4] or '', attempt, f[6] or 1, f[7] or '', origin, started, f[8] or '', f[13] or ''}
end

if request <= tonumber(call('GET', last) or -1) then
  local known = {}
  for i = 9 + queues * width, #ARGV do known[ARGV[i]] = true end
  local all = call('HGETALL', OURS .. 'held')
  for i = 1, #all, 2 do
    local id, exec = string.match(all[i], '^([^:]*):(.*)$')
    local is_mine = string.sub(exec, 1, #token) == token
    local f = is_mine and not known[exec] and read(id)
    if f and f[10] == exec and f[9] == 'started' then
      local run = held(all[i], all[i + 1])
      jobs[#jobs + 1] = row(id, exec, f, f[5], run.origin, run.started)
    end
  end
  return jobs
end
call('SET', last, request, 'EX', 86400)

-- A job whose rate key is held back waits for that among the delayed ones; returns whether it does.
local function is_held(id, origin, f)
  local key = limit_key(f[12])
  local till = tonumber(call('HGET', key, 'until') or 0)
  if till <= NOW then return false end
  -- A microsecond apart, so that they come back in this order.
  local due = till + call('HINCRBY', key, 'jobs', 1) / 1000
  call('HSET', job_key(id), 'status', 'scheduled', 'due', string.format('%.0f', due), 'origin', origin)
  delay(id, origin, due)
  event('delayed', id, f[1], 'queue', origin, 'due', string.format('%.0f', due), 'reason', 'rate limited', 'limit', f[12])
  return true
end

-- Start one job of a list; nothing when its entry is stale: the job is gone or lies elsewhere (stock tools can push
-- twice), and is not lost by dropping the entry.
local function start(id, origin)
  local job, f = job_key(id), read(id)
  if f[9] ~= 'queued' then return end
  if not f[3] then -- no payload: nobody can run it, and it must not vanish
    call('HSET', job, 'origin', origin, 'error_type', 'Unreadable', 'error_message', 'the job has no data')
    event('failed', id, f[1], 'queue', origin, 'error_type', 'Unreadable', 'reason', 'unreadable', 'retry_at', '')
    follow_up(id, 'failed', f[1])
    return conclude(id, origin, 'failed', math.huge, 604800) -- how many the queue keeps is not known here
  end
  if f[12] and is_held(id, origin, f) then return end
  local exec, attempt = token .. request .. '-' .. #jobs, (tonumber(f[5]) or 0) + 1
  local entry = id .. ':' .. exec
  if not f[2] then -- made by stock RQ, which counts the attempts that are left
    local left = call('HGET', job, 'retries_left')
    f[6] = f[6] or attempt + (tonumber(left) or 0)
    call('HSET', job, 'attempts', f[6])
    if left then call('HSET', job, 'retries_left', math.max(0, f[6] - attempt)) end
  end
  if attempt > 1 then call('HDEL', job, 'progress', 'message') end
  -- Stock tools requeue ended jobs with the expiry they had, and what plain RQ enqueued may have one from the start.
  if f[11] or not f[1] then call('PERSIST', job) end
  -- The origin: stock tools move jobs between queues.
  call('HSET', job, 'status', 'started', 'started_at', ISO, 'worker_name', worker, 'exec', exec, 'attempt', attempt, 'origin', origin)
  gather('ZADD', RQ .. 'wip:' .. origin, FAR, entry)
  gather('ZADD', OURS .. 'leases', NOW + lease, entry)
  note(entry, {origin = origin, started = STARTED, worker = worker})
  event('claimed', id, f[1], 'queue', origin, 'attempt', attempt, 'worker', worker)
  jobs[#jobs + 1] = row(id, exec, f, attempt, origin, STARTED)
end

local crowded = {} -- queues with more jobs that cannot start than one look takes away

-- Start up to `most` jobs of a list; returns how many. Of jobs that cannot start it takes away a hundred or so: one
-- script must not hold the server for long.
local function take(origin, most)
  local first, looks = #jobs, most + 100
  while #jobs - first < most do
    if looks <= 0 then crowded[base(origin)] = true; break end
    local ids = call('LPOP', RQ .. 'queue:' .. origin, most - (#jobs - first))
    if not ids then break end
    looks = looks - #ids
    for _, id in ipairs(ids) do start(id, origin) end
  end
  return #jobs - first
end

local function running(queue)
  local count = 0
  for _, origin in ipairs(origins(queue)) do count = count + call('ZCARD', RQ .. 'wip:' .. origin) end
  return count
end

local paused = {}
local marks = call('HGETALL', OURS .. 'paused')
for i = 1, #marks, 2 do
  local till = tonumber(string.match(marks[i + 1], '^%d+'))
  if till == 0 or till > NOW then
    paused[marks[i]] = true
  else
    call('HDEL', OURS .. 'paused', marks[i])
    event('resumed', '', '', 'queue', marks[i], 'reason', 'its time was up')
  end
end

if call('EXISTS', RQ .. 'suspended') == 1 then return jobs end -- `rq suspend`

local ready = false -- the queues that have waiting jobs; stock tools, which say nothing, need a look
if ARGV[7] ~= '1' then
  ready = {}
  for _, name in ipairs(call('SMEMBERS', OURS .. 'ready')) do ready[name] = true end
end

local room, dry = {}, {}
for pass = 1, 2 do -- first each queue its share, then whoever has more
  for q = 0, queues - 1 do
    local i = 8 + q * width
    local name, executor, limit = ARGV[i + 1], tonumber(ARGV[i + 2]), tonumber(ARGV[i + 5])
    if not room[q] then
      room[q] = (paused[name] or ready and not ready[name]) and 0 or tonumber(ARGV[i + 4])
      if limit > 0 and room[q] > 0 then room[q] = math.min(room[q], limit - running(name)) end
    end
    local most = pass == 1 and math.min(room[q], tonumber(ARGV[i + 3])) or room[q]
    if not dry[q] and most > 0 and free[executor] > 0 then
      for _, origin in ipairs(origins(name)) do
        local wanted = crowded[name] and 0 or math.min(most, free[executor])
        local taken = wanted > 0 and take(origin, wanted) or 0
        most, room[q], free[executor] = most - taken, room[q] - taken, free[executor] - taken
      end
      if most > 0 and free[executor] > 0 and not crowded[name] then
        dry[q] = true
        call('DEL', OURS .. 'wake:' .. name)
        call('SREM', OURS .. 'ready', name)
      end
    end
  end
end
for name in pairs(crowded) do wake(name) end -- somebody should look on at once
return jobs
