-- Tell which runs are gone: nothing has their job's id, or another run of ours has it. A job that has ended is there, and
-- so is one that stock RQ made, whose hash names no run. ARGV: id and run of each.
-- Returns {the last event's id, runs that are gone}, both of one moment.
call('DEL', '@OURS@none') -- refused by a replica, which may be behind, or empty while it syncs
local gone = {}
for i = 1, #ARGV, 2 do
  local f = call('HMGET', job_key(ARGV[i]), 'status', 'run')
  if not f[1] or f[2] and f[2] ~= ARGV[i + 1] then gone[#gone + 1] = ARGV[i + 1] end
end
return {stream('@OURS@events')['last-generated-id'] or '0-0', gone}
