"""What the servers run, each as one: an entry and everything that is known of it change together.

A partition is one index and its entries, all in one slot. The entries are keys of their own, so that a server
that runs full can evict them; the index is

    meta    hash: numbers of entries (n), dates (d), tags (t) and bytes (b), of all and of each scope; changes
    rows    hash: of each entry `version expires created bytes tags`
    ranks   sorted set: who goes first
    dead    sorted set: who expires when
    tags    sorted set, by name: digest of a tag, then the entry
    gone    sorted set: what was removed on purpose, and when

A server that evicts whatever it likes may evict part of the index. Then the numbers in `meta` do not fit, and
the partition begins anew: what can't be found by its tag any more must not be served.
"""

from __future__ import annotations

from typing import Final

REMEMBERED_REMOVALS: Final = 1000
REMEMBERED_SECONDS: Final = 60

_COMMON: Final = """
local meta, rows, ranks, dead, tags, gone = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local place, nonce = ARGV[1], ARGV[2]
local function count(field) return tonumber(redis.call('HGET', meta, field) or '0') end
local function add(field, by) if by ~= 0 then redis.call('HINCRBY', meta, field, by) end end
local function size_of(name, what) return redis.call(what, name) end
if redis.call('HEXISTS', meta, 'changes') == 0 or size_of(rows, 'HLEN') ~= count('n')
  or size_of(ranks, 'ZCARD') ~= count('n') or size_of(dead, 'ZCARD') ~= count('d')
  or size_of(tags, 'ZCARD') ~= count('t') then
  for _, member in ipairs(redis.call('HKEYS', rows)) do redis.call('UNLINK', place .. member) end
  redis.call('DEL', meta, rows, ranks, dead, tags)
  redis.call('HSET', meta, 'changes', nonce, 'erasures', nonce)
end
local before = redis.call('HGET', meta, 'changes')
local function take_apart(row) return string.match(row, '^(%S+) (%S+) (%S+) (%S+) (%x*)$') end
local function account(member, sign, bytes, dates, tagged)
  local scope = string.match(member, '^(%x*):')
  add('n', sign) add('n:' .. scope, sign) add('b', sign * bytes) add('b:' .. scope, sign * bytes)
  add('d', sign * dates) add('t', sign * tagged)
end
local function forget(member)
  local row = redis.call('HGET', rows, member)
  if not row then return 0 end
  local version, expires, created, bytes, digests = take_apart(row)
  redis.call('HDEL', rows, member)
  redis.call('ZREM', ranks, member)
  if expires ~= '-' then redis.call('ZREM', dead, member) end
  for i = 1, #digests, 32 do redis.call('ZREM', tags, string.sub(digests, i, i + 31) .. member) end
  account(member, -1, tonumber(bytes), expires == '-' and 0 or 1, #digests / 32)
  return tonumber(bytes)
end
local function drop(member)
  redis.call('UNLINK', place .. member)
  return forget(member)
end
"""

PUT: Final = (
    _COMMON
    + """
local fence = KEYS[7]
local member, row, payload, lives_ms, rank, uses = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local now, capacity, max_bytes, judged, token = ARGV[9], tonumber(ARGV[10]), ARGV[11], ARGV[12], ARGV[13]
if token ~= '' and tonumber(redis.call('GET', fence) or '0') > tonumber(token) then return {'fenced'} end
-- first of all: a server that is full refuses this, and nothing has changed
redis.call('SET', place .. member, payload, 'PX', lives_ms)
forget(member)
local version, expires, created, bytes, digests = take_apart(row)
redis.call('HSET', rows, member, row)
redis.call('ZADD', ranks, rank, member)
if expires ~= '-' then redis.call('ZADD', dead, expires, member) end
for i = 1, #digests, 32 do redis.call('ZADD', tags, 0, string.sub(digests, i, i + 31) .. member) end
account(member, 1, tonumber(bytes), expires == '-' and 0 or 1, #digests / 32)
redis.call('ZREM', gone, member)
add('changes', 1)
if count('uses') < tonumber(uses) then redis.call('HSET', meta, 'uses', uses) end
local function is_over()
  return count('n') > capacity or (max_bytes ~= '' and count('b') > tonumber(max_bytes))
end
local expired, evicted, lowest = {}, {}, false
if is_over() then
  for _, each in ipairs(redis.call('ZRANGEBYSCORE', dead, '-inf', now)) do
    if each ~= member then drop(each) expired[#expired + 1] = each end
  end
  while is_over() do
    local two = redis.call('ZRANGE', ranks, 0, 1)
    local each = two[1] == member and two[2] or two[1]
    if not each then break end
    if judged == '1' then lowest = each break end
    drop(each) evicted[#evicted + 1] = each
  end
end
return {before, expired, evicted, lowest}
"""
)
"""ARGV: place, nonce, entry, row, payload, milliseconds, rank, uses, now, two bounds, judged, token."""

REMOVE: Final = (
    _COMMON
    + f"""
local scope, now, remember, digest, created_before = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local version, expired, named, erase = ARGV[8], ARGV[9], ARGV[10], ARGV[11]
local found
if named == '1' then
  found = {{}}
  for i = 12, #ARGV do found[#found + 1] = ARGV[i] end
elseif digest ~= '' then
  found = {{}}
  for _, each in ipairs(redis.call('ZRANGEBYLEX', tags, '[' .. digest, '(' .. digest .. '\\255')) do
    found[#found + 1] = string.sub(each, 33)
  end
elseif expired == '1' then
  found = redis.call('ZRANGEBYSCORE', dead, '-inf', now)
else
  found = redis.call('HKEYS', rows)
end
local removed, bytes, seen = {{}}, 0, {{}}
for _, each in ipairs(found) do
  local row = not seen[each] and redis.call('HGET', rows, each)
  if row and (scope == '*' or string.match(each, '^(%x*):') == scope) then
    seen[each] = true
    local at, expires, created, size, digests = take_apart(row)
    local tagged = digest == '' or string.find(digests, digest, 1, true)
    local old = created_before == '' or tonumber(created) < tonumber(created_before)
    if tagged and old and (version == '' or version == at) then
      bytes = bytes + drop(each)
      removed[#removed + 1] = each
      if remember == '1' then redis.call('ZADD', gone, now, each) end
    end
  end
end
if remember == '1' and #removed > 0 then
  redis.call('ZREMRANGEBYSCORE', gone, '-inf', '(' .. (tonumber(now) - {REMEMBERED_SECONDS}))
  redis.call('ZREMRANGEBYRANK', gone, 0, -{REMEMBERED_REMOVALS + 1})
end
if erase == '1' then
  redis.call('DEL', gone)
  add('erasures', 1)
end
if #removed > 0 or erase == '1' then add('changes', 1) end
return {{before, #removed > 0 or erase == '1', bytes, removed}}
"""
)
"""ARGV: place, nonce, scope, now, remember, digest of a tag, created before, version, expired, named, erase,
and the names."""

NOTE: Final = (
    _COMMON
    + """
local uses, ranked = ARGV[3], tonumber(ARGV[4])
if count('uses') < tonumber(uses) then redis.call('HSET', meta, 'uses', uses) end
local i = 5
for _ = 1, ranked do
  redis.call('ZADD', ranks, 'XX', ARGV[i + 1], ARGV[i])
  i = i + 2
end
while i < #ARGV do
  local member, wanted, later = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local row = redis.call('HGET', rows, member)
  if row then
    local version, expires, created, bytes, digests = take_apart(row)
    if version == wanted and expires ~= '-' then
      redis.call('HSET', rows, member, table.concat({version, later, created, bytes, digests}, ' '))
      redis.call('ZADD', dead, later, member)
      local left = redis.call('PTTL', place .. member)
      local more = math.floor((tonumber(later) - tonumber(expires)) * 1000)
      if left > 0 and more > 0 then redis.call('PEXPIRE', place .. member, left + more) end
    end
  end
  i = i + 3
end
return {before}
"""
)
"""ARGV: place, nonce, uses, number of ranks, entry and rank each, then entry, version and expiry each."""

TAKE_LEASE: Final = """
local lease, fence = KEYS[1], KEYS[2]
local holder = redis.call('GET', lease)
if holder and holder ~= ARGV[1] then return 0 end
if holder then
  redis.call('PEXPIRE', lease, ARGV[2])
  return tonumber(redis.call('GET', fence) or '0')
end
redis.call('SET', lease, ARGV[1], 'PX', ARGV[2])
local token = redis.call('INCR', fence)
if token == 1 then
  -- a counter that was lost begins anew above every token that it can have given
  local now = redis.call('TIME')
  token = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
  redis.call('SET', fence, string.format('%.0f', token))
end
redis.call('PEXPIRE', fence, ARGV[3])
return token
"""
"""ARGV: holder, milliseconds of lease and counter. Returns the fencing token; 0 where another holds it."""

KEEP_LEASE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

FREE_LEASE: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
