-- What a scrape tells beside `statistics`; costs the same however many jobs there are. ARGV: queues.
-- Returns {now (ms), per queue when its first delayed job is due (s), totals as a flat list, per worker {its queues,
-- process slots, thread slots, its last beat}, leases {how many, how many ran out, when the first does (ms)},
-- schedulers {how many beat in the last 15 s, the last beat (s)}, recurring entries {active, paused, parked, ended},
-- ticks {how many entries are due, since when the first is (ms)}, events {how many the stream has, how many the ledger
-- lacks, since when (ms), their bytes, 1 when jobs are refused for that}, the histograms as published, 1 when RQ is suspended, INFO memory}. '': none.
local delayed, workers = {}, {}

local function first_of(key) return call('ZRANGE', key, 0, 0, 'WITHSCORES')[2] or '' end

for _, queue in ipairs(ARGV) do
  local first = ''
  for _, origin in ipairs(origins(queue)) do
    local due = first_of('@RQ@scheduled:' .. origin)
    if due ~= '' and (first == '' or tonumber(due) < tonumber(first)) then first = due end
  end
  delayed[#delayed + 1] = first
end

for _, key in ipairs(call('SMEMBERS', '@RQ@workers')) do
  local f = call('HMGET', key, 'queues', 'process_slots', 'thread_slots', 'last_heartbeat')
  -- Stock tools leave the names of workers whose hash has expired.
  if f[4] then workers[#workers + 1] = {f[1] or '', f[2] or '', f[3] or '', f[4]} end
end

-- Recurring entries by state; there are few.
local states = {active = 0, paused = 0, parked = 0, ended = 0}
for _, id in ipairs(call('HKEYS', '@OURS@entries')) do
  local f = call('HMGET', '@OURS@entry:' .. id, 'ended', 'paused', 'parked')
  local state = f[1] and 'ended' or f[2] and 'paused' or f[3] and 'parked' or 'active'
  states[state] = states[state] + 1
end

local events = stream('@OURS@events')
local lacking, since, bytes = unrecorded(events)
local leases, schedulers, due = '@OURS@leases', '@OURS@schedulers', '@OURS@due'
-- Some providers forbid INFO; the rest is worth telling then.
local memory = redis.pcall('INFO', 'memory')
return {
  string.format('%.0f', NOW), delayed, call('HGETALL', '@OURS@totals'), workers,
  {call('ZCARD', leases), call('ZCOUNT', leases, '-inf', NOW), first_of(leases)},
  {call('ZCOUNT', schedulers, NOW / 1000 - 15, '+inf'), call('ZREVRANGE', schedulers, 0, 0, 'WITHSCORES')[2] or ''},
  {states.active, states.paused, states.parked, states.ended}, {call('ZCOUNT', due, '-inf', NOW), first_of(due)},
  {events['length'], lacking, since, bytes, call('EXISTS', '@OURS@full')},
  call('HGET', '@OURS@histograms', 'counts') or '', call('EXISTS', '@RQ@suspended'),
  type(memory) == 'string' and memory or ''}
