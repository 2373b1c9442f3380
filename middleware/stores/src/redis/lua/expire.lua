-- Removes rows that are due, the longest due first. ARGV: keep, time, token, now:u64le, limit.
-- An entry whose row the server's own time to live has taken counts as a row removed: it is met here once.
if fenced(ARGV[7]) then return 'fenced' end
raise(ARGV[6])
local NOW, LIMIT = ARGV[8], tonumber(ARGV[9])
local now_high, now_low = halves(NOW)
local top = score(NOW)
if TAG ~= '' then
  -- A pointer stays longer than its row.
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', POINTERS, '-inf', top, 'LIMIT', 0, 128)) do
    local k = key('s', id)
    local old = look(k)
    if old and old.home and score(old.ends) > top then
      redis.call('ZADD', POINTERS, score(old.ends), id)
    elseif not old or not old.home or old.ends ~= string.rep(string.char(255), 8) then
      if old and old.home then redis.call('DEL', k) end
      redis.call('ZREM', POINTERS, id)
      if LISTED and (old == nil or (old and old.home)) then redis.call('ZREM', LIST, id) end
    end
  end
end
local removed, skip = 0, 0
while true do
  local ids = redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', top, 'LIMIT', skip, LIMIT - removed + 1)
  if #ids == 0 then return { removed, 0 } end
  for _, id in ipairs(ids) do
    local k = key('s', id)
    local old = look(k)
    local due = true
    if old and old.home then
      redis.call('ZREM', EXPIRY, id)
      due = nil
    elseif old then
      local high, low = halves(old.due)
      due = high < now_high or (high == now_high and low <= now_low)
    end
    if due == nil then
      -- A pointer's time is not a row's.
    elseif old == false then
      quarantine(id, k, old, ARGV[5])
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
