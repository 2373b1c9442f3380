-- Keeps the lease of the token ARGV[5] for ARGV[6] ms more, or gives it up if that is 0.
if fenced(ARGV[5]) then return 'fenced' end
if ARGV[6] == '0' then
  if redis.call('GET', LEASE) == ARGV[5] then redis.call('DEL', LEASE) end
else
  redis.call('SET', LEASE, ARGV[5], 'PX', ARGV[6])
end
return 'kept'
