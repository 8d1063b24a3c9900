-- Say up to which event the ledger has them. ARGV: position, how many events it ever had.
-- With that `metrics` can tell how many it lacks without counting them: the base is how many were added to the stream
-- when the ledger had none.
local key = OURS .. 'recorder'
local about = stream(OURS .. 'events')
local added = about['entries-added'] -- since Redis 7
if added then
  if about['last-generated-id'] == ARGV[1] then
    call('HSET', key, 'base', string.format('%.0f', added - tonumber(ARGV[2])))
  elseif call('HEXISTS', key, 'base') == 0 then
    call('HSET', key, 'base', string.format('%.0f', added - about['length'] - tonumber(ARGV[2])))
  end
end
call('HSET', key, 'position', ARGV[1], 'events', ARGV[2])
return 1
