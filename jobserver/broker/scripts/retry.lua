-- Queue failed or canceled jobs again, each with as many more attempts as its type allows.
-- ARGV: attempts, then ids. Returns per job 'retried', the status that forbids it, or 'missing'.
local answers = {}
for i = 2, #ARGV do
  local id = ARGV[i]
  local job = job_key(id)
  local f = call('HMGET', job, 'status', 'origin', 'run', 'attempt')
  if not f[1] then
    answers[#answers + 1] = 'missing'
  elseif ENDED[f[1]] ~= 'failed' and f[1] ~= 'canceled' then
    answers[#answers + 1] = f[1]
  else
    call('ZREM', '@RQ@' .. ENDED[f[1]] .. ':' .. f[2], id)
    call('PERSIST', job)
    call('PERSIST', '@RQ@results:' .. id)
    call('HDEL', job, 'ended_at', 'cancel', 'progress', 'message', 'error_type', 'error_message', 'crashes')
    local attempts = math.min((tonumber(f[4]) or 0) + tonumber(ARGV[1]), 2147483647) -- policy.MOST
    call('HSET', job, 'status', 'queued', 'enqueued_at', ISO, 'attempts', attempts)
    push(id, f[2])
    event('retried', id, f[3], 'queue', f[2], 'attempts', attempts)
    count(f[2], 'retried')
    answers[#answers + 1] = 'retried'
  end
end
return answers
