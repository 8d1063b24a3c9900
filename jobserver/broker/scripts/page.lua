-- Read one page of registries as if they were one, by what their members are sorted by, then by member.
-- ARGV: count, 'asc' or 'desc', after: a place and its member ('' for the first page), then per registry: its RQ name
--       and queue (failed:mail), and what to take from its scores (members of the registries kept for other times than
--       others have other expiries).
-- Returns per member {place, member}, the place as text that loses nothing.
local count, is_desc, value, id = tonumber(ARGV[1]), ARGV[2] == 'desc', tonumber(ARGV[3]), ARGV[4]
local command, step = is_desc and 'ZREVRANGE' or 'ZRANGE', 20

-- As the server orders members: by bytes, whatever the locale of Lua's own comparison is.
local function is_less(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

local function comes_first(one, other)
  if one[1] == other[1] then
    if is_desc then one, other = other, one end
    return is_less(one[2], other[2])
  end
  if is_desc then return one[1] > other[1] end
  return one[1] < other[1]
end

local function read(source, from, many)
  local found, rows = call(command, source.key, from, from + many - 1, 'WITHSCORES'), {}
  for i = 1, #found, 2 do rows[#rows + 1] = {tonumber(found[i + 1]) - source.less, found[i]} end
  return rows
end

-- The rank of the first member behind the given one, which may be gone by now.
local function start_of(source)
  if not value then return 0 end
  local after, low, high = {value, id}, 0, call('ZCARD', source.key)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local row = read(source, middle, 1)[1]
    if comes_first(after, row) then high = middle else low = middle + 1 end
  end
  return low
end

local sources = {}
for i = 5, #ARGV, 2 do
  local source = {key = '@RQ@' .. ARGV[i], less = tonumber(ARGV[i + 1])}
  source.rank = start_of(source)
  source.rows, source.at = read(source, source.rank, step), 1
  sources[#sources + 1] = source
end

local page = {}
while #page < count do
  local first
  for _, source in ipairs(sources) do
    if source.at > #source.rows and #source.rows == step then
      source.rank = source.rank + step
      source.rows, source.at = read(source, source.rank, step), 1
    end
    local row = source.rows[source.at]
    if row and (not first or comes_first(row, first.rows[first.at])) then first = source end
  end
  if not first then break end
  local row = first.rows[first.at]
  first.at = first.at + 1
  page[#page + 1] = {string.format('%.17g', row[1]), row[2]}
end
return page
