-- Take one request out of an asker's bucket, which refills evenly (GCRA: the time at which it is full says it all).
-- ARGV: asker, requests that a full bucket holds, ms in which an empty one fills.
-- Returns whether there was one (1 or 0), how many are left, ms until the bucket is full, ms until there is one.
local key, most, window = '@OURS@quota:' .. ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local each, slack = window / most, 0.01 -- thirds of a second do not add up
local full = math.max(tonumber(call('GET', key) or NOW), NOW)
local wait = full + each - NOW - window
local taken = wait <= slack
if taken then
  full = full + each
  call('SET', key, string.format('%.3f', full), 'PX', math.ceil(full - NOW))
end
local left = math.floor((window - (full - NOW) + slack) / each)
return {taken and 1 or 0, left, math.ceil(full - NOW), math.ceil(math.max(wait, 0))}
