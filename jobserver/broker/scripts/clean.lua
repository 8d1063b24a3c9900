-- Purge ended jobs of a queue. ARGV: queue, older_than_ms, limit, then registries (finished, failed, canceled).
-- Returns how many; fewer than limit means that none is left.
local purged, cutoff, limit = 0, NOW - tonumber(ARGV[2]), tonumber(ARGV[3])
for r = 4, #ARGV do
  for _, origin in ipairs(origins(ARGV[1])) do
    local key = RQ .. ARGV[r] .. ':' .. origin
    while purged < limit do
      local id = call('ZRANGE', key, 0, 0)[1]
      if not id then break end
      local run = call('HGET', job_key(id), 'run')
      local result = call('XREVRANGE', RQ .. 'results:' .. id, '+', '-', 'COUNT', 1)[1]
      local score = tonumber(call('ZSCORE', key, id)) * 1000
      local ended = ARGV[r] == 'canceled' and score or result and tonumber(string.match(result[1], '^%d+')) or 0
      if ended > cutoff then break end
      purge(id, origin)
      event('purged', id, run, 'queue', origin)
      purged = purged + 1
    end
  end
end
return purged
