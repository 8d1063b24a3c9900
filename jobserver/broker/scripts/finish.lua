-- Record how runs ended; each only while the run still is the one its worker holds.
-- ARGV: worker, count, then per run: id, exec, outcome, value, delay_ms, error type, error message, reason,
--       completed count, completed age, failed count, failed age.
-- outcome: completed, failed, retry, snooze, limited (a snooze that holds back a rate key), release (put back, no
-- attempt spent), canceled.
-- value: the result or the traceback as RQ's result stream wants it (base64), or the rate key ('': the job's own).
-- An error type of ProcessDied counts: the third time the job fails as poison, whatever attempts remain.
-- Returns per run 'ok', 'poison', 'recorded' (this end is known already) or 'lost' (the run is no longer this worker's).
local worker, answers, width = ARGV[1], {}, 12

for n = 0, tonumber(ARGV[2]) - 1 do
  local i = 2 + n * width
  local id, exec, outcome, value, wait = ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], tonumber(ARGV[i + 5])
  local job = job_key(id)
  local f = call('HMGET', job, 'exec', 'origin', 'run', 'attempt', 'started_ms', 'cancel', 'last', 'status', 'rerun')
  if f[1] ~= exec or f[8] ~= 'started' then
    answers[n + 1] = f[7] == exec and 'recorded' or 'lost'
    forsake(id, exec, worker)
  else
    local origin, run, attempt = f[2], f[3], tonumber(f[4])
    local started = f[5]
    local took = string.format('%.0f', NOW - tonumber(started) * 1000)
    local answer, error_type, reason = 'ok', ARGV[i + 6], ARGV[i + 8]
    release(id, origin, exec, worker)
    if outcome == 'limited' then
      local name = value ~= '' and value or call('HGET', job, 'limit')
      if name then hold(name, NOW + wait) end
      outcome = 'snooze'
    end
    if f[6] then outcome = 'canceled' end
    if error_type == 'ProcessDied' and (outcome == 'failed' or outcome == 'retry') and is_poison(id) then
      answer, outcome, error_type, reason = 'poison', 'failed', 'Poison', 'poison'
    end
    if outcome == 'completed' then
      record(id, 1, worker, 'return_value', value, exec, started)
      event('completed', id, run, 'queue', origin, 'attempt', attempt, 'worker', worker, 'ms', took, 'result', #value <= 2048 and value or '')
      conclude(id, origin, 'finished', tonumber(ARGV[i + 9]), tonumber(ARGV[i + 10]), exec, f[9])
    elseif outcome == 'failed' or outcome == 'retry' then
      record(id, 2, worker, 'exc_string', value, exec, started)
      call('HSET', job, 'error_type', error_type, 'error_message', ARGV[i + 7])
      local due = outcome == 'retry' and string.format('%.0f', NOW + wait) or ''
      event('failed', id, run, 'queue', origin, 'attempt', attempt, 'worker', worker, 'ms', took, 'error_type', error_type,
        'error_message', ARGV[i + 7], 'reason', reason, 'retry_at', due)
      if outcome == 'failed' then
        conclude(id, origin, 'failed', tonumber(ARGV[i + 11]), tonumber(ARGV[i + 12]), exec, f[9])
      elseif wait > 0 then
        call('HSET', job, 'status', 'scheduled', 'due', due, 'exec', '', 'last', exec)
        delay(id, origin, NOW + wait)
      else
        call('HSET', job, 'status', 'queued', 'enqueued_at', ISO, 'exec', '', 'last', exec)
        push(id, origin)
      end
    elseif outcome == 'snooze' then
      local due = string.format('%.0f', NOW + wait)
      call('HSET', job, 'status', 'scheduled', 'due', due, 'exec', '', 'last', exec, 'attempt', attempt - 1)
      delay(id, origin, NOW + wait)
      event('delayed', id, run, 'queue', origin, 'attempt', attempt, 'worker', worker, 'ms', took, 'due', due, 'reason', reason)
    elseif outcome == 'release' then
      call('HSET', job, 'status', 'queued', 'enqueued_at', ISO, 'exec', '', 'last', exec, 'attempt', attempt - 1)
      push(id, origin, true)
      event('queued', id, run, 'queue', origin, 'attempt', attempt, 'worker', worker, 'reason', reason)
    else
      event('canceled', id, run, 'queue', origin, 'attempt', attempt, 'worker', worker, 'ms', took)
      conclude(id, origin, 'canceled', tonumber(ARGV[i + 11]), tonumber(ARGV[i + 12]), exec, f[9])
    end
    answers[n + 1] = answer
  end
end
settle()
return answers
