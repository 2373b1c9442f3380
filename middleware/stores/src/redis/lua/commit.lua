-- A run of changes, in order. ARGV: keep, time, token, turn, then each change.
local KEEP, TIME, TOKEN, TURN = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
if fenced(TOKEN) then return 'fenced' end
if TOKEN ~= '' then
  -- A commit that its sender has given up must not come after the ones that followed it.
  local last = tonumber(redis.call('HGET', META, 'turn') or '0')
  if tonumber(TURN) <= last then return 'late' end
  redis.call('HSET', META, 'turn', TURN)
end
-- What a slot that is on its way to another server does not let us reach shows before anything is written: the keys
-- that the sender named are known to be here, but not those of the owners that rows have now.
for n = 5, #KEYS do
  if string.sub(KEYS[n], #PREFIX + 1, #PREFIX + 2) == 's:' then
    local old = look(KEYS[n])
    if old and old.owner then redis.call('EXISTS', owner_key(old.owner)) end
  end
end
raise(TIME)
local outcomes = {}
local i = 9
local function take()
  local value = ARGV[i]
  i = i + 1
  return value
end
while i <= #ARGV do
  local op, id = take(), take()
  local k = key('s', id)
  local old = look(k)
  local outcome = 'D'
  if op == 'N' then
    local home, due = take(), take()
    if old == nil then
      stretch(id, k, { home = home, ends = string.rep(string.char(0), 8) }, due, TIME)
    elseif old and old.home == home then
      stretch(id, k, old, due, TIME)
    elseif old and old.home then
      outcome = 'H' .. old.home
    else
      outcome = 'E'
    end
  elseif old and old.home then
    outcome = 'H' .. old.home
    local raw = nil
    if op == 'I' or op == 'P' then
      raw = take()
    elseif op == 'U' then
      take()
      raw = take()
    elseif op == 'R' then
      take()
      take()
      take()
    end
    if raw then stretch(id, k, old, string.sub(raw, 12, 19), TIME) end
  elseif op == 'I' then
    local raw = take()
    if old == nil then put(id, k, raw, nil) else outcome = 'E' end
  elseif op == 'U' then
    local expected, raw = take(), take()
    if not old then
      outcome = 'M'
    elseif old.version ~= expected then
      outcome = 'C' .. old.version
    else
      put(id, k, raw, old)
    end
  elseif op == 'P' then
    put(id, k, take(), old)
  elseif op == 'D' then
    if old ~= nil then
      redis.call('DEL', k)
    end
    unfile(id, old)
  elseif op == 'R' then
    local expected, to, raw = take(), take(), take()
    local there = key('s', to)
    if look(there) ~= nil then
      outcome = 'E'
    elseif not old then
      outcome = 'M'
    elseif expected ~= '' and old.version ~= expected then
      outcome = 'C' .. old.version
    else
      redis.call('DEL', k)
      unfile(id, old)
      put(to, there, raw, nil)
    end
  elseif op == 'Q' then
    if old ~= nil then quarantine(id, k, old, KEEP) end
  end
  outcomes[#outcomes + 1] = outcome
end
return outcomes
