-- Add or change recurring entries, each only if it still reads as its caller saw it.
-- ARGV: per entry: id, its JSON as it was ('': there was none), its JSON, tick where it stands ('': where it did), when
-- that is due (ms), 'ended' (there is no tick any more) or '', paused: '1', '0' or '' (as it was).
-- Returns how many were not as seen.
local due, differing = '@OURS@due', 0
call('SETRANGE', '@OURS@full', 0, '')
for i = 0, #ARGV - 1, 7 do
  local id, seen, text, tick, at, ended, paused = unpack(ARGV, i + 1, i + 7)
  local state = '@OURS@entry:' .. id
  if (call('HGET', '@OURS@entries', id) or '') ~= seen then
    differing = differing + 1
  else
    call('HSET', '@OURS@entries', id, text)
    if paused == '1' then call('HSET', state, 'paused', ISO) elseif paused == '0' then call('HDEL', state, 'paused') end
    local stands = call('HMGET', state, 'tick', 'due', 'paused')
    -- A tick that is due already stays due, whatever the grid is now.
    if tick ~= '' and not (stands[1] and tonumber(stands[1]) <= NOW) then
      call('HSET', state, 'tick', tick, 'due', at)
      call('HDEL', state, 'ended')
      stands = {tick, at, stands[3]}
    end
    if ended ~= '' then
      call('HSET', state, 'ended', ISO)
      call('HDEL', state, 'tick', 'due')
      stands[1] = false
    end
    if stands[3] or not stands[1] then call('ZREM', due, id) else call('ZADD', due, stands[2], id) end
  end
end
call('RPUSH', '@OURS@wake', 1)
call('LTRIM', '@OURS@wake', -8, -1)
return differing
