-- Look for what should not be, in samples: the cost is the same however many jobs there are.
-- ARGV: sample (how many entries of a list are looked at), overdue_ms (how long after its time a lease counts as
--       forgotten), then per queue: name, seconds that its failed jobs are kept.
-- Returns {entries of a stock rqscheduler, how many leases are overdue, a few of those, runs without a lease, per queue
-- how many jobs failed in the last hour, types that wait as {queue, type, ...}, jobs whose data does not begin as ours
-- as {id, data, ...}, and queues that were not named with their waiting jobs as {origin, jobs, ...}}.
local sample, overdue = tonumber(ARGV[1]), tonumber(ARGV[2])
local named, types, seen, unreadable, orphans, failures = {}, {}, {}, {}, {}, {}
local most = 20 -- jobs whose data is handed out

local function look_at(id, queue, waits)
  local f = call('HMGET', job_key(id), 'data', 'type')
  if f[1] and string.sub(f[1], 1, 2) ~= '["' and #unreadable < 2 * most then
    unreadable[#unreadable + 1] = id
    unreadable[#unreadable + 1] = f[1]
  end
  if waits and f[2] and not seen[queue .. ' ' .. f[2]] then
    seen[queue .. ' ' .. f[2]] = true
    types[#types + 1] = queue
    types[#types + 1] = f[2]
  end
end

local function is_orphan(entry) return not call('ZSCORE', '@OURS@leases', entry) end

local found = {}
for i = 3, #ARGV, 2 do
  local queue, kept = ARGV[i], tonumber(ARGV[i + 1])
  local failed = 0
  named[queue] = true
  for _, origin in ipairs(origins(queue)) do
    local list, scheduled, wip = '@RQ@queue:' .. origin, '@RQ@scheduled:' .. origin, '@RQ@wip:' .. origin
    for _, id in ipairs(call('LRANGE', list, 0, sample - 1)) do look_at(id, queue, true) end
    for _, id in ipairs(call('ZRANGE', scheduled, 0, sample - 1)) do look_at(id, queue, true) end
    for _, id in ipairs(call('ZREVRANGE', '@RQ@failed:' .. origin, 0, sample - 1)) do look_at(id, queue, false) end
    -- A stock worker's entries are scored with when they time out; they have no lease of ours.
    for _, entry in ipairs(call('ZRANGEBYSCORE', wip, FAR, '+inf', 'LIMIT', 0, sample)) do
      if is_orphan(entry) then found[entry] = true end
    end
    failed = failed + call('ZCOUNT', '@RQ@failed:' .. origin, NOW / 1000 + kept - 3600, '+inf')
  end
  failures[#failures + 1] = failed
end
local held_entries = call('HSCAN', '@OURS@held', 0, 'COUNT', sample)[2]
for i = 1, #held_entries, 2 do
  if is_orphan(held_entries[i]) then found[held_entries[i]] = true end
end
for entry in pairs(found) do orphans[#orphans + 1] = entry end

local strangers = {}
for _, list in ipairs(call('SMEMBERS', '@RQ@queues')) do
  local origin = string.sub(list, #('@RQ@queue:') + 1)
  local jobs = call('LLEN', list)
  if jobs > 0 and not named[base(origin)] then
    strangers[#strangers + 1] = origin
    strangers[#strangers + 1] = jobs
  end
end

return {
  call('ZCARD', 'rq:scheduler:scheduled_jobs'), call('ZCOUNT', '@OURS@leases', 0, NOW - overdue),
  call('ZRANGEBYSCORE', '@OURS@leases', 0, NOW - overdue, 'LIMIT', 0, 5),
  orphans, failures, types, unreadable, strangers}
