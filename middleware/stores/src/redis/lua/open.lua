-- Who opens asks what is here. ARGV: token ('' to share the rows), lease in ms.
-- Answers layout, list, and for how many ms somebody else is the only writer.
local TOKEN, MS = ARGV[5], ARGV[6]
local found = redis.call('HMGET', META, 'layout', 'list')
local left = 0
local holder = redis.call('GET', LEASE)
if holder and holder ~= TOKEN then left = redis.call('PTTL', LEASE) end
if not found[1] and redis.call('EXISTS', META) == 0 then
  redis.call('HSET', META, 'layout', '1', 'list', ARGV[2], 'time', string.rep('0', 20))
  found = { '1', ARGV[2] }
end
if TOKEN ~= '' and left == 0 and found[1] == '1' and found[2] == ARGV[2] then
  redis.call('SET', LEASE, TOKEN, 'PX', MS)
  redis.call('HSET', META, 'holder', TOKEN, 'turn', '0')
end
return { found[1] or '', found[2] or '', left }
