-- Put recurring entries off that can't be fired, with the reason; they stay at their tick.
-- ARGV: ms, then per entry: id, tick where it stands, reason.
for i = 1, #ARGV - 1, 3 do
  local state = '@OURS@entry:' .. ARGV[i + 1]
  local score = call('ZSCORE', '@OURS@due', ARGV[i + 1])
  local stands = call('HGET', state, 'tick') or score
  if score and stands == ARGV[i + 2] then
    call('HSET', state, 'tick', stands, 'parked', ARGV[i + 3])
    call('HSETNX', state, 'due', score)
    call('ZADD', '@OURS@due', 'XX', NOW + tonumber(ARGV[1]), ARGV[i + 1])
  end
end
