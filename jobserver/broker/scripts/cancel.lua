-- Cancel a job: a waiting or delayed one never runs, a running one is told.
-- ARGV: id, failed count, failed age. Returns 'canceled', 'asked' (it runs), 'ended' (too late) or 'missing'.
local id = ARGV[1]
local job = job_key(id)
local f = call('HMGET', job, 'status', 'origin', 'run', 'exec', 'rerun')
if not f[1] then return 'missing' end
if ENDED[f[1]] then return 'ended' end
if f[1] == 'started' then
  call('HSET', job, 'cancel', 1)
  return 'asked'
end
call('LREM', RQ .. 'queue:' .. f[2], 0, id)
for _, registry in ipairs({'scheduled:', 'deferred:', 'ready:'}) do call('ZREM', RQ .. registry .. f[2], id) end
event('canceled', id, f[3], 'queue', f[2])
follow_up(id, 'canceled', f[3])
conclude(id, f[2], 'canceled', tonumber(ARGV[2]), tonumber(ARGV[3]), f[4], f[5])
return 'canceled'
