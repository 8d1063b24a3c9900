-- Read one page of waiting jobs, list after list, each in the order in which they will start.
-- ARGV: count, after: the number of its list from 1, when it came into the list, its id ('' for the first page), then
--       RQ queue names.
-- Returns per job {number of its list, when it came, id}.
local count, list, since, id, near = tonumber(ARGV[1]), tonumber(ARGV[2]) or 0, ARGV[3], ARGV[4], 500

local function came(job_id) return job_id and call('HGET', job_key(job_id), 'enqueued_at') or '' end

-- Where the list goes on behind a job that may have left it. Those that come at one time lie together; the search is
-- misled by jobs that were put in front again, so the job itself is looked for near its end, and then everywhere.
local function start_of(key)
  local low, high = 0, call('LLEN', key)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if came(call('LINDEX', key, middle)) < since then low = middle + 1 else high = middle end
  end
  for i, one in ipairs(call('LRANGE', key, low, low + near)) do
    if one == id then return low + i end
  end
  local found = call('LPOS', key, id)
  return found and found + 1 or low
end

local page = {}
for number = math.max(list, 1), #ARGV - 4 do
  local key = '@RQ@queue:' .. ARGV[number + 4]
  local from = number == list and start_of(key) or 0
  if #page < count then
    for _, one in ipairs(call('LRANGE', key, from, from + count - #page - 1)) do
      page[#page + 1] = {number, came(one), one}
    end
  end
end
return page
