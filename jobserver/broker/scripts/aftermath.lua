-- Hand out ends with which more is to be done (follow_up in _state.lua); those not reported as done come again.
-- ARGV: limit, hold_ms (until an entry comes again), then of entries that were handed out: entry, its mark (its score),
-- and '' when it is done, else in how many ms it comes again.
-- Returns entry, mark, entry, mark, ...: first those that come again later than before, then more to do.
local key, found = '@OURS@aftermath', {}

local function hand_out(entry, hold)
  call('ZADD', key, NOW + tonumber(hold), entry)
  found[#found + 1] = entry
  found[#found + 1] = call('ZSCORE', key, entry)
end

for i = 3, #ARGV, 3 do -- one that ended anew meanwhile has another mark, and stays
  if call('ZSCORE', key, ARGV[i]) == ARGV[i + 1] then
    if ARGV[i + 2] == '' then call('ZREM', key, ARGV[i]) else hand_out(ARGV[i], ARGV[i + 2]) end
  end
end
for _, entry in ipairs(call('ZRANGEBYSCORE', key, 0, NOW, 'LIMIT', 0, tonumber(ARGV[1]))) do hand_out(entry, ARGV[2]) end
return found
