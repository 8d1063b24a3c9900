-- Read the recurring entries that are due, the longest due first. ARGV: limit.
-- Returns {Unix ms of the server, ms when the next other one is due or '', then per due entry: id, tick where it stands
-- (ms), its JSON}.
local due = '@OURS@due'
local ready = call('ZRANGEBYSCORE', due, '-inf', NOW, 'WITHSCORES', 'LIMIT', 0, tonumber(ARGV[1]))
local coming = call('ZRANGEBYSCORE', due, '(' .. string.format('%.0f', NOW), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
local answer = {string.format('%.0f', NOW), coming[2] and string.format('%.0f', tonumber(coming[2])) or ''}
for i = 1, #ready, 2 do
  local entry = call('HGET', '@OURS@entries', ready[i])
  if entry then
    answer[#answer + 1] = ready[i]
    -- An entry of an earlier release has its time only in the zset.
    answer[#answer + 1] = call('HGET', '@OURS@entry:' .. ready[i], 'tick') or string.format('%.0f', tonumber(ready[i + 1]))
    answer[#answer + 1] = entry
  else
    call('ZREM', due, ready[i])
  end
end
return answer
