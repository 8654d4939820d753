"""The Lua scripts. Each touches the keys of one hash tag only, and may be repeated."""

import hashlib
from typing import NamedTuple

# In front of every script; `now` is in milliseconds.
_SHARED = """
local call = redis.call
local function ended(s) return s == 'done' or s == 'error' or s == 'cancelled' or s == 'lost' end
local function now()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
"""


class Script(NamedTuple):
    """A script and the name by which Redis finds it."""

    source: str
    sha: str


def _script(source: str) -> Script:
    source = _SHARED + source
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


# fmt: off
# KEYS run and blocks of each run. ARGV channel prefix; then of each run "attempt first_seq count ending run_id", its
# blocks, and if `ending` is 1: status, error, output, ended_at, expires_at, ttl of blocks and of record in ms.
# Returns of each run: 0 ok, 1 unknown, 2 fenced, 3 gap; number of its last block; whether a cancel was requested; bytes
# of its blocks. It runs for each token, so that Lua's own time counts.
APPEND = _script("""
local OK, UNKNOWN, FENCED, GAP = 0, 1, 2, 3
local concat, format, match, tonumber = table.concat, string.format, string.match, tonumber
local function publish(run_id, first, ending, from, to)
  local lengths = #ARGV[from]
  for i = from + 1, to do lengths = lengths .. ',' .. #ARGV[i] end
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
    bytes = bytes + #output
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
""")

# KEYS run, blocks, pieces. ARGV after, limit. Returns last_id, whether ended, and blocks or {first, piece}; or one of
# these numbers for a run without blocks.
NO_RUN, PURGED = -1, -2
READ = _script("""
local run = call('HMGET', KEYS[1], 'last_id', 'status', 'purged', 'sealed')
if not run[1] then return {-1} end
if run[3] == '1' then return {-2} end
local last, over, after = tonumber(run[1]), ended(run[2]) and 1 or 0, tonumber(ARGV[1])
if after >= last then return {last, over, 'blocks'} end
if run[4] then
  local found
  for first in string.gmatch(run[4], '%d+') do
    if tonumber(first) <= after + 1 then found = first end
  end
  local piece = call('HGET', KEYS[3], found)
  if not piece then return {-2} end
  return {last, over, 'piece', tonumber(found), piece}
end
local blocks = {}
for i, entry in ipairs(call('XRANGE', KEYS[2], (after + 1) .. '-0', '+', 'COUNT', ARGV[2])) do
  blocks[i] = entry[2][2]
end
if #blocks == 0 and over == 1 then return {-2} end
return {last, over, 'blocks', blocks}
""")

# KEYS run. Returns all fields and values.
RECORD = _script("return call('HGETALL', KEYS[1])")

# KEYS run, request. ARGV request or '', its ttl in ms, then fields and values. Returns whether the run is new.
CREATE = _script("""
if call('EXISTS', KEYS[1]) == 1 then return 0 end
call('HSET', KEYS[1], unpack(ARGV, 3))
if ARGV[1] ~= '' then call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2]) end
return 1
""")

# KEYS run, readers, request. ARGV ms. Drops a run that never started, unless it has readers. Returns whether it is
# gone. For these ms nothing creates it: its CREATE may still be on its way, on a connection that was given up.
DISCARD = _script("""
local run = call('HMGET', KEYS[1], 'status', 'last_id')
if run[1] and (run[1] ~= 'queued' or run[2] ~= '0' or call('EXISTS', KEYS[2]) == 1) then return 0 end
call('UNLINK', KEYS[1], KEYS[3])
if ARGV[1] ~= '0' then
  call('HSET', KEYS[1], 'status', 'lost')
  call('PEXPIRE', KEYS[1], ARGV[1])
end
return 1
""")

# KEYS key. ARGV run_id, a run that the key may no longer name, ttl in ms. Returns the run that the key names now.
CLAIM = _script("""
local named = call('GET', KEYS[1])
if named and named ~= ARGV[2] then return named end
call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return ARGV[1]
""")

# KEYS key. ARGV run_id.
UNCLAIM = _script("if call('GET', KEYS[1]) == ARGV[1] then call('DEL', KEYS[1]) end return 1")

# KEYS thread. ARGV run_id, whether it must be alone, ttl in ms, runs that have ended. Returns the run that has the
# thread instead, or ''.
ENTER = _script("""
if #ARGV > 3 then call('ZREM', KEYS[1], unpack(ARGV, 4)) end
if call('ZSCORE', KEYS[1], ARGV[1]) then return '' end
if ARGV[2] == '1' then
  local holder = call('ZRANGE', KEYS[1], 0, 0)[1]
  if holder then return holder end
end
local last = call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2] or '0'
call('ZADD', KEYS[1], tonumber(last) + 1, ARGV[1])
call('PEXPIRE', KEYS[1], ARGV[3])
return ''
""")

# KEYS run. ARGV worker, control prefix, run_id. Notifies the owner of a live run, unless it is the caller. Returns it.
CANCEL = _script("""
local run = call('HMGET', KEYS[1], 'status', 'worker')
if not run[1] or ended(run[1]) then return '' end
if run[2] ~= ARGV[1] then
  call('HSET', KEYS[1], 'cancel', 1)
  call('PUBLISH', ARGV[2] .. run[2], 'cancel ' .. ARGV[3])
end
return run[2]
""")

# KEYS run, readers. ARGV worker, whether it has readers, control prefix, run_id, ttl in ms. Notifies the owner.
READING = _script("""
if ARGV[2] == '1' then
  call('HSET', KEYS[2], ARGV[1], 1)
  call('PEXPIRE', KEYS[2], ARGV[5])
else
  call('HDEL', KEYS[2], ARGV[1])
end
local owner = call('HGET', KEYS[1], 'worker')
if owner and owner ~= ARGV[1] then call('PUBLISH', ARGV[3] .. owner, 'readers ' .. ARGV[4]) end
return 1
""")

# KEYS run, request. ARGV the dead worker, the new owner. Returns the record; nothing if the dead worker does not own
# the run; of a run that has ended, the bytes of its blocks: a worker that died then left its request, and may not have
# counted it.
TAKE = _script("""
local run = call('HMGET', KEYS[1], 'status', 'worker', 'purged', 'size')
local over = not run[1] or ended(run[1])
if over then call('UNLINK', KEYS[2]) end
if not run[1] or run[2] ~= ARGV[1] or (over and run[3] == '1') then return {} end
if over then return {run[4] or '0'} end
call('HINCRBY', KEYS[1], 'attempt', 1)
call('HSET', KEYS[1], 'worker', ARGV[2])
return call('HGETALL', KEYS[1])
""")

# KEYS leases, beats. ARGV worker, lease in ms, control channel. Returns the state of the worker's lease (0 good, 1
# over, 2 unknown) and the dead workers. After 3/4 of a lease without any heartbeat Redis was away: none is dead yet.
HEARTBEAT = _script("""
local now, lease = now(), tonumber(ARGV[2])
local beats = call('HMGET', KEYS[2], 'last', 'grace')
local grace = tonumber(beats[2] or '0')
if now - tonumber(beats[1] or '0') > lease * 3 / 4 then
  grace = now + lease
  call('HSET', KEYS[2], 'grace', grace)
end
call('HSET', KEYS[2], 'last', now)
local mine = call('ZSCORE', KEYS[1], ARGV[1])
call('ZADD', KEYS[1], now + lease, ARGV[1])
call('PUBLISH', ARGV[3], 'beat')
local state = not mine and 2 or (tonumber(mine) < now and 1 or 0)
if now < grace then return {state, {}} end
return {state, call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. now, 'LIMIT', 0, 256)}
""")

# KEYS leases, beats. ARGV workers. Returns whether one of them is alive.
ALIVE = _script("""
local now = now()
local grace = now < tonumber(call('HGET', KEYS[2], 'grace') or '0')
for _, worker in ipairs(ARGV) do
  local lease = call('ZSCORE', KEYS[1], worker)
  if lease and (grace or tonumber(lease) >= now) then return 1 end
end
return 0
""")

# KEYS leases. ARGV worker, ms. Removes a worker whose lease ended longer ago.
REMOVE_WORKER = _script("""
local lease = call('ZSCORE', KEYS[1], ARGV[1])
if lease and tonumber(lease) < now() - tonumber(ARGV[2]) then call('ZREM', KEYS[1], ARGV[1]) end
return 1
""")

# KEYS order, info, totals. ARGV maximum of runs and of bytes, then run_id and "bytes expires_at" of each run. Returns
# the runs to purge.
ENDED = _script("""
for i = 3, #ARGV, 2 do
  if call('HSETNX', KEYS[2], ARGV[i], ARGV[i + 1]) == 1 then
    call('ZADD', KEYS[1], call('HINCRBY', KEYS[3], 'count', 1), ARGV[i])
    call('HINCRBY', KEYS[3], 'bytes', string.match(ARGV[i + 1], '^%d+'))
  end
end
local runs, bytes = call('ZCARD', KEYS[1]), tonumber(call('HGET', KEYS[3], 'bytes') or '0')
local surplus = {}
for _, run in ipairs(call('ZRANGE', KEYS[1], 0, 99)) do
  if runs <= tonumber(ARGV[1]) and (bytes <= tonumber(ARGV[2]) or runs <= 1) then break end
  surplus[#surplus + 1] = run
  runs, bytes = runs - 1, bytes - tonumber(string.match(call('HGET', KEYS[2], run), '^%d+'))
end
return surplus
""")

# KEYS order, info, tombstones, totals. ARGV now. Returns some of the runs to purge and of the tombstones to drop, the
# number of runs that are kept, and their bytes.
DUE = _script("""
local due, now = {}, tonumber(ARGV[1])
for _, run in ipairs(call('ZRANGE', KEYS[1], 0, 99)) do
  if tonumber(string.match(call('HGET', KEYS[2], run), ' (.*)$')) > now then break end
  due[#due + 1] = run
end
local forgotten = call('ZRANGEBYSCORE', KEYS[3], '-inf', ARGV[1], 'LIMIT', 0, 100)
return {due, forgotten, call('ZCARD', KEYS[1]), tonumber(call('HGET', KEYS[4], 'bytes') or '0')}
""")

# KEYS run, blocks, pieces, readers. ARGV channel, ttl in ms. Returns nothing for a live run, else its key or ''.
PURGE = _script("""
local run = call('HMGET', KEYS[1], 'status', 'key')
if run[1] and not ended(run[1]) then return {} end
if run[1] then
  call('HSET', KEYS[1], 'purged', 1)
  call('HDEL', KEYS[1], 'output')
  call('PEXPIRE', KEYS[1], ARGV[2])
end
call('UNLINK', KEYS[2], KEYS[3], KEYS[4])
call('PUBLISH', ARGV[1], 'purged')
return {run[2] or ''}
""")

# KEYS order, info, totals, tombstones. ARGV run_id, when its tombstone is dropped.
TOMBSTONE = _script("""
local info = call('HGET', KEYS[2], ARGV[1])
if not info then return 0 end
call('HDEL', KEYS[2], ARGV[1])
call('ZREM', KEYS[1], ARGV[1])
call('HINCRBY', KEYS[3], 'bytes', -tonumber(string.match(info, '^%d+')))
call('ZADD', KEYS[4], ARGV[2], ARGV[1])
return 1
""")

# KEYS run, blocks, pieces. ARGV numbers of the pieces' first blocks, ttl in ms.
SEAL = _script("""
if call('HGET', KEYS[1], 'purged') ~= '0' then return call('UNLINK', KEYS[3]) end
call('HSET', KEYS[1], 'sealed', ARGV[1])
call('PEXPIRE', KEYS[3], ARGV[2])
return call('UNLINK', KEYS[2])
""")
