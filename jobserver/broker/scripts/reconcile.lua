-- Tell the events what stock tools did to ended jobs: ours say so themselves and leave a mark (`said`).
-- ARGV: depth, then RQ queue names. Looks at the newest `depth` jobs of each registry, and deeper while all are news.
-- Returns how many ends were told.
local NAMES, told, depth = {finished = 'completed', failed = 'failed', stopped = 'canceled', canceled = 'canceled'}, 0, tonumber(ARGV[1])

-- What RQ's result stream says of the last run, as an event does; it is an attempt that our scripts have not counted.
local function run_of(id, status)
  if status ~= 'finished' and status ~= 'failed' then return {} end
  local last = call('XREVRANGE', '@RQ@results:' .. id, '+', '-', 'COUNT', 1)[1]
  local said = {}
  for i = 1, last and #last[2] or 0, 2 do said[last[2][i]] = last[2][i + 1] end
  local started, ended = tonumber(said.execution_started_at), tonumber(said.execution_ended_at)
  if not started or not ended then return {} end
  local value = said.return_value or ''
  return {'attempt', call('HINCRBY', job_key(id), 'attempt', 1), 'worker', said.worker_name or '',
    'ms', string.format('%.0f', (ended - started) * 1000), 'ended', string.format('%.0f', ended * 1000),
    'result', #value <= 2048 and value or '', 'traceback', said.exc_string or ''}
end

for i = 2, #ARGV do
  for _, registry in ipairs({'finished:', 'failed:', 'canceled:'}) do
    local first, news = 0, true
    while news do
      local ids = call('ZREVRANGE', '@RQ@' .. registry .. ARGV[i], first, first + depth - 1)
      news = #ids == depth
      for _, id in ipairs(ids) do
        local job = job_key(id)
        local f = call('HMGET', job, 'status', 'ended_at', 'said', 'run', 'attempt', 'worker_name', 'type')
        local now_is = (f[1] or '') .. (f[2] or '')
        if not f[1] or not f[7] or f[3] == now_is or not NAMES[f[1]] then
          news = false
        else
          call('HSET', job, 'said', now_is)
          local run = run_of(id, f[1])
          if not run[1] then run = {'attempt', f[5] or 0, 'worker', f[6] or ''} end
          event(NAMES[f[1]], id, f[4], 'queue', ARGV[i], 'reason', 'by a stock tool', 'retry_at', '', unpack(run))
          told = told + 1
        end
      end
      first = first + depth
    end
  end
end
return told
