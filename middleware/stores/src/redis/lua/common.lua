-- What every script begins with: names of keys, the head of a row, and the indexes. A row is a string of
-- layout:u8=1 flags:u8(1=owner) owner_len:u8 version:u64le expires_at:u64le owner record.
-- KEYS: meta, expiry index, list index, lease.  ARGV: prefix, 1 if there is a list index, grace in ms.
local META, EXPIRY, LIST, LEASE = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local PREFIX, LISTED, GRACE = ARGV[1], ARGV[2] == '1', tonumber(ARGV[3])
-- Numbers here are doubles: exact up to this one, which stands for every later time.
local FAR = 9007199254740992
local HEX = string.rep('%02x', 32)

local function key(kind, id)
  return PREFIX .. kind .. ':{' .. string.format(HEX, string.byte(id, 1, 32)) .. '}'
end

local function owner_key(owner)
  return PREFIX .. 'o:{' .. redis.sha1hex(owner) .. '}'
end

local function halves(u64)
  local low, high = struct.unpack('<I4I4', u64)
  return high, low
end

local function score(u64)
  local high, low = halves(u64)
  if high >= 2097152 then return FAR end
  return high * 4294967296 + low
end

-- The head of the row: nil if there is none, false if it is damaged.
local function look(k)
  local head = redis.pcall('GETRANGE', k, 0, 273)
  if type(head) ~= 'string' then return false end
  if head == '' then
    if redis.call('EXISTS', k) == 0 then return nil end
    return false
  end
  if #head < 19 then return false end
  local layout, flags, len = string.byte(head, 1, 3)
  if layout ~= 1 or flags > 1 or (flags == 0 and len > 0) or #head < 19 + len then return false end
  local owner = nil
  if flags == 1 then owner = string.sub(head, 20, 19 + len) end
  return { version = string.sub(head, 4, 11), due = string.sub(head, 12, 19), owner = owner }
end

local function unfile(id, old)
  redis.call('ZREM', EXPIRY, id)
  if LISTED then redis.call('ZREM', LIST, id) end
  if old and old.owner then redis.call('ZREM', owner_key(old.owner), id) end
end

local function put(id, k, raw, old)
  local len = string.byte(raw, 3)
  local owner = nil
  if string.byte(raw, 2) == 1 then owner = string.sub(raw, 20, 19 + len) end
  local at = score(string.sub(raw, 12, 19))
  if at < FAR then
    redis.call('SET', k, raw, 'PXAT', at + GRACE)
  else
    redis.call('SET', k, raw)
  end
  redis.call('ZADD', EXPIRY, at, id)
  if LISTED then redis.call('ZADD', LIST, 0, id) end
  if old and old.owner and old.owner ~= owner then redis.call('ZREM', owner_key(old.owner), id) end
  if owner then
    local ok = owner_key(owner)
    redis.call('ZADD', ok, at, id)
    local last = tonumber(redis.call('ZREVRANGE', ok, 0, 0, 'WITHSCORES')[2])
    if last < FAR then redis.call('PEXPIREAT', ok, last + GRACE) else redis.call('PERSIST', ok) end
  end
end

-- The bytes stay aside for a while; of whatever type they are.
local function quarantine(id, k, old, keep)
  local aside = key('q', id)
  redis.call('RENAME', k, aside)
  redis.call('PEXPIRE', aside, keep)
  unfile(id, old)
end

-- `time` is 20 digits.
local function raise(time)
  local old = redis.call('HGET', META, 'time')
  if not old then
    redis.call('HSET', META, 'layout', '1', 'list', ARGV[2], 'time', time)
    return
  end
  local oh, ol = tonumber(string.sub(old, 1, 10)), tonumber(string.sub(old, 11, 20))
  local nh, nl = tonumber(string.sub(time, 1, 10)), tonumber(string.sub(time, 11, 20))
  if not oh or not ol or oh < nh or (oh == nh and ol < nl) then redis.call('HSET', META, 'time', time) end
end

-- Whether `token` has lost the right to be the only writer. Who has none does not ask.
local function fenced(token)
  if token == '' then return false end
  local holder = redis.call('HGET', META, 'holder')
  if not holder then
    redis.call('HSET', META, 'holder', token)
    return false
  end
  return holder ~= token
end
