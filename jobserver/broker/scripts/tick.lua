-- Fire recurring entries: make the job of a tick, or drop it, and set where the entry stands then; all in one step, so
-- that a tick happens once, however many schedulers try it and wherever one of them dies. Times are Unix ms.
-- ARGV: count, then per tick: entry, tick where it stands ('': fired by hand, it stays there), tick to fire ('': none),
-- how many before that are given up, tick where it stands then ('': there is none), when that is due, overlap, most jobs
-- that it makes in all (0: no end), failed count and age of its queue, and the job as for enqueue.lua.
-- Returns per tick {answer, job}: 'made', 'noted' (it follows the job, which runs), 'skipped' (the job is active),
-- 'missed' (none was to be fired) or 'passed' (another scheduler was first, or the entry is paused, gone, at its end);
-- and, where it canceled the job before, that job.
local due, width, answers = '@OURS@due', 25, {}

-- Fails on a full server, before anything is written.
call('SETRANGE', '@OURS@full', 0, '')

-- The last ticks of an entry, the latest first: `<tick ms> <what became of it> <how many> <job> <now ms>`.
local function log(entry, tick, word, number, id)
  local ticks = '@OURS@ticks:' .. entry
  call('LPUSH', ticks, tick .. ' ' .. word .. ' ' .. number .. ' ' .. id .. ' ' .. string.format('%.0f', NOW))
  call('LTRIM', ticks, 0, 19)
end

-- The job of an entry that is active: its id and RQ's status, 'noted' while it waits for another to end. Or nil.
local function active(last, before)
  if not last then return nil end
  local status = call('HGET', job_key(last), 'status')
  if status then
    if not ENDED[status] then return last, status end
  elseif before then
    status = call('HGET', job_key(before), 'status')
    if status and not ENDED[status] then return before, 'noted' end
  end
end

local function fire(state, f, i)
  local overlap, id = ARGV[i + 7], ARGV[i + 11]
  local last, status = active(f[2] or nil, f[3] or nil)
  if last and overlap == 'skip' or overlap == 'queue_one' and last and status ~= 'started' then return {'skipped', last} end
  if last and overlap == 'queue_one' then
    call('HSET', job_key(last), 'rerun', cjson.encode({unpack(ARGV, i + 11, i + 25)}))
    call('HSET', state, 'job', id, 'after', last)
    return {'noted', last}
  end
  local canceled
  if last and overlap == 'cancel_previous' and cancel(last, tonumber(ARGV[i + 9]), tonumber(ARGV[i + 10])) == 'canceled' then
    canceled = last
  end
  -- The entries may have been lost and made anew, but not the jobs of their last ticks.
  if call('EXISTS', job_key(id)) == 0 then create(unpack(ARGV, i + 11, i + 25)) end
  call('HSET', state, 'job', id)
  call('HDEL', state, 'after')
  return {'made', id, canceled}
end

local refused = refusal()
if refused then return refused end

for n = 0, tonumber(ARGV[1]) - 1 do
  local i = 1 + n * width
  local entry, stands, tick, missed, following = ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], tonumber(ARGV[i + 4]), ARGV[i + 5]
  local state = '@OURS@entry:' .. entry
  local f = call('HMGET', state, 'tick', 'job', 'after')
  local score = tonumber(call('ZSCORE', due, entry) or '')
  local by_hand, answer = stands == '', nil
  if by_hand then
    answer = call('HEXISTS', '@OURS@entries', entry) == 1 and fire(state, f, i) or {'passed', ''}
    if answer[1] ~= 'passed' then
      log(entry, tick, answer[1] == 'skipped' and 'skipped' or 'triggered', 1, answer[1] == 'noted' and ARGV[i + 11] or answer[2])
    end
  elseif not score or score > NOW or (f[1] or string.format('%.0f', score)) ~= stands then
    answer = {'passed', ''}
  else
    local made = 0
    if missed > 0 then
      call('HINCRBY', state, 'missed', missed)
      log(entry, stands, 'missed', missed, '-')
    end
    if tick == '' then
      answer = {'missed', ''}
    else
      answer = fire(state, f, i)
      if answer[1] == 'skipped' then
        call('HINCRBY', state, 'skipped', 1)
      else
        made = call('HINCRBY', state, 'made', 1)
      end
      log(entry, tick, answer[1], 1, answer[1] == 'noted' and ARGV[i + 11] or answer[2])
    end
    local most = tonumber(ARGV[i + 8])
    if following == '' or most > 0 and made >= most then
      call('ZREM', due, entry)
      call('HSET', state, 'ended', ISO)
      call('HDEL', state, 'tick', 'due', 'parked')
    else
      call('HSET', state, 'tick', following, 'due', ARGV[i + 6])
      call('HDEL', state, 'parked')
      call('ZADD', due, ARGV[i + 6], entry)
    end
  end
  answers[#answers + 1] = answer
end
return answers
