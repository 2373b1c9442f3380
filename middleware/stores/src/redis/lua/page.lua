-- Ids behind ARGV[5] in order, at most ARGV[6], each with its row: nil if it is gone, 0 if it is of a foreign type. Before
-- them, 1 if there is nothing behind them. A page that has become large ends early.
local from, limit = '-', tonumber(ARGV[6])
if ARGV[5] ~= '' then from = '(' .. ARGV[5] end
local ids = redis.call('ZRANGEBYLEX', LIST, from, '+', 'LIMIT', 0, limit)
local page, size = { 0 }, 0
for _, id in ipairs(ids) do
  if size > 4194304 then return page end
  local raw = redis.pcall('GET', key('s', id))
  if type(raw) == 'table' then
    if not string.find(raw.err, 'WRONGTYPE', 1, true) then error(raw.err, 0) end
    raw = 0
  end
  if type(raw) == 'string' then size = size + #raw end
  page[#page + 1] = id
  page[#page + 1] = raw
end
if #ids < limit then page[1] = 1 end
return page
