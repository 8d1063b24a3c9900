-- Create jobs, each only if no job of its id is active; all in one step.
-- ARGV: call_ttl, count, then per job: id, call, run, type, origin, data, timeout, attempts, due, key, owner,
--       backoff, rate key, when_active, trace. due: '' now, '+ms' from now, or Unix ms. call_ttl: seconds that a call stays
--       answered whatever becomes of its job (0: as long as the job, and ten minutes).
-- Returns per job {answer, run, rq status}: answer 'new', 'duplicate', 'rerun' (noted to follow) or 'conflict' (run: the
-- type that holds the id, '' for a job of stock RQ's); for a duplicate also the hash of the job that is active. A call
-- that is repeated gets its first answer.
local call_ttl, answers, width = tonumber(ARGV[1]), {}, 15

local function remember(call_id, id, answer, ttl)
  call('SET', '@OURS@call:' .. call_id, id .. ' ' .. answer[2] .. ' ' .. answer[1], 'EX', ttl)
end

-- A job's hash as a list; without its data when that is large: a bulk can have many duplicates.
local function as_it_stands(job, data)
  local fields = {}
  local all = call('HGETALL', job)
  for n = 1, #all, 2 do
    if all[n] ~= 'data' or #data <= 65536 then fields[#fields + 1] = all[n]; fields[#fields + 1] = all[n + 1] end
  end
  return fields
end

local refused = refusal()
if refused then return refused end

for n = 0, tonumber(ARGV[2]) - 1 do
  local i = 2 + n * width
  local id, call_id, run, type, origin, when_active = ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5], ARGV[i + 14]
  local job = job_key(id)
  local held = call('HMGET', job, 'status', 'type', 'call', 'run', 'cancel', 'origin', 'data', 'exec')
  local answer
  local seen = call('GET', '@OURS@call:' .. call_id)
  if seen then
    local past, word = string.match(seen, '^%S+ (%S*) (%S+)$')
    answer = {word, past, past == held[4] and held[1] or 'finished'}
  elseif held[3] == call_id then
    answer = {'new', held[4], held[1]}
  end
  local is_active = held[1] and not ENDED[held[1]]
  if answer then
    -- A repeat, whatever has become of the job since.
  elseif held[1] and held[2] ~= type and (held[2] or is_active) then
    answer = {'conflict', held[2] or '', held[1]}
  elseif is_active then
    local differs = held[1] == 'started' or held[7] ~= ARGV[i + 6]
    local is_ending = held[1] == 'started' and held[5]
    if is_ending or when_active == 'rerun' and differs then
      local noted = call('HGET', job, 'rerun')
      local again = {unpack(ARGV, i + 1, i + 15)}
      -- One run follows, whoever asked: of several payloads the last is what must not be lost.
      if noted then again[3] = cjson.decode(noted)[3] end
      if string.sub(again[9], 1, 1) == '+' then again[9] = string.format('%.0f', NOW + tonumber(again[9])) end
      if not noted or when_active == 'rerun' then call('HSET', job, 'rerun', cjson.encode(again)) end
      answer = {noted and when_active ~= 'rerun' and 'duplicate' or 'rerun', again[3], held[1]}
    else
      answer = {'duplicate', held[4] or '', held[1], as_it_stands(job, held[7] or '')}
    end
    remember(call_id, id, answer, 600)
    count(origin, 'deduplicated')
  else
    -- Whatever is left of an earlier job of this id would be read as the new one's, and would expire it.
    if held[1] or held[6] then purge(id, held[6] or origin) else call('DEL', job, '@RQ@results:' .. id, '@RQ@executions:' .. id) end
    create(unpack(ARGV, i + 1, i + 15))
    if held[8] then call('HSET', job, 'exec', held[8]) end -- that end may be handed in once more
    answer = {'new', run, ARGV[i + 9] == '' and 'queued' or call('HGET', job, 'status')}
  end
  if call_ttl > 0 and answer[1] ~= 'conflict' then remember(call_id, id, answer, call_ttl) end
  answers[#answers + 1] = answer
end
return answers
