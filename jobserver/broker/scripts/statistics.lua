-- How queues stand: their cost is the same however many jobs they hold. ARGV: queues.
-- Returns per queue, the three priorities as one: waiting, active, delayed, completed, failed, canceled (what is kept),
-- how many ever completed, the mark of its pause or '', and since when the longest of those waits that are next ('').
local answer = {}
for _, queue in ipairs(ARGV) do
  local function sum(command, kind)
    local total = 0
    for _, origin in ipairs(origins(queue)) do total = total + call(command, '@RQ@' .. kind .. ':' .. origin) end
    return total
  end
  local mark = call('HGET', '@OURS@paused', queue) or ''
  local till = tonumber(string.match(mark, '^%d+'))
  if till and till ~= 0 and till <= NOW then mark = '' end -- its time is up; the next claim notes that
  local oldest = ''
  for _, origin in ipairs(origins(queue)) do
    local id = call('LINDEX', '@RQ@queue:' .. origin, 0)
    local since = id and call('HGET', job_key(id), 'enqueued_at')
    if since and (oldest == '' or since < oldest) then oldest = since end
  end
  answer[#answer + 1] = {
    sum('LLEN', 'queue') + sum('ZCARD', 'deferred'), sum('ZCARD', 'wip'), sum('ZCARD', 'scheduled'),
    sum('ZCARD', 'finished'), sum('ZCARD', 'failed'), sum('ZCARD', 'canceled'),
    tonumber(call('HGET', '@OURS@totals', queue .. ' completed') or 0), mark, oldest}
end
return answer
