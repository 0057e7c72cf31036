"""What Redis does in one step. Times are Redis's own, so that no machine's clock matters.

Instants are whole microseconds since 1970, which a double holds exactly; they serve as revisions of feeds too: never
twice the same, and beyond all former ones even when Redis lost its data.
"""

from __future__ import annotations

from gateway.shared.link import Script

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
"""

LEASE = Script(
    _NOW
    + """
-- KEYS: members, then two for each budget: its bucket and who of it wants more than there was.
-- ARGV: member, seconds a member counts, seconds a hungry one counts, seconds of rate a bucket holds,
--       then three for each budget: rate, tokens wanted, tokens given back.
local member, kept, hungry_for, burst = ARGV[1], ARGV[2] * 1e6, ARGV[3] * 1e6, tonumber(ARGV[4])
redis.call('ZADD', KEYS[1], now, member)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - kept)
redis.call('PEXPIRE', KEYS[1], kept / 1000)
local answer = {redis.call('ZCARD', KEYS[1])}
for i = 0, (#KEYS - 1) / 2 - 1 do
  local bucket, hungry = KEYS[2 + 2 * i], KEYS[3 + 2 * i]
  local rate, want, back = tonumber(ARGV[5 + 3 * i]), tonumber(ARGV[6 + 3 * i]), tonumber(ARGV[7 + 3 * i])
  local capacity = math.max(1, rate * burst)
  local stored = redis.call('HMGET', bucket, 'tokens', 'at')
  local tokens = capacity
  if stored[1] then
    tokens = stored[1] + math.max(0, now - stored[2]) / 1e6 * rate
  end
  tokens = math.max(-capacity, math.min(capacity, tokens + back))
  redis.call('ZREM', hungry, member)
  redis.call('ZREMRANGEBYSCORE', hungry, '-inf', now - hungry_for)
  local part = math.max(1, math.floor(tokens / (redis.call('ZCARD', hungry) + 1)))
  local granted = math.max(0, math.min(want, part, math.floor(tokens)))
  if granted < want then
    redis.call('ZADD', hungry, now, member)
    redis.call('PEXPIRE', hungry, hungry_for / 1000)
  end
  redis.call('HSET', bucket, 'tokens', string.format('%.17g', tokens - granted), 'at', string.format('%d', now))
  redis.call('PEXPIRE', bucket, math.ceil(math.max(60000, 4000 * capacity / rate)))
  answer[#answer + 1] = granted
end
return answer
"""
)
"""How many members there are, then what each budget grants."""

LEAVE = Script(
    """
-- KEYS, ARGV as of LEASE's members and member.
redis.call('ZREM', KEYS[1], ARGV[1])
"""
)

BEGIN = Script(
    _NOW
    + """
-- KEYS: the claim. ARGV: job id, fingerprint, seconds of silence after which it is an orphan's, seconds it is kept.
local job, answer, fingerprint, till = unpack(redis.call('HMGET', KEYS[1], 'job', 'answer', 'fingerprint', 'until'))
if answer then return {'replay', job, fingerprint, answer} end
if job and job ~= ARGV[1] and tonumber(till) > now then return {'twin'} end
local holder = job or ARGV[1]
redis.call('HSET', KEYS[1], 'job', holder, 'fingerprint', ARGV[2], 'until', string.format('%d', now + ARGV[3] * 1e6))
redis.call('PEXPIRE', KEYS[1], ARGV[4] * 1000)
if holder ~= ARGV[1] then return {'orphan', holder} end
return {'held'}
"""
)

RENEW = Script(
    _NOW
    + """
-- KEYS: claims. ARGV: seconds, then each claim's job id.
for i, key in ipairs(KEYS) do
  local job, answer = unpack(redis.call('HMGET', key, 'job', 'answer'))
  if job == ARGV[1 + i] and not answer then
    redis.call('HSET', key, 'until', string.format('%d', now + ARGV[1] * 1e6))
  end
end
"""
)

SETTLE = Script(
    """
-- KEYS: the claim. ARGV: job id, fingerprint, answer, seconds it is kept.
local job = redis.call('HGET', KEYS[1], 'job')
if job and job ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'job', ARGV[1], 'fingerprint', ARGV[2], 'answer', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4] * 1000)
return 1
"""
)

RELEASE = Script(
    """
-- KEYS: the claim. ARGV: job id.
local job, answer = unpack(redis.call('HMGET', KEYS[1], 'job', 'answer'))
if job == ARGV[1] and not answer then redis.call('DEL', KEYS[1]) end
"""
)

CANCEL = Script(
    _NOW
    + """
-- KEYS: jobs by revision, jobs by when they are forgotten. ARGV: job id, that instant in UNIX seconds.
for _, job in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now / 1e6, 'LIMIT', 0, 100)) do
  redis.call('ZREM', KEYS[1], job)
  redis.call('ZREM', KEYS[2], job)
end
if redis.call('ZADD', KEYS[2], 'GT', 'CH', ARGV[2], ARGV[1]) == 0 and redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  return
end
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
redis.call('ZADD', KEYS[1], string.format('%d', math.max(now, (tonumber(last[2]) or 0) + 1)), ARGV[1])
"""
)

ADD_DEAD = Script(
    """
-- KEYS: dead targets of an app and provider, the set of such keys, the feed.
-- ARGV: how many entries the feed keeps, then three for each target: key, since, reason.
redis.call('SADD', KEYS[2], KEYS[1])
for i = 2, #ARGV, 3 do
  local known = redis.call('HGET', KEYS[1], ARGV[i])
  if not known or tonumber(string.match(known, '^%S+')) < tonumber(ARGV[i + 1]) then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1] .. ' ' .. ARGV[i + 2])
    if not known then redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[1], '*', 'key', ARGV[i]) end
  end
end
"""
)
