-- Create jobs, each only if no job of its id is active; all in one step.
-- ARGV: call_ttl, count, then per job: id, call, run, type, origin, data, timeout, attempts, due, key, owner,
--       backoff, when_active. due: '' now, '+ms' from now, or Unix ms. call_ttl: seconds that a call stays
--       answered whatever becomes of its job (0: as long as the job, and ten minutes).
-- Returns per job {answer, run, rq status}: answer 'new', 'duplicate', 'rerun' (noted to follow) or 'conflict' (run: the
-- type that holds the id).
local call_ttl, answers, width = tonumber(ARGV[1]), {}, 13

for n = 0, tonumber(ARGV[2]) - 1 do
  local i = 2 + n * width
  local id, call_id, run, type, origin, when_active = ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5], ARGV[i + 13]
  local job = job_key(id)
  local held = call('HMGET', job, 'status', 'type', 'call', 'run', 'cancel', 'origin', 'data')
  local answer
  if held[3] == call_id then
    answer = {'new', held[4], held[1]}
  else
    local seen = call('GET', OURS .. 'call:' .. call_id)
    if seen then answer = {'new', string.match(seen, ' (.*)$'), held[1] or 'finished'} end
  end
  if not answer and held[2] and held[2] ~= type then
    answer = {'conflict', held[2], held[1]}
  elseif not answer and held[1] and not ENDED[held[1]] then
    local differs = held[1] == 'started' or held[7] ~= ARGV[i + 6]
    if (held[1] == 'started' and held[5]) or (when_active == 'rerun' and differs) then
      local again = {}
      for field = 1, 12 do again[field] = ARGV[i + field] end
      call('HSET', job, 'rerun', cjson.encode(again))
      answer = {'rerun', run, held[1]}
    else
      answer = {'duplicate', held[4] or '', held[1]}
    end
    call('SET', OURS .. 'call:' .. call_id, id .. ' ' .. answer[2], 'EX', 600)
  elseif not answer then
    if held[6] then purge(id, held[6]) end
    create(unpack(ARGV, i + 1, i + 12))
    answer = {'new', run, ARGV[i + 9] == '' and 'queued' or call('HGET', job, 'status')}
  end
  if call_ttl > 0 then call('SET', OURS .. 'call:' .. call_id, id .. ' ' .. answer[2], 'EX', call_ttl) end
  answers[#answers + 1] = answer
end
return answers
