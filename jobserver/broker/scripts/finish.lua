-- Record how runs ended; each only while the run still is the one its worker holds.
-- ARGV: worker, count, then per run: id, exec, outcome, value, delay_ms, error type, error message, reason, exit,
--       completed count, completed age, failed count, failed age.
-- outcome: completed, failed, retry, snooze, limited (a snooze that holds back a rate key), release (put back, no
-- attempt spent), canceled.
-- value: the result or the traceback as RQ's result stream wants it (base64), or the rate key ('': the job's own).
-- exit: `<peak MiB> <how its process ended>`, of either what is known.
-- An error type of ProcessDied counts: the third time the job fails as poison, whatever attempts remain.
-- Returns per run 'ok', 'poison' or 'canceled' (it was recorded as that instead), 'recorded' (this end is known already) or 'lost' (the run is no longer this worker's).
local worker, answers, width = ARGV[1], {}, 13

-- Removes nothing; but after a write that needs no room, a full server lets the others pass.
call('HDEL', OURS .. 'held', '')

local entries = {}
for n = 0, tonumber(ARGV[2]) - 1 do entries[n + 1] = ARGV[3 + n * width] .. ':' .. ARGV[4 + n * width] end
local runs = call('HMGET', OURS .. 'held', unpack(entries))

for n = 0, tonumber(ARGV[2]) - 1 do
  local i = 2 + n * width
  local id, exec, outcome, value, wait = ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], tonumber(ARGV[i + 5])
  local job = job_key(id)
  local f = call('HMGET', job, 'exec', 'status', 'run', 'attempt', 'cancel', 'rerun')
  local entry = entries[n + 1]
  local execution = held(entry, runs[n + 1] or nil)
  if f[1] ~= exec or f[2] ~= 'started' or not execution then
    answers[n + 1] = f[1] == exec and not execution and 'recorded' or 'lost'
    forsake(entry, execution)
  else
    local origin, started, run, attempt = execution.origin, execution.started, f[3], tonumber(f[4])
    local took = string.format('%.0f', NOW - tonumber(started) * 1000)
    local answer, error_type, reason, exit = 'ok', ARGV[i + 6], ARGV[i + 8], ARGV[i + 9]
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
      record(id, 1, worker, 'return_value', value, exec, started)
      event('completed', id, run, 'queue', origin, 'attempt', attempt, 'worker', worker, 'ms', took,
        'result', #value <= 2048 and value or '', unpack(exit ~= '' and {'exit', exit} or {}))
      follow_up(id, 'finished', run)
      conclude(id, origin, 'finished', tonumber(ARGV[i + 10]), tonumber(ARGV[i + 11]), exec, f[6])
    elseif outcome == 'failed' or outcome == 'retry' then
      record(id, 2, worker, 'exc_string', value, exec, started)
      call('HSET', job, 'error_type', error_type, 'error_message', ARGV[i + 7])
      if outcome == 'retry' then count(origin, 'retried') end
      local due = outcome == 'retry' and string.format('%.0f', NOW + wait) or ''
      event('failed', id, run, 'queue', origin, 'attempt', attempt, 'worker', worker, 'ms', took, 'error_type', error_type,
        'error_message', ARGV[i + 7], 'reason', reason, 'retry_at', due, 'traceback', value, 'exit', exit)
      if outcome == 'failed' then
        follow_up(id, 'failed', run)
        conclude(id, origin, 'failed', tonumber(ARGV[i + 12]), tonumber(ARGV[i + 13]), exec, f[6])
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
      follow_up(id, 'stopped', run)
      conclude(id, origin, 'canceled', tonumber(ARGV[i + 12]), tonumber(ARGV[i + 13]), exec, f[6])
    end
    answers[n + 1] = answer
  end
end
return answers
