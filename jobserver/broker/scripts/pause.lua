-- Pause or resume a queue. ARGV: queue, mark ('' resumes; else '<until Unix ms, 0 for ever> <reason>').
-- Returns 1 if that changed anything.
if ARGV[2] == '' then
  if call('HDEL', '@OURS@paused', ARGV[1]) == 0 then return 0 end
  for _ = 1, 8 do wake(ARGV[1]) end
  event('resumed', '', '', 'queue', ARGV[1])
  return 1
end
local added = call('HSET', '@OURS@paused', ARGV[1], ARGV[2])
event('paused', '', '', 'queue', ARGV[1], 'reason', ARGV[2])
return added
