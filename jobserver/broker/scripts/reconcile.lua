-- Tell the events what stock tools did to ended jobs: ours say so themselves and leave a mark (`said`).
-- ARGV: depth, then RQ queue names. Looks at the newest `depth` jobs of each registry, and deeper while all are news.
-- Returns how many ends were told.
local NAMES, told, depth = {finished = 'completed', failed = 'failed', stopped = 'canceled', canceled = 'canceled'}, 0, tonumber(ARGV[1])

for i = 2, #ARGV do
  for _, registry in ipairs({'finished:', 'failed:', 'canceled:'}) do
    local first, news = 0, true
    while news do
      local ids = call('ZREVRANGE', RQ .. registry .. ARGV[i], first, first + depth - 1)
      news = #ids == depth
      for _, id in ipairs(ids) do
        local job = job_key(id)
        local f = call('HMGET', job, 'status', 'ended_at', 'said', 'run', 'attempt', 'worker_name', 'type')
        local now_is = (f[1] or '') .. (f[2] or '')
        if not f[1] or not f[7] or f[3] == now_is or not NAMES[f[1]] then
          news = false
        else
          call('HSET', job, 'said', now_is)
          event(NAMES[f[1]], id, f[4], 'queue', ARGV[i], 'attempt', f[5] or 0, 'worker', f[6] or '', 'reason', 'by a stock tool', 'retry_at', '')
          told = told + 1
        end
      end
      first = first + depth
    end
  end
end
return told
