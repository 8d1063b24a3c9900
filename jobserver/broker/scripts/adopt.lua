-- Give runs that have lost their lease one that has run out, so that recovery takes them back; what is left of runs
-- that are over is cleared away. ARGV: limit, queues. Returns {how many were given a lease, how many cleared away}.
local limit, adopted, cleared = tonumber(ARGV[1]), 0, 0

local function adopt(entry, origin)
  if call('ZSCORE', '@OURS@leases', entry) or adopted + cleared >= limit then return end
  local id, exec = string.match(entry, '^([^:]*):(.*)$')
  local f = call('HMGET', job_key(id), 'exec', 'status', 'worker_name')
  local run = held(entry) or {origin = origin, started = string.format('%.3f', NOW / 1000), worker = f[3] or '-'}
  if f[1] == exec and f[2] == 'started' then
    note(entry, run)
    gather('ZADD', '@OURS@leases', NOW, entry)
    adopted = adopted + 1
  else
    release(entry, run)
    cleared = cleared + 1
  end
  flush() -- another list may name it too
end

for i = 2, #ARGV do
  for _, origin in ipairs(origins(ARGV[i])) do
    for _, entry in ipairs(call('ZRANGEBYSCORE', '@RQ@wip:' .. origin, FAR, '+inf')) do adopt(entry, origin) end
  end
end
local all = call('HGETALL', '@OURS@held')
for i = 1, #all, 2 do adopt(all[i], held(all[i], all[i + 1]).origin) end
return {adopted, cleared}
