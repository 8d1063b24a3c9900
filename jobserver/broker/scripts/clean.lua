-- Purge ended jobs of a queue. ARGV: queue, older_than_ms, limit, reason (retention, which is not told of those that go
-- by count, or clean: an operator wants them gone), then registries (finished, failed, canceled).
-- Returns how many; fewer than limit means that none is left.
local purged, limit = 0, tonumber(ARGV[3])

local function text(ms) return iso(math.floor(ms / 1000), ms % 1000 * 1000 + 999) end

-- RQ's text of a time, as ours, sorts like the time. RQ sets none when it gives a job of a dead worker up.
local function ended_at(id)
  local noted = call('HGET', job_key(id), 'ended_at')
  if noted and noted ~= '' then return noted end
  local result = call('XREVRANGE', '@RQ@results:' .. id, '+', '-', 'COUNT', 1)[1]
  return result and text(tonumber(string.match(result[1], '^%d+'))) or ''
end

local cutoff = text(NOW - tonumber(ARGV[2]))
for r = 5, #ARGV do
  for _, origin in ipairs(origins(ARGV[1])) do
    local key = '@RQ@' .. ARGV[r] .. ':' .. origin
    while purged < limit do
      local id = call('ZRANGE', key, 0, 0)[1]
      if not id then break end
      if ended_at(id) > cutoff then break end
      local run = evict(ARGV[r], id, origin)
      if run then event('purged', id, run, 'queue', origin, 'reason', ARGV[4]) end
      purged = purged + 1
    end
  end
end
return purged
