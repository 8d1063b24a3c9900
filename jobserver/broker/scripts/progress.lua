-- Note how far a run is. ARGV: id, exec, percent, message.
-- Returns 'ok', 'canceled' (the run should stop) or 'lost' (it is no longer this worker's).
local job = job_key(ARGV[1])
local f = call('HMGET', job, 'exec', 'cancel', 'run', 'progress', 'origin', 'status')
if f[1] ~= ARGV[2] or f[6] ~= 'started' then return 'lost' end
local percent = f[4] and tonumber(f[4]) > tonumber(ARGV[3]) and f[4] or ARGV[3]
call('HSET', job, 'progress', percent, 'message', ARGV[4])
event('progress', ARGV[1], f[3], 'queue', f[5], 'percent', percent, 'message', ARGV[4])
return f[2] and 'canceled' or 'ok'
