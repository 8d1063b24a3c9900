-- Read the workers that are registered, and what each runs now.
-- Returns per worker {name, its hash, its runs}, per run {id, its type, its queue, its attempt, when it started}.
local answer = {}
for _, key in ipairs(call('SMEMBERS', '@RQ@workers')) do
  local fields, runs = call('HGETALL', key), {}
  for _, entry in ipairs(call('SMEMBERS', key .. ':executions')) do
    local id = string.match(entry, '^[^:]*')
    local f = call('HMGET', job_key(id), 'type', 'origin', 'attempt', 'started_at')
    runs[#runs + 1] = {id, f[1] or '', base(f[2] or ''), f[3] or '', f[4] or ''}
  end
  -- Stock tools leave the names of workers whose hash has expired.
  if #fields > 0 then answer[#answer + 1] = {string.sub(key, #('@RQ@worker:') + 1), fields, runs} end
end
return answer
