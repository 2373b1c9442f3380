-- What every script begins with: names of keys, the head of a row, and the indexes. A row is a string of
-- layout:u8=1 flags:u8(1=owner) owner_len:u8 version:u64le expires_at:u64le owner record.
-- KEYS: meta, expiry index, list index, and the lease or, in a cluster, the index of pointers; then, in a cluster, what
-- else may be written.  ARGV: prefix, 1 if there is a list index, grace in ms, tag of the bucket: '' if not in a cluster.
--
-- A pointer stands in the bucket that an id belongs to and says in which bucket its row is, and until when it stays:
-- P home:u8 until:u64le.
local META, EXPIRY, LIST, LEASE, POINTERS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[4]
local PREFIX, LISTED, GRACE, TAG = ARGV[1], ARGV[2] == '1', tonumber(ARGV[3]), ARGV[4]
-- Numbers here are doubles: exact up to this one, which stands for every later time.
local FAR = 9007199254740992
local HEX = string.rep('%02x', 32)

local function key(kind, id)
  local hex = string.format(HEX, string.byte(id, 1, 32))
  if TAG == '' then return PREFIX .. kind .. ':{' .. hex .. '}' end
  return PREFIX .. kind .. ':{' .. TAG .. '}:' .. hex
end

local function owner_key(owner)
  if TAG == '' then return PREFIX .. 'o:{' .. redis.sha1hex(owner) .. '}' end
  return PREFIX .. 'o:{' .. TAG .. '}:' .. redis.sha1hex(owner)
end

-- Whether the id belongs to this bucket. Its row may be in another; its place in the list is here.
local function at_home(id)
  return TAG == '' or string.format('%02x', string.byte(id, 1)) == string.sub(TAG, 1, 2)
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

-- The head of the row, or the pointer, which has a `home`: nil if there is none, false if it is damaged.
local function look(k)
  local head = redis.pcall('GETRANGE', k, 0, 273)
  if type(head) == 'table' and head.err and not string.find(head.err, 'WRONGTYPE', 1, true) then
    -- The slot is on its way to another server: the row is not damaged, it is there already.
    error(head.err, 0)
  end
  if type(head) ~= 'string' then return false end
  if head == '' then
    if redis.call('EXISTS', k) == 0 then return nil end
    return false
  end
  if TAG ~= '' and #head == 10 and string.byte(head, 1) == 80 then
    return { home = string.sub(head, 2, 2), ends = string.sub(head, 3, 10) }
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
  if LISTED and at_home(id) then redis.call('ZREM', LIST, id) end
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
  if LISTED and at_home(id) then redis.call('ZADD', LIST, 0, id) end
  if old and old.owner and old.owner ~= owner then redis.call('ZREM', owner_key(old.owner), id) end
  if owner then
    local ok = owner_key(owner)
    redis.call('ZADD', ok, at, id)
    local last = tonumber(redis.call('ZREVRANGE', ok, 0, 0, 'WITHSCORES')[2])
    if last < FAR then redis.call('PEXPIREAT', ok, last + GRACE) else redis.call('PERSIST', ok) end
  end
end

-- Writes a pointer, which is filed apart from the rows.
local function point(id, k, home, ends)
  local at = score(ends)
  if at < FAR then
    redis.call('SET', k, 'P' .. home .. ends, 'PXAT', at + GRACE)
  else
    redis.call('SET', k, 'P' .. home .. ends)
  end
  redis.call('ZADD', POINTERS, at, id)
  if LISTED then redis.call('ZADD', LIST, 0, id) end
end

-- Lets a pointer stay at least as long as a row that is due at `due`: with so much to spare that it need not be done
-- at each change. `time` is 20 digits.
local function stretch(id, k, pointer, due, time)
  local at, now = score(due), tonumber(time)
  if at <= score(pointer.ends) then return end
  local ends = at
  if at > now then ends = at + (at - now) end
  if ends >= FAR then
    ends = string.rep(string.char(255), 8)
  else
    ends = struct.pack('<I4I4', ends % 4294967296, math.floor(ends / 4294967296))
  end
  point(id, k, pointer.home, ends)
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

local function main()
