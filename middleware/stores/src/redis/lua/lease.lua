-- Keeps the lease of the token ARGV[4] for ARGV[5] ms more, or gives it up if that is 0.
if fenced(ARGV[4]) then return 'fenced' end
if ARGV[5] == '0' then
  if redis.call('GET', LEASE) == ARGV[4] then redis.call('DEL', LEASE) end
else
  redis.call('SET', LEASE, ARGV[4], 'PX', ARGV[5])
end
return 'kept'
