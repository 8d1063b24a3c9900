-- Remove waiting and delayed jobs of a queue, never a running one. ARGV: queue, limit.
-- Returns how many; fewer than limit means that none is left.
local removed, limit = 0, tonumber(ARGV[2])
for _, origin in ipairs(origins(ARGV[1])) do
  while removed < limit do
    local id = call('LPOP', '@RQ@queue:' .. origin)
    if not id then
      local due = call('ZPOPMIN', '@RQ@scheduled:' .. origin)
      id = due[1]
    end
    if not id then break end
    local f = call('HMGET', job_key(id), 'run', 'status')
    if f[2] == 'queued' or f[2] == 'scheduled' then
      purge(id, origin)
      event('purged', id, f[1], 'queue', origin, 'reason', 'empty')
      removed = removed + 1
    end
  end
end
return removed
