-- Removes rows that are due, the longest due first. ARGV: keep, time, token, now:u64le, limit.
-- An entry whose row the server's own time to live has taken counts as a row removed: it is met here once.
if fenced(ARGV[6]) then return 'fenced' end
raise(ARGV[5])
local NOW, LIMIT = ARGV[7], tonumber(ARGV[8])
local now_high, now_low = halves(NOW)
local top = score(NOW)
local removed, skip = 0, 0
while true do
  local ids = redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', top, 'LIMIT', skip, LIMIT - removed + 1)
  if #ids == 0 then return { removed, 0 } end
  for _, id in ipairs(ids) do
    local k = key('s', id)
    local old = look(k)
    local due = true
    if old then
      local high, low = halves(old.due)
      due = high < now_high or (high == now_high and low <= now_low)
    end
    if old == false then
      quarantine(id, k, old, ARGV[4])
    elseif not due then
      local at = score(old.due)
      if at > top then redis.call('ZADD', EXPIRY, at, id) else skip = skip + 1 end
    elseif removed == LIMIT then
      return { removed, 1 }
    else
      if old then redis.call('DEL', k) end
      unfile(id, old)
      removed = removed + 1
    end
  end
end
