-- Measure the events that are not recorded yet, and say whether more jobs may be made. ARGV: their bound in bytes.
-- Returns {bytes, events, since when (ms) or '', 1 when no more jobs may be made}; nothing without a recorder.
if not is_recorded() then
  call('DEL', '@OURS@full')
  return {}
end
local lacking, since, bytes = unrecorded(stream('@OURS@events'))

-- A tenth below the bound they may be made again, or it would change with every batch.
local bound, is_full = tonumber(ARGV[1]), call('EXISTS', '@OURS@full') == 1
is_full = bytes >= (is_full and 0.9 or 1) * bound
if is_full then call('SET', '@OURS@full', 1) else call('DEL', '@OURS@full') end
return {bytes, math.floor(lacking), since, is_full and 1 or 0}
