"""The Lua scripts. Each touches the keys of one hash tag only, and repeating it is harmless."""

from __future__ import annotations

import hashlib
from typing import NamedTuple


class Script(NamedTuple):
    """A script and the name under which Redis knows it."""

    source: str
    sha: str


def _script(source: str) -> Script:
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


_ENDED = "local function ended(s) return s == 'done' or s == 'error' or s == 'cancelled' or s == 'lost' end\n"

# KEYS run, blocks of each run. ARGV channel prefix, then of each run: "attempt first_seq count ending run_id", its
# blocks, and if `ending` is 1: status, error, output, ended_at, expires_at, milliseconds that blocks and record stay at
# most. -> of each run: 0 ok, 1 unknown, 2 fenced, 3 gap; its last block's number; whether somebody wants it
# cancelled; bytes of its blocks.
# It runs for each token, so that what Lua itself takes counts: nothing is collected for one block.
APPEND = _script(
    _ENDED
    + """
local OK, UNKNOWN, FENCED, GAP = 0, 1, 2, 3
local call, concat, format, match, tonumber = redis.call, table.concat, string.format, string.match, tonumber
local function publish(run_id, first, ending, from, to)
  local lengths
  if from == to then
    lengths = #ARGV[to]
  else
    lengths = {}
    for i = from, to do lengths[#lengths + 1] = #ARGV[i] end
    lengths = concat(lengths, ',')
  end
  local head = format('%d %d ', first, ending and 1 or 0) .. lengths .. '\\n'
  call('PUBLISH', ARGV[1] .. run_id, head .. concat(ARGV, '', from, to))
end
local function append(key, blocks, at, attempt, first, count, ending, run_id)
  local run = call('HMGET', key, 'attempt', 'last_id', 'status', 'purged', 'cancel', 'size')
  if not run[1] then return UNKNOWN, 0, 0, 0 end
  local last, over, purged = tonumber(run[2]), ended(run[3]), run[4] == '1'
  local bytes = tonumber(run[6] or '0')
  local repeated = first + count <= last + 1 and not purged
  if run[1] ~= attempt or (over and not repeated) then return FENCED, last, 0, 0 end
  if over then return OK, last, 0, bytes end
  if first > last + 1 then return GAP, last, 0, 0 end
  local from, to = at + last + 1 - first, at + count - 1
  for i = from, to do
    last = last + 1
    call('XADD', blocks, format('%d-0', last), 'b', ARGV[i])
    bytes = bytes + #ARGV[i]
  end
  if ending then
    local status, error, output, ended_at, expires_at, blocks_ttl, record_ttl = unpack(ARGV, at + count, at + count + 6)
    call('HSET', key, 'last_id', last, 'size', bytes, 'status', status, 'ended_at', ended_at, 'expires_at', expires_at)
    if error ~= '' then call('HSET', key, 'error', error) end
    if output ~= '' then call('HSET', key, 'output', output) end
    call('PEXPIRE', blocks, blocks_ttl)
    call('PEXPIRE', key, record_ttl)
  else
    call('HSET', key, 'last_id', format('%d', last), 'size', format('%d', bytes), 'status', 'running')
  end
  if from <= to then publish(run_id, last - (to - from), ending, from, to) end
  return OK, last, run[5] and 1 or 0, bytes
end
local answers, at = {}, 2
for i = 1, #KEYS, 2 do
  local attempt, first, count, ending, run_id = match(ARGV[at], '^(%S+) (%S+) (%d+) (%d) (.*)$')
  count, ending = tonumber(count), ending == '1'
  local n = 2 * i - 2
  answers[n + 1], answers[n + 2], answers[n + 3], answers[n + 4] =
    append(KEYS[i], KEYS[i + 1], at + 1, attempt, tonumber(first), count, ending, run_id)
  at = at + 1 + count + (ending and 7 or 0)
end
return answers
"""
)

# KEYS run, blocks, pieces. ARGV after, limit. -> last_id, whether ended, blocks or {first, piece}.
READ = _script(
    _ENDED
    + """
local run = redis.call('HMGET', KEYS[1], 'last_id', 'status', 'purged', 'sealed')
if not run[1] then return {-1} end
if run[3] == '1' then return {-2} end
local last, over, after = tonumber(run[1]), ended(run[2]) and 1 or 0, tonumber(ARGV[1])
if after >= last then return {last, over, 'blocks'} end
if run[4] then
  local found
  for first in string.gmatch(run[4], '%d+') do
    if tonumber(first) <= after + 1 then found = first end
  end
  local piece = redis.call('HGET', KEYS[3], found)
  if not piece then return {-2} end
  return {last, over, 'piece', tonumber(found), piece}
end
local blocks = {}
for i, entry in ipairs(redis.call('XRANGE', KEYS[2], (after + 1) .. '-0', '+', 'COUNT', ARGV[2])) do
  blocks[i] = entry[2][2]
end
if #blocks == 0 and over == 1 then return {-2} end
return {last, over, 'blocks', blocks}
"""
)

# KEYS run. -> all fields and values.
RECORD = _script("return redis.call('HGETALL', KEYS[1])")

# KEYS run. ARGV fields and values. -> whether it is new.
CREATE = _script(
    """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV))
return 1
"""
)

# KEYS run, readers. Drops a run that never started, unless somebody reads it already. -> whether it is gone.
DISCARD = _script(
    """
local run = redis.call('HMGET', KEYS[1], 'status', 'last_id')
if not run[1] then return 1 end
if run[1] ~= 'queued' or run[2] ~= '0' or redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('DEL', KEYS[1])
return 1
"""
)

# KEYS key. ARGV run_id, the run that no longer counts, milliseconds. -> the run that the key names now.
CLAIM = _script(
    """
local named = redis.call('GET', KEYS[1])
if named and named ~= ARGV[2] then return named end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return ARGV[1]
"""
)

# KEYS key. ARGV run_id.
UNCLAIM = _script("if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end return 1")

# KEYS thread. ARGV run_id, whether it must be alone, milliseconds, runs that are not live. -> who is there instead.
ENTER = _script(
    """
if #ARGV > 3 then redis.call('ZREM', KEYS[1], unpack(ARGV, 4)) end
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return '' end
if ARGV[2] == '1' then
  local holder = redis.call('ZRANGE', KEYS[1], 0, 0)[1]
  if holder then return holder end
end
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2] or '0'
redis.call('ZADD', KEYS[1], tonumber(last) + 1, ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return ''
"""
)

# KEYS run. ARGV worker, control prefix, run_id. -> the owner of a live run, which is told unless it is the asker.
CANCEL = _script(
    _ENDED
    + """
local run = redis.call('HMGET', KEYS[1], 'status', 'worker')
if not run[1] or ended(run[1]) then return '' end
if run[2] ~= ARGV[1] then
  redis.call('HSET', KEYS[1], 'cancel', 1)
  redis.call('PUBLISH', ARGV[2] .. run[2], 'cancel ' .. ARGV[3])
end
return run[2]
"""
)

# KEYS run, readers. ARGV worker, 1 or 0, control prefix, run_id, milliseconds.
READING = _script(
    """
if ARGV[2] == '1' then
  redis.call('HSET', KEYS[2], ARGV[1], 1)
  redis.call('PEXPIRE', KEYS[2], ARGV[5])
else
  redis.call('HDEL', KEYS[2], ARGV[1])
end
local owner = redis.call('HGET', KEYS[1], 'worker')
if owner and owner ~= ARGV[1] then redis.call('PUBLISH', ARGV[3] .. owner, 'readers ' .. ARGV[4]) end
return 1
"""
)

# KEYS run. ARGV the lost worker, the new owner. -> the record, or nothing if it is not the lost worker's.
TAKE = _script(
    _ENDED
    + """
local run = redis.call('HMGET', KEYS[1], 'status', 'worker')
if not run[1] or ended(run[1]) or run[2] ~= ARGV[1] then return {} end
redis.call('HINCRBY', KEYS[1], 'attempt', 1)
redis.call('HSET', KEYS[1], 'worker', ARGV[2])
return redis.call('HGETALL', KEYS[1])
"""
)

# KEYS leases, beats. ARGV worker, lease in ms, control channel. -> how the lease was (0 good, 1 over, 2 unknown)
# and whose is over. When nobody was heard of for 3/4 of a lease the store was away, and nobody is given up yet.
BEAT = _script(
    """
local time = redis.call('TIME')
local now, lease = time[1] * 1000 + math.floor(time[2] / 1000), tonumber(ARGV[2])
local beats = redis.call('HMGET', KEYS[2], 'last', 'grace')
local grace = tonumber(beats[2] or '0')
if now - tonumber(beats[1] or '0') > lease * 3 / 4 then
  grace = now + lease
  redis.call('HSET', KEYS[2], 'grace', grace)
end
redis.call('HSET', KEYS[2], 'last', now)
local mine = redis.call('ZSCORE', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], now + lease, ARGV[1])
redis.call('PUBLISH', ARGV[3], 'beat')
local state = not mine and 2 or (tonumber(mine) < now and 1 or 0)
if now < grace then return {state, {}} end
return {state, redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. now, 'LIMIT', 0, 256)}
"""
)

# KEYS leases, beats. ARGV workers. -> whether the lease of one of them lasts.
ALIVE = _script(
    """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local grace = now < tonumber(redis.call('HGET', KEYS[2], 'grace') or '0')
for _, worker in ipairs(ARGV) do
  local lease = redis.call('ZSCORE', KEYS[1], worker)
  if lease and (grace or tonumber(lease) >= now) then return 1 end
end
return 0
"""
)

# KEYS leases. ARGV worker, milliseconds. Forgets a worker whose lease ended so long ago.
FORGET = _script(
    """
local time = redis.call('TIME')
local lease = redis.call('ZSCORE', KEYS[1], ARGV[1])
if lease and tonumber(lease) < time[1] * 1000 - tonumber(ARGV[2]) then redis.call('ZREM', KEYS[1], ARGV[1]) end
return 1
"""
)

# KEYS order, info, totals. ARGV runs at most, bytes at most, then run_id and "bytes expires_at" of each. -> runs to
# purge.
ENDED = _script(
    """
for i = 3, #ARGV, 2 do
  if redis.call('HSETNX', KEYS[2], ARGV[i], ARGV[i + 1]) == 1 then
    redis.call('ZADD', KEYS[1], redis.call('HINCRBY', KEYS[3], 'count', 1), ARGV[i])
    redis.call('HINCRBY', KEYS[3], 'bytes', string.match(ARGV[i + 1], '^%d+'))
  end
end
local runs, bytes = redis.call('ZCARD', KEYS[1]), tonumber(redis.call('HGET', KEYS[3], 'bytes') or '0')
local surplus = {}
for _, run in ipairs(redis.call('ZRANGE', KEYS[1], 0, 99)) do
  if runs <= tonumber(ARGV[1]) and (bytes <= tonumber(ARGV[2]) or runs <= 1) then break end
  surplus[#surplus + 1] = run
  runs, bytes = runs - 1, bytes - tonumber(string.match(redis.call('HGET', KEYS[2], run), '^%d+'))
end
return surplus
"""
)

# KEYS order, info, tombstones, totals. ARGV now. -> runs to purge, tombstones to drop; some of them. How many runs are
# kept, and their bytes.
DUE = _script(
    """
local due, now = {}, tonumber(ARGV[1])
for _, run in ipairs(redis.call('ZRANGE', KEYS[1], 0, 99)) do
  if tonumber(string.match(redis.call('HGET', KEYS[2], run), ' (.*)$')) > now then break end
  due[#due + 1] = run
end
local forgotten = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', ARGV[1], 'LIMIT', 0, 100)
return {due, forgotten, redis.call('ZCARD', KEYS[1]), tonumber(redis.call('HGET', KEYS[4], 'bytes') or '0')}
"""
)

# KEYS run, blocks, pieces, readers. ARGV channel, milliseconds. -> nothing for a live run, else its key or ''.
PURGE = _script(
    _ENDED
    + """
local run = redis.call('HMGET', KEYS[1], 'status', 'key')
if run[1] and not ended(run[1]) then return {} end
if run[1] then
  redis.call('HSET', KEYS[1], 'purged', 1)
  redis.call('HDEL', KEYS[1], 'output')
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
redis.call('UNLINK', KEYS[2], KEYS[3], KEYS[4])
redis.call('PUBLISH', ARGV[1], 'purged')
return {run[2] or ''}
"""
)

# KEYS order, info, totals, tombstones. ARGV run_id, when its tombstone is dropped.
BURY = _script(
    """
local info = redis.call('HGET', KEYS[2], ARGV[1])
if not info then return 0 end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HINCRBY', KEYS[3], 'bytes', -tonumber(string.match(info, '^%d+')))
redis.call('ZADD', KEYS[4], ARGV[2], ARGV[1])
return 1
"""
)

# KEYS run, blocks, pieces. ARGV numbers of the pieces' first blocks, milliseconds.
SEAL = _script(
    """
if redis.call('HGET', KEYS[1], 'purged') ~= '0' then return redis.call('UNLINK', KEYS[3]) end
redis.call('HSET', KEYS[1], 'sealed', ARGV[1])
redis.call('PEXPIRE', KEYS[3], ARGV[2])
return redis.call('UNLINK', KEYS[2])
"""
)
