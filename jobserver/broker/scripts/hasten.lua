-- Put a delayed job, or one that waits for its next attempt, into line now.
-- ARGV: id. Returns 'promoted', the status that forbids it, or 'missing'.
local id = ARGV[1]
local job = job_key(id)
local f = call('HMGET', job, 'status', 'origin', 'run')
if not f[1] then return 'missing' end
if f[1] ~= 'scheduled' or call('ZREM', '@RQ@scheduled:' .. f[2], id) == 0 then return f[1] end
call('HDEL', job, 'due')
call('HSET', job, 'status', 'queued', 'enqueued_at', ISO)
push(id, f[2])
event('queued', id, f[3], 'queue', f[2], 'reason', 'promoted')
return 'promoted'
