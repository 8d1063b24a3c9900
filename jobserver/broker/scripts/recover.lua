-- Take jobs back whose worker let the lease run out: to the front of their queue, the attempt spent, or failed
-- when it was the last one, or when the job was alone on a lost worker (or ended its own process) three times.
-- ARGV: interval_ms (between two passes), lease_ms, limit, the text 'worker lost' as RQ's result stream wants it,
--       then per queue: name, failed count, failed age.
-- After a gap between passes (the server was away, so no worker could renew) one full lease of grace is given.
-- Returns {id, run, outcome} per job taken back.
local interval, lease, mark = tonumber(ARGV[1]), tonumber(ARGV[2]), '@OURS@recovery'
local past = call('HMGET', mark, 'pass', 'grace')
local grace = tonumber(past[2] or 0)
if past[1] and NOW - tonumber(past[1]) > 2 * interval then grace = NOW + lease end
call('HSET', mark, 'pass', string.format('%.0f', NOW), 'grace', string.format('%.0f', grace))
if NOW < grace then return {} end

local keep = {}
for i = 5, #ARGV, 3 do keep[ARGV[i]] = {tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])} end

-- Whether a lost worker held this run only. Its leases run out one by one: those that are still to come back are told
-- that they were not alone. A worker's name may be used again, so only what this life of it claimed counts.
local function life(exec) return string.match(exec, '^(.-)%d+%-%d+$') end

local everything -- entries with what is held of them, read once
local told = {} -- those of them that are to be told so, unless they come back in this pass
local function was_alone(entry, exec, run)
  if not everything then
    everything = {}
    local all = call('HGETALL', '@OURS@held')
    for i = 1, #all, 2 do everything[all[i]] = held(all[i], all[i + 1]) end
  end
  everything[entry] = nil
  local alone = not run.shared
  for other, its in pairs(everything) do
    if its.worker == run.worker and life(string.match(other, ':(.*)$')) == life(exec) then
      alone = false
      if not its.shared then
        its.shared = true
        told[other] = its
      end
    end
  end
  return alone
end

local taken = {}
for _, entry in ipairs(call('ZRANGEBYSCORE', '@OURS@leases', 0, NOW, 'LIMIT', 0, tonumber(ARGV[3]))) do
  local id, exec = string.match(entry, '^([^:]*):(.*)$')
  local job = job_key(id)
  local f = call('HMGET', job, 'exec', 'origin', 'run', 'attempt', 'attempts', 'cancel', 'status', 'rerun')
  local execution = everything and everything[entry] or held(entry)
  if everything then everything[entry], told[entry] = nil, nil end
  if f[1] ~= exec or f[7] ~= 'started' or not execution then
    forsake(entry, execution)
  else
    local origin, run, attempt, attempts, worker = f[2], f[3], tonumber(f[4]), tonumber(f[5]) or 1, execution.worker
    local kept = keep[base(origin)] or {1000, 604800}
    local outcome = f[6] and 'canceled' or attempt < attempts and 'queued' or 'failed'
    local error_type, reason = 'WorkerLost', 'worker lost'
    if was_alone(entry, exec, execution) and outcome ~= 'canceled' and is_poison(id) then
      outcome, error_type, reason = 'failed', 'Poison', 'poison'
    end
    release(entry, execution)
    call('HSET', job, 'error_type', error_type, 'error_message', 'worker lost')
    event('stalled', id, run, 'queue', origin, 'attempt', attempt, 'worker', worker, 'reason', 'worker lost',
      'ms', string.format('%.0f', NOW - tonumber(execution.started) * 1000))
    record(id, '2', worker, 'exc_string', ARGV[4], exec, execution.started, attempt)
    if outcome == 'queued' then
      call('HSET', job, 'status', 'queued', 'enqueued_at', ISO, 'exec', '')
      push(id, origin, true)
    else
      event(outcome, id, run, 'queue', origin, 'attempt', attempt, 'worker', worker, 'error_type', error_type,
        'error_message', 'worker lost', 'reason', reason, 'retry_at', '')
      follow_up(id, outcome == 'canceled' and 'stopped' or outcome, run)
      conclude(id, origin, outcome, kept[1], kept[2], nil, f[8])
    end
    taken[#taken + 1] = {id, run or '', outcome} -- one that stock RQ made has no run
  end
end
for entry, run in pairs(told) do note(entry, run) end
return taken
