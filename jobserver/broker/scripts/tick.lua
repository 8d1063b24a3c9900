-- Make the jobs of recurring entries that are due, and set when each is due next; all in one step, so that a tick
-- happens once, however many schedulers try it and wherever one of them dies.
-- ARGV: count, then per tick: entry, due ms as due.lua gave it, next due ms, and the job as for enqueue.lua.
-- Returns per tick 1, or 0 when another scheduler was first.
local due, width, answers = OURS .. 'due', 18, {}

for n = 0, tonumber(ARGV[1]) - 1 do
  local i = 1 + n * width
  local entry, at, following, id = ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3], ARGV[i + 4]
  local score = tonumber(call('ZSCORE', due, entry) or '')
  if score == at and at <= NOW then
    -- The entries may have been lost and made anew, but not the jobs of their last ticks.
    if call('EXISTS', job_key(id)) == 0 then create(unpack(ARGV, i + 4, i + 18)) end
    call('ZADD', due, following, entry)
    answers[#answers + 1] = 1
  else
    answers[#answers + 1] = 0
  end
end
return answers
