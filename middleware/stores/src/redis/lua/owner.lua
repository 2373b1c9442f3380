-- Every row of the owner ARGV[5], with its id. The row decides whose it is; entries that it contradicts go.
local ok = owner_key(ARGV[5])
local found = {}
for _, id in ipairs(redis.call('ZRANGE', ok, 0, -1)) do
  local k = key('s', id)
  local old = look(k)
  if old and old.owner == ARGV[5] then
    found[#found + 1] = id
    found[#found + 1] = redis.call('GET', k)
  elseif old ~= false then
    redis.call('ZREM', ok, id)
  end
end
return found
