-- Keep lines that a run logged, the last ones of all, and tell them to the events.
-- ARGV: id, run, how many were dropped before these, most lines, most bytes, ttl (s), then the lines (JSON).
-- Lines are numbered from 1 within a run; the hash counts them. Returns 1, or 0 when the job is gone or runs anew.
local id, run, dropped = ARGV[1], ARGV[2], tonumber(ARGV[3])
local most, room, ttl, lines = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6], #ARGV - 6
local job, key = job_key(id), '@OURS@log:' .. run
local f = call('HMGET', job, 'run', 'origin')
if f[1] ~= run then return 0 end

local last = call('HINCRBY', job, 'logged', dropped + lines)
call('RPUSH', key, unpack(ARGV, 7))
local all, kept = call('LRANGE', key, 0, -1), 0
while kept < math.min(most, #all) do
  room = room - #all[#all - kept]
  if room < 0 and kept > 0 then break end
  kept = kept + 1
end
call('LTRIM', key, -kept, -1)
call('EXPIRE', key, ttl)
event('log', id, run, 'queue', f[2], 'first', last - lines + 1, 'oldest', last - kept + 1,
  'lines', '[' .. table.concat(ARGV, ',', 7) .. ']')
return 1
