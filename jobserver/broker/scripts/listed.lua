-- Jobs of a registry, those with the highest score first. ARGV: registry, first and last rank (both included), then RQ
-- queue names, whose jobs are listed as one. Returns per job its id, its hash and the fields of its last result.
local found = {}
for i = 4, #ARGV do
  local head = call('ZREVRANGE', '@RQ@' .. ARGV[1] .. ':' .. ARGV[i], 0, tonumber(ARGV[3]), 'WITHSCORES')
  for n = 1, #head, 2 do
    -- Entries of running jobs are <id>:<exec>.
    found[#found + 1] = {id = string.match(head[n], '^[^:]*'), score = tonumber(head[n + 1]), rank = #found}
  end
end
table.sort(found, function(a, b)
  if a.score ~= b.score then return a.score > b.score end
  return a.rank < b.rank
end)
local answer = {}
for n = tonumber(ARGV[2]) + 1, math.min(#found, tonumber(ARGV[3]) + 1) do
  local id = found[n].id
  local last = call('XREVRANGE', '@RQ@results:' .. id, '+', '-', 'COUNT', 1)[1]
  answer[#answer + 1] = {id, call('HGETALL', job_key(id)), last and last[2] or {}}
end
return answer
