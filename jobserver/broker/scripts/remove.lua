-- Remove recurring entries; their jobs stay. ARGV: ids. Returns how many there were.
local removed = 0
for _, id in ipairs(ARGV) do
  removed = removed + call('HDEL', '@OURS@entries', id)
  call('ZREM', '@OURS@due', id)
  call('DEL', '@OURS@entry:' .. id, '@OURS@ticks:' .. id)
end
return removed
