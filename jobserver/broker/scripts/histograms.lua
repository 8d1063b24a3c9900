-- Publish the histograms of all time, unless newer ones are here. ARGV: position (a stream id up to which they count
-- the events), the histograms as text. Returns 1 when they are published.
local key = '@OURS@histograms'
local function parts(id)
  local ms, number = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(number)
end

local known = call('HGET', key, 'position')
if known then
  local ms, number = parts(ARGV[1])
  local known_ms, known_number = parts(known)
  if ms < known_ms or ms == known_ms and number < known_number then return 0 end
end
call('HSET', key, 'position', ARGV[1], 'counts', ARGV[2])
return 1
