-- What a worker has to say: first how runs ended, then, if it asks, hand it waiting jobs, each from its list to RQ's
-- started registry with its lease. One step for each; that the second failed takes nothing of the first back.
-- ARGV: worker, queues whose runs ended, then per queue: completed count, completed age, failed count, failed age;
--       count, then per run that ended: id, exec, outcome, value, exit, its queue (its number in the above), and but
--       for completed ones: delay_ms, error type, error message, reason;
--       then, if it asks: request, token (of this life of the worker), lease_ms, free process slots, free thread slots,
--       look (1: also into queues that none of ours has pushed to), queues, then per queue: name, executor (1 process,
--       2 thread), quota, room (jobs this worker may take), global limit (0: none); then the executions that the worker
--       knows it holds.
-- Returns {per run that ended 'ok', 'poison' or 'canceled' (it was recorded as that instead), 'recorded' (this end is
-- known already) or 'lost' (the run is no longer this worker's)} and {per job started {id, exec, run, type, data,
-- timeout, attempt, attempts, backoff, origin, started_at, canceled, trace}}, or the error of that part.
local worker = ARGV[1]

-- Record how runs ended, from a place in ARGV on; each only while the run still is the one its worker holds.
-- outcome: completed, failed, retry, snooze, limited (a snooze that holds back a rate key), release (put back, no
-- attempt spent), canceled.
-- value: the result or the traceback as RQ's result stream wants it (base64), or the rate key ('': the job's own).
-- exit: `<peak MiB> <how its process ended>`, of either what is known.
-- An error type of ProcessDied counts: the third time the job fails as poison, whatever attempts remain.
local function finish(first)
  local answers, entries, places, jobs, i = {}, {}, {}, {}, first + 1
  for n = 1, tonumber(ARGV[first]) do
    entries[n], places[n], jobs[n] = ARGV[i] .. ':' .. ARGV[i + 1], i, job_key(ARGV[i])
    i = i + (ARGV[i + 2] == 'completed' and 6 or 10)
  end
  if not entries[1] then return answers end
  local runs = call('HMGET', '@OURS@held', unpack(entries))
  local awaited = {}
  for n = 1, #jobs do awaited[n] = jobs[n] .. ':dependents' end
  local is_awaited = call('EXISTS', unpack(awaited)) > 0
  for n, entry in ipairs(entries) do
    local p, job, execution = places[n], jobs[n], held(entry, runs[n] or nil)
    local id, exec, outcome, value = ARGV[p], ARGV[p + 1], ARGV[p + 2], ARGV[p + 3]
    local f = call('HMGET', job, 'exec', 'status', 'run', 'attempt', 'cancel', 'rerun')
    if f[1] ~= exec or f[2] ~= 'started' or not execution then
      answers[n] = f[1] == exec and not execution and 'recorded' or 'lost'
      forsake(entry, execution)
    else
      local origin, started, run, attempt = execution.origin, execution.started, f[3], f[4]
      local took, kept = string.format('%.0f', NOW - started * 1000), 4 * ARGV[p + 5] - 1
      local exit, wait, error_type, message, reason, answer = ARGV[p + 4], 0, '', '', '', 'ok'
      if outcome ~= 'completed' then
        wait, error_type, message, reason = tonumber(ARGV[p + 6]), ARGV[p + 7], ARGV[p + 8], ARGV[p + 9]
      end
      release(entry, execution)
      if outcome == 'limited' then
        local name = value ~= '' and value or call('HGET', job, 'limit')
        if name then hold(name, NOW + wait) end
        outcome = 'snooze'
      end
      if f[5] and outcome ~= 'canceled' then answer, outcome = 'canceled', 'canceled' end
      if error_type == 'ProcessDied' and (outcome == 'failed' or outcome == 'retry') and is_poison(id) then
        answer, outcome, error_type, reason = 'poison', 'failed', 'Poison', 'poison'
      end
      if outcome == 'completed' then
        record(id, '1', worker, 'return_value', value, exec, started, attempt)
        local result = #value <= 2048 and value or ''
        if exit == '' then
          event('completed', id, run, 'queue', origin, 'attempt', attempt, 'worker', worker, 'ms', took, 'result', result)
        else
          event('completed', id, run, 'queue', origin, 'attempt', attempt, 'worker', worker, 'ms', took, 'result', result,
            'exit', exit)
        end
        follow_up(id, 'finished', run, is_awaited)
        conclude(id, origin, 'finished', tonumber(ARGV[kept]), ARGV[kept + 1], exec, f[6])
      elseif outcome == 'failed' or outcome == 'retry' then
        record(id, '2', worker, 'exc_string', value, exec, started, attempt)
        call('HSET', job, 'error_type', error_type, 'error_message', message)
        if outcome == 'retry' then count(origin, 'retried') end
        local due = outcome == 'retry' and string.format('%.0f', NOW + wait) or ''
        event('failed', id, run, 'queue', origin, 'attempt', attempt, 'worker', worker, 'ms', took, 'error_type', error_type,
          'error_message', message, 'reason', reason, 'retry_at', due, 'traceback', value, 'exit', exit)
        if outcome == 'failed' then
          follow_up(id, 'failed', run, is_awaited)
          conclude(id, origin, 'failed', tonumber(ARGV[kept + 2]), ARGV[kept + 3], exec, f[6])
        elseif wait > 0 then
          call('HSET', job, 'status', 'scheduled', 'due', due)
          delay(id, origin, NOW + wait)
        else
          call('HSET', job, 'status', 'queued', 'enqueued_at', ISO)
          push(id, origin)
        end
      elseif outcome == 'snooze' then
        local due = string.format('%.0f', NOW + wait)
        call('HSET', job, 'status', 'scheduled', 'due', due, 'attempt', attempt - 1)
        delay(id, origin, NOW + wait)
        event('delayed', id, run, 'queue', origin, 'attempt', attempt, 'worker', worker, 'ms', took, 'due', due, 'reason', reason)
      elseif outcome == 'release' then
        call('HSET', job, 'status', 'queued', 'enqueued_at', ISO, 'attempt', attempt - 1)
        push(id, origin, true)
        event('queued', id, run, 'queue', origin, 'attempt', attempt, 'worker', worker, 'reason', reason)
      else
        event('canceled', id, run, 'queue', origin, 'attempt', attempt, 'worker', worker, 'ms', took, 'reason', reason, 'exit', exit)
        follow_up(id, 'stopped', run, is_awaited)
        conclude(id, origin, 'canceled', tonumber(ARGV[kept + 2]), ARGV[kept + 3], exec, f[6])
      end
      answers[n] = answer
    end
  end
  return answers
end

-- Start waiting jobs, as asked from a place in ARGV on; answered: the request before, or false.
-- request grows by one with each new claim of a worker's life. A request that was answered before is a repeat: it
-- takes nothing, and hands out what the worker holds without knowing.
local function claim(first, answered)
  local request, token, jobs, width = tonumber(ARGV[first]), ARGV[first + 1], {}, 5
  local free, queues = {tonumber(ARGV[first + 3]), tonumber(ARGV[first + 4])}, tonumber(ARGV[first + 6])
  local due, started = string.format('%.0f', NOW + ARGV[first + 2]), string.format('%.3f', NOW / 1000)

  local function read(id)
    return call('HMGET', job_key(id), 'run', 'type', 'data', 'timeout', 'attempt', 'attempts', 'backoff', 'cancel', 'status', 'exec',
      'ended_at', 'limit', 'trace')
  end

  local function row(id, exec, f, attempt, origin, since)
    return {id, exec, f[1] or '', f[2] or '', f[3] or '', f[4] or '', attempt, f[6] or '1', f[7] or '', origin, since, f[8] or '', f[13] or ''}
  end

  if answered and request <= tonumber(answered) then
    call('SET', '@OURS@claim:' .. token, answered, 'EX', '86400')
    local known = {}
    for i = first + 7 + queues * width, #ARGV do known[ARGV[i]] = true end
    local all = call('HGETALL', '@OURS@held')
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

  -- A job whose rate key is held back waits for that among the delayed ones; returns whether it does.
  local function is_held(id, origin, f)
    local key = limit_key(f[12])
    local till = tonumber(call('HGET', key, 'until') or 0)
    if till <= NOW then return false end
    -- A microsecond apart, so that they come back in this order.
    local back = till + call('HINCRBY', key, 'jobs', 1) / 1000
    call('HSET', job_key(id), 'status', 'scheduled', 'due', string.format('%.0f', back), 'origin', origin)
    delay(id, origin, back)
    event('delayed', id, f[1], 'queue', origin, 'due', string.format('%.0f', back), 'reason', 'rate limited', 'limit', f[12])
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
    local exec, attempt = token .. request .. '-' .. #jobs, string.format('%d', (tonumber(f[5]) or 0) + 1)
    local entry = id .. ':' .. exec
    if not f[2] then -- made by stock RQ, which counts the attempts that are left
      local left = call('HGET', job, 'retries_left')
      f[6] = f[6] or attempt + (tonumber(left) or 0)
      call('HSET', job, 'attempts', f[6])
      if left then call('HSET', job, 'retries_left', math.max(0, f[6] - attempt)) end
    end
    if attempt ~= '1' then call('HDEL', job, 'progress', 'message') end
    -- Stock tools requeue ended jobs with the expiry they had, and what plain RQ enqueued may have one from the start.
    if f[11] or not f[1] then call('PERSIST', job) end
    -- The origin: stock tools move jobs between queues.
    call('HSET', job, 'status', 'started', 'started_at', ISO, 'worker_name', worker, 'exec', exec, 'attempt', attempt, 'origin', origin)
    gather('ZADD', '@RQ@wip:' .. origin, FAR, entry)
    gather('ZADD', '@OURS@leases', due, entry)
    note(entry, {origin = origin, started = started, worker = worker})
    event('claimed', id, f[1], 'queue', origin, 'attempt', attempt, 'worker', worker)
    jobs[#jobs + 1] = row(id, exec, f, attempt, origin, started)
  end

  local crowded = {} -- queues with more jobs that cannot start than one look takes away

  -- Start up to `most` jobs of a list; returns how many. Of jobs that cannot start it takes away a hundred or so: one
  -- script must not hold the server for long.
  local function take(origin, most)
    local before, looks = #jobs, most + 100
    while #jobs - before < most do
      if looks <= 0 then crowded[base(origin)] = true; break end
      local ids = call('LPOP', '@RQ@queue:' .. origin, most - (#jobs - before))
      if not ids then break end
      looks = looks - #ids
      for _, id in ipairs(ids) do start(id, origin) end
    end
    return #jobs - before
  end

  local function running(queue)
    local sum = 0
    for _, origin in ipairs(origins(queue)) do sum = sum + call('ZCARD', '@RQ@wip:' .. origin) end
    return sum
  end

  local paused = {}
  if call('EXISTS', '@OURS@paused', '@RQ@suspended') > 0 then
    local marks = call('HGETALL', '@OURS@paused')
    for i = 1, #marks, 2 do
      local till = tonumber(string.match(marks[i + 1], '^%d+'))
      if till == 0 or till > NOW then
        paused[marks[i]] = true
      else
        call('HDEL', '@OURS@paused', marks[i])
        event('resumed', '', '', 'queue', marks[i], 'reason', 'its time was up')
      end
    end
    if call('EXISTS', '@RQ@suspended') == 1 then return jobs end -- `rq suspend`
  end

  local ready = false -- the queues that have waiting jobs; stock tools, which say nothing, need a look
  if ARGV[first + 5] ~= '1' and queues > 1 then
    ready = {}
    for _, name in ipairs(call('SMEMBERS', '@OURS@ready')) do ready[name] = true end
  end

  local room, dry = {}, {}
  for pass = 1, 2 do -- first each queue its share, then whoever has more
    for q = 0, queues - 1 do
      local i = first + 7 + q * width
      local name, executor, limit = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 4])
      if not room[q] then
        room[q] = (paused[name] or ready and not ready[name]) and 0 or tonumber(ARGV[i + 3])
        if limit > 0 and room[q] > 0 then room[q] = math.min(room[q], limit - running(name)) end
      end
      local most = pass == 1 and math.min(room[q], tonumber(ARGV[i + 2])) or room[q]
      if not dry[q] and most > 0 and free[executor] > 0 then
        for _, origin in ipairs(origins(name)) do
          local wanted = crowded[name] and 0 or math.min(most, free[executor])
          local taken = wanted > 0 and take(origin, wanted) or 0
          most, room[q], free[executor] = most - taken, room[q] - taken, free[executor] - taken
        end
        if most > 0 and free[executor] > 0 and not crowded[name] then
          dry[q] = true
          call('DEL', '@OURS@wake:' .. name)
          call('SREM', '@OURS@ready', name)
        end
      end
    end
  end
  for name in pairs(crowded) do wake(name) end -- somebody should look on at once
  return jobs
end

-- Where the claim begins: after the ends, whose number stands behind what their queues keep.
local ends = 3 + 4 * ARGV[2]
local rest = ends + 1
for _ = 1, tonumber(ARGV[ends]) do rest = rest + (ARGV[rest + 2] == 'completed' and 6 or 10) end

-- The first write, which a full server refuses. After one that needs no room, as the other is (it removes nothing), it
-- lets everything pass: so ends are recorded, and claims are not.
local answered = ARGV[rest] and redis.pcall('SET', '@OURS@claim:' .. ARGV[rest + 1], ARGV[rest], 'EX', '86400', 'GET')
local refused = type(answered) == 'table' and answered
if refused or not ARGV[rest] then call('HDEL', '@OURS@held', '') end
if refused then -- but a repeat takes nothing new
  answered = call('GET', '@OURS@claim:' .. ARGV[rest + 1])
  if answered and tonumber(ARGV[rest]) <= tonumber(answered) then refused = false end
end

local words = finish(ends)
if refused or not ARGV[rest] then return {words, refused or {}} end
flush() -- what has ended leaves its room to others
local is_done, claims = pcall(claim, rest, answered)
if not is_done then claims = redis.error_reply(type(claims) == 'table' and claims.err or tostring(claims)) end
return {words, claims}
