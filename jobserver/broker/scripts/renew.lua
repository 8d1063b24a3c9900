-- Extend the leases that a worker holds.
-- ARGV: lease_ms, then per run its entry in the leases (job:exec).
-- Returns {lost entries, entries whose job is to be canceled}.
local lost, canceled = {}, {}
call('ZREM', '@OURS@leases', '') -- nothing; but after a write that needs no room, a full server lets the others pass
for i = 2, #ARGV do
  local entry = ARGV[i]
  if call('ZSCORE', '@OURS@leases', entry) then
    call('ZADD', '@OURS@leases', 'XX', NOW + tonumber(ARGV[1]), entry)
    if call('HEXISTS', job_key(string.match(entry, '^[^:]*')), 'cancel') == 1 then canceled[#canceled + 1] = entry end
  else
    lost[#lost + 1] = entry
  end
end
return {lost, canceled}
