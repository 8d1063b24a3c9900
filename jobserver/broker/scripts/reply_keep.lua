-- End a claim: keep the reply for its repeats, or let the name go. A claim that has lapsed changes nothing.
-- ARGV: name, claim, reply ('' lets go), seconds to keep it. Returns 1 if the claim still stood.
local key = '@OURS@reply:' .. ARGV[1]
if call('HGET', key, 'claim') ~= ARGV[2] then return 0 end
if ARGV[3] == '' then
  call('DEL', key)
else
  call('HSET', key, 'reply', ARGV[3])
  call('EXPIRE', key, ARGV[4])
end
return 1
