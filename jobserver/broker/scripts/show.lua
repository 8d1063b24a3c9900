-- Show RQ's readers the executions of runs that a worker holds: those that last. The others are over before anyone looks.
-- ARGV: worker, then entries (job:exec).
local worker = ARGV[1]
for i = 2, #ARGV do
  local entry = ARGV[i]
  local id, exec = string.match(entry, '^([^:]*):(.*)$')
  local run = held(entry)
  if run and not run.shown then
    run.shown = true
    note(entry, run)
    call('HSET', '@RQ@execution:' .. entry, 'id', exec, 'job_id', id, 'created_at', run.started,
      'last_heartbeat', run.started, 'worker_name', worker, 'origin', run.origin)
    call('ZADD', '@RQ@executions:' .. id, FAR, exec)
    gather('SADD', '@RQ@worker:' .. worker .. ':executions', entry)
  end
end
