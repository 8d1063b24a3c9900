-- End a deferred job that can never start, because one that it waits for failed or was canceled.
-- ARGV: id, outcome (failed, canceled), why, failed count, failed age. Returns 1, or 0 when it is deferred no more.
local id, outcome, why = ARGV[1], ARGV[2], ARGV[3]
local job = job_key(id)
local f = call('HMGET', job, 'status', 'origin', 'run')
if f[1] ~= 'deferred' then return 0 end
call('ZREM', '@RQ@deferred:' .. f[2], id)
call('HSET', job, 'error_type', 'DependencyFailed', 'error_message', why)
event(outcome, id, f[3], 'queue', f[2], 'error_type', 'DependencyFailed', 'error_message', why, 'reason', 'dependency', 'retry_at', '')
follow_up(id, outcome, f[3])
conclude(id, f[2], outcome, tonumber(ARGV[4]), tonumber(ARGV[5]))
return 1
