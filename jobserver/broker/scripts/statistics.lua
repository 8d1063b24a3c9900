-- How queues stand: their cost is the same however many jobs they hold. ARGV: queues.
-- Returns per queue, the three priorities as one: waiting, active, delayed, completed, failed, canceled (what is kept),
-- how many ever completed, and the mark of its pause or ''.
local answer = {}
for _, queue in ipairs(ARGV) do
  local function sum(command, kind)
    local total = 0
    for _, origin in ipairs(origins(queue)) do total = total + call(command, RQ .. kind .. ':' .. origin) end
    return total
  end
  local mark = call('HGET', OURS .. 'paused', queue) or ''
  local till = tonumber(string.match(mark, '^%d+'))
  if till and till ~= 0 and till <= NOW then mark = '' end -- its time is up; the next claim notes that
  answer[#answer + 1] = {
    sum('LLEN', 'queue') + sum('ZCARD', 'deferred'), sum('ZCARD', 'wip'), sum('ZCARD', 'scheduled'),
    sum('ZCARD', 'finished'), sum('ZCARD', 'failed'), sum('ZCARD', 'canceled'),
    tonumber(call('HGET', OURS .. 'totals', queue .. ' completed') or 0), mark}
end
return answer
