-- Say up to which event the ledger has them, and trim those. ARGV: position, how many events it ever had.
-- With that `unrecorded` (_state.lua) tells how many it lacks without counting them: the base is how many were added to
-- the stream when the ledger had none.
-- A server that lost its last events goes on numbering behind the position, however its clock stands: what came before it
-- would never be read.
-- Returns {position that was known before, position up to which events were trimmed, the stream's last}, each or ''.
local key, events, KEEP = '@OURS@recorder', '@OURS@events', 5000 -- ms that live views may be behind
local about = stream(events)
local known = call('HMGET', key, 'position', 'trimmed')
local last = about['last-generated-id'] or ''

local function is_before(one, other)
  local ms, number = string.match(one, '^(%d+)-?(%d*)')
  local other_ms, other_number = string.match(other, '^(%d+)-?(%d*)')
  if ms ~= other_ms then return tonumber(ms) < tonumber(other_ms) end
  return (tonumber(number) or 0) < (tonumber(other_number) or 0)
end

if last == '' and ARGV[1] ~= '0-0' then
  call('XADD', events, ARGV[1], 'event', '')
  call('XDEL', events, ARGV[1])
elseif last ~= '' and is_before(last, ARGV[1]) then
  call('XSETID', events, ARGV[1])
end
local added = about['entries-added'] -- since Redis 7
if added then
  if about['last-generated-id'] == ARGV[1] then
    call('HSET', key, 'base', string.format('%.0f', added - tonumber(ARGV[2])))
  elseif call('HEXISTS', key, 'base') == 0 then
    call('HSET', key, 'base', string.format('%.0f', added - about['length'] - tonumber(ARGV[2])))
  end
end
call('HSET', key, 'position', ARGV[1], 'events', ARGV[2])

-- Up to the earlier of two ids; `~`: whole nodes only, which costs next to nothing.
local past = string.format('%.0f', NOW - KEEP)
local first = tonumber(string.match(ARGV[1], '^%d+')) < NOW - KEEP and ARGV[1] or past
if call('XTRIM', events, 'MINID', '~', first) > 0 then call('HSET', key, 'trimmed', first) end
return {known[1] or '', known[2] or '', last}
