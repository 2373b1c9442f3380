-- Ids behind ARGV[4] in order, at most ARGV[5], each with its row: nil if it is gone, 0 if it is of a foreign type.
local from = '-'
if ARGV[4] ~= '' then from = '(' .. ARGV[4] end
local page = {}
for _, id in ipairs(redis.call('ZRANGEBYLEX', LIST, from, '+', 'LIMIT', 0, ARGV[5])) do
  local raw = redis.pcall('GET', key('s', id))
  if type(raw) == 'table' then raw = 0 end
  page[#page + 1] = id
  page[#page + 1] = raw
end
return page
