-- Pause or resume a recurring entry. ARGV: id, '1' (pause) or '0'. What falls due meanwhile counts as missed.
-- Returns whether that changed it: 1, 0, or -1 when there is no such entry.
local id, state = ARGV[1], '@OURS@entry:' .. ARGV[1]
if call('HEXISTS', '@OURS@entries', id) == 0 then return -1 end
local due = call('ZSCORE', '@OURS@due', id)
if ARGV[2] == '1' then
  if due then call('HSETNX', state, 'due', due); call('HSETNX', state, 'tick', due) end -- of an earlier release
  call('ZREM', '@OURS@due', id)
  return call('HSETNX', state, 'paused', ISO)
end
local at = call('HGET', state, 'due')
if at then call('ZADD', '@OURS@due', at, id) end
call('RPUSH', '@OURS@wake', 1)
call('LTRIM', '@OURS@wake', -8, -1)
return call('HDEL', state, 'paused')
