-- Move delayed jobs and retries that are due to the end of their lists.
-- ARGV: limit per list, then RQ queue names.
-- Returns {moved, Unix ms of the next due one or ''}.
local moved, upcoming = 0, nil
for i = 2, #ARGV do
  local origin = ARGV[i]
  local scheduled = '@RQ@scheduled:' .. origin
  for _, id in ipairs(call('ZRANGEBYSCORE', scheduled, 0, NOW / 1000, 'LIMIT', 0, tonumber(ARGV[1]))) do
    call('ZREM', scheduled, id)
    local job = job_key(id)
    local f = call('HMGET', job, 'status', 'run')
    if f[1] == 'scheduled' then
      call('HSET', job, 'status', 'queued', 'enqueued_at', ISO)
      push(id, origin)
      event('queued', id, f[2], 'queue', origin, 'reason', 'due')
      moved = moved + 1
    end
  end
  local head = call('ZRANGE', scheduled, 0, 0, 'WITHSCORES')
  if head[2] and (not upcoming or tonumber(head[2]) < upcoming) then upcoming = tonumber(head[2]) end
end
return {moved, upcoming and string.format('%.0f', upcoming * 1000) or ''}
