-- Hand out ends with which more is to be done (follow_up in _state.lua); those not reported as done come again.
-- ARGV: limit, hold_ms (until an entry comes again), then of entries that are done: entry, its score as handed out.
-- Returns entry, score, entry, score, ...
local key, found = OURS .. 'aftermath', {}
for i = 3, #ARGV, 2 do -- one that ended anew meanwhile has another score, and stays
  if call('ZSCORE', key, ARGV[i]) == ARGV[i + 1] then call('ZREM', key, ARGV[i]) end
end
local till = NOW + tonumber(ARGV[2])
for _, entry in ipairs(call('ZRANGEBYSCORE', key, 0, NOW, 'LIMIT', 0, tonumber(ARGV[1]))) do
  call('ZADD', key, till, entry)
  found[#found + 1] = entry
  found[#found + 1] = call('ZSCORE', key, entry)
end
return found
