-- What is due, without removing it. ARGV: now:u64le, limit. Answers the number of pointers that are, and the times
-- of the rows that are, the longest due first.
local top = score(ARGV[5])
local due = { redis.call('ZCOUNT', POINTERS, '-inf', top) }
local found = redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', top, 'WITHSCORES', 'LIMIT', 0, ARGV[6])
for n = 2, #found, 2 do
  due[#due + 1] = found[n]
end
return due
