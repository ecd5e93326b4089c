"""What Redis does in one step: Lua, because no other node may come between."""

from __future__ import annotations

import hashlib

from realtime.state import resp


class Script:
    """
    One Lua script.

    Where it needs more keys than it is given it makes their names itself, from the prefix in its first argument:
    one Redis holds them all.

    """

    def __init__(self, source: str, *, run: bool = False, grows: bool = False) -> None:
        self.source = source.strip().encode()
        self.run = run
        """Whether its first argument is the run of the server process that it is sent to."""
        self.grows = grows
        """Whether it always needs memory: one that succeeds shows that Redis takes writes."""
        self._sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest().encode()

    def call(self, keys: int, words: list[bytes]) -> bytes:
        """Return the request that runs it by its hash; the first ``keys`` words are keys."""
        return b"*%d\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n$%d\r\n%d\r\n%b" % (
            len(words) + 3,
            self._sha,
            len(str(keys)),
            keys,
            resp.arguments(words),
        )

    def whole_call(self, keys: int, words: list[bytes]) -> bytes:
        """Return the request that brings the source along, for a Redis that has forgotten it."""
        return resp.encode(b"EVAL", self.source, b"%d" % keys, *words)


_NOW = """
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + time[2] / 1000
end
"""
# Milliseconds since the epoch, with a fraction. Redis keeps scores as doubles, which hold that exactly enough.

_POSITION = """
-- The room's epoch and top. A room without gets a new epoch; so does one whose offsets another server process gave
-- out: a Redis that was restarted, or was a replica, may not have the last of what it said yes to.
-- Nothing is expired before anything is written: a full Redis looks at the first write of a script only, and lets a
-- script that began with one that needs no memory go on as it likes.
local function position(key, stream, run)
  local known = redis.call('HMGET', key, 'epoch', 'top', 'run')
  local epoch, top = known[1], known[2] or '0'
  if known[3] ~= run then
    local time = redis.call('TIME')
    local new = run .. '-' .. string.format('%x', time[1] * 1000000 + time[2])
    redis.call('HSET', key, 'epoch', new, 'top', top, 'run', run)
    if epoch then
      redis.call('HSET', key, 'before', epoch, 'before_top', top)
    else
      redis.call('DEL', stream)
    end
    epoch = new
  end
  return epoch, tonumber(top)
end

-- Let a key stay for at least this long.
local function keep(key, ttl)
  if redis.call('PTTL', key) < tonumber(ttl) then redis.call('PEXPIRE', key, ttl) end
end
"""

APPEND = Script(
    _POSITION
    + """
-- KEYS: position, stream, and where duplicates count, the first one's. ARGV: run, its ttl, payload, size, ttl, window.
if KEYS[3] then
  local first = redis.call('GET', KEYS[3])
  if first then return first end
end
local epoch, top = position(KEYS[1], KEYS[2], ARGV[1])
local offset = string.format('%.0f', top + 1)
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[4], offset .. '-0', 'p', ARGV[3])
redis.call('HSET', KEYS[1], 'top', offset)
keep(KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
if KEYS[3] then redis.call('SET', KEYS[3], offset .. ' ' .. epoch, 'PX', ARGV[6]) end
return {epoch, top + 1}
""",
    run=True,
    grows=True,
)

TOP = Script(
    _POSITION
    + """
-- KEYS: position and stream of each room. ARGV: run, ttl, whether to create.
local tops = {}
for i = 1, #KEYS, 2 do
  if ARGV[3] == '1' or redis.call('EXISTS', KEYS[i]) == 1 then
    local epoch, top = position(KEYS[i], KEYS[i + 1], ARGV[1])
    keep(KEYS[i], ARGV[2])
    local before = redis.call('HMGET', KEYS[i], 'before', 'before_top')
    tops[#tops + 1] = {epoch, top, before[1], before[2]}
  else
    tops[#tops + 1] = false
  end
end
return tops
""",
    run=True,
)

SINCE = Script(
    _POSITION
    + """
-- KEYS: position, stream. ARGV: run, ttl, offset, limit. Epoch and top, those before, whether all is there, payloads.
if redis.call('EXISTS', KEYS[1]) == 0 then return false end
local epoch, top = position(KEYS[1], KEYS[2], ARGV[1])
keep(KEYS[1], ARGV[2])
local before = redis.call('HMGET', KEYS[1], 'before', 'before_top')
local found = {epoch, top, before[1], before[2], 0}
local offset, limit = tonumber(ARGV[3]), tonumber(ARGV[4])
local wanted = math.min(top - offset, limit)
if wanted < 0 then return found end
if wanted > 0 then
  local entries = redis.call('XRANGE', KEYS[2], '(' .. ARGV[3] .. '-0', '+', 'COUNT', wanted)
  -- Entries go at the old end only: as many as are wanted, and the last of them the wanted one, are all of them.
  if #entries < wanted or entries[wanted][1] ~= string.format('%.0f-0', offset + wanted) then return found end
  for i = 1, wanted do found[5 + i] = entries[i][2][2] end
end
found[5] = 1
return found
""",
    run=True,
)

_SESSIONS = """
-- What is kept under keys: 'r' of a session that was revoked, else the turn of who resumed it last, a blank, and an 's'
-- with the data or an 'n' where there is none.
local function sessions(keys)
  local found, kept = redis.call('MGET', unpack(keys)), {}
  for i, key in ipairs(keys) do kept[key] = found[i] or '0 n' end
  return kept
end
local function turn_of(value) return tonumber(string.match(value, '^%d+')) end
"""

SAVE_SESSIONS = Script(
    _SESSIONS
    + """
-- KEYS: sessions. ARGV: data, ttl and turn of each. Whether each was kept.
local kept, saved = sessions(KEYS), {}
for i, key in ipairs(KEYS) do
  local turn, known = ARGV[3 * i], turn_of(kept[key])
  saved[i] = 0
  if known and known <= tonumber(turn) then
    kept[key] = turn .. ' s' .. ARGV[3 * i - 2]
    redis.call('SET', key, kept[key], 'PX', ARGV[3 * i - 1])
    saved[i] = 1
  end
end
return saved
""",
    grows=True,
)

RESUME_SESSIONS = Script(
    _NOW
    + _SESSIONS
    + """
-- KEYS: sessions. ARGV: ttl of each. What is kept of each from now on. Turns follow the clock, so that they go on where
-- Redis has lost the last one.
local kept, found, time = sessions(KEYS), {}, math.floor(now())
for i, key in ipairs(KEYS) do
  local known = turn_of(kept[key])
  if known then
    local turn = string.format('%.0f', math.max(known + 1, time))
    kept[key] = turn .. string.match(kept[key], ' .*')
    redis.call('SET', key, kept[key], 'PX', ARGV[i])
  end
  found[i] = kept[key]
end
return found
""",
    grows=True,
)

DROP_SESSIONS = Script(
    _SESSIONS
    + """
-- KEYS: sessions. Who resumed one last is remembered.
local kept, gone = sessions(KEYS), {}
for _, key in ipairs(KEYS) do
  local turn = turn_of(kept[key])
  if turn == 0 then
    gone[#gone + 1] = key
  elseif turn then
    redis.call('SET', key, string.format('%.0f n', turn), 'KEEPTTL')
  end
end
if #gone > 0 then redis.call('DEL', unpack(gone)) end
return KEYS
"""
)

_FORGET = """
-- Remove a node with all that hangs on it.
local function forget(prefix, id)
  local node = prefix .. 'node:' .. id
  for _, room in ipairs(redis.call('SMEMBERS', node .. ':rooms')) do
    redis.call('DEL', prefix .. 'present:' .. #id .. ':' .. id .. ':' .. room)
    redis.call('SREM', prefix .. 'present-nodes:' .. room, id)
  end
  for _, what in ipairs(redis.call('SMEMBERS', node .. ':held')) do
    redis.call('HDEL', prefix .. 'open:' .. what, id)
  end
  redis.call('DEL', node, node .. ':rooms', node .. ':held', node .. ':clients')
  redis.call('ZREM', prefix .. 'nodes', id)
end
"""

RENEW_NODE = Script(
    _NOW
    + _FORGET
    + """
-- ARGV: run, prefix, id, row, lease, ttl.
local prefix, id = ARGV[2], ARGV[3]
local node = prefix .. 'node:' .. id
local fresh = 0
if not redis.call('ZSCORE', prefix .. 'nodes', id) or redis.call('HGET', node, 'run') ~= ARGV[1] then
  forget(prefix, id)
  fresh = 1
end
local time = now()
redis.call('HSET', node, 'row', ARGV[4], 'run', ARGV[1], 'renewed', string.format('%.3f', time))
redis.call('ZADD', prefix .. 'nodes', string.format('%.3f', time + ARGV[5]), id)
for _, key in ipairs({prefix .. 'nodes', node, node .. ':rooms', node .. ':held', node .. ':clients'}) do
  redis.call('PEXPIRE', key, ARGV[6])
end
return {string.format('%.3f', time), fresh}
""",
    run=True,
    grows=True,
)

NODES = Script(
    _NOW
    + """
-- ARGV: prefix. The time, then id, row and time of renewal of each living node.
local time = now()
local found = {string.format('%.3f', time)}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', ARGV[1] .. 'nodes', string.format('(%.3f', time), '+inf')) do
  local node = redis.call('HMGET', ARGV[1] .. 'node:' .. id, 'row', 'renewed')
  if node[1] then found[#found + 1] = {id, node[1], node[2]} end
end
return found
"""
)

DROP_NODE = Script(_FORGET + "forget(ARGV[1], ARGV[2]) return 0")

_LIVES = (
    _NOW
    + """
local function living(prefix)
  local time = now()
  return function(id)
    local expires = redis.call('ZSCORE', prefix .. 'nodes', id)
    return expires and tonumber(expires) > time
  end
end
"""
)

_ALL_OF = """
-- Give a command the words from one to another, as many at once as Lua can take: an even number, for they may be pairs.
local function all_of(command, key, first, last)
  for i = first, last, 1000 do redis.call(command, key, unpack(ARGV, i, math.min(i + 999, last))) end
end
"""

WRITE_REGISTRY = Script(
    _ALL_OF
    + """
-- KEYS: clients of a node. ARGV: ttl, how many words are of those that changed, those words, ids of those that are gone.
local changed = tonumber(ARGV[2])
all_of('HSET', KEYS[1], 3, 2 + changed)
all_of('HDEL', KEYS[1], 3 + changed, #ARGV)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 0
"""
)

REGISTRY = Script(
    _LIVES
    + """
-- ARGV: prefix, id.
if not living(ARGV[1])(ARGV[2]) then return {} end
return redis.call('HGETALL', ARGV[1] .. 'node:' .. ARGV[2] .. ':clients')
"""
)

SET_PRESENCE = Script(
    _ALL_OF
    + """
-- KEYS: clients of a node in a room, nodes in the room, rooms of the node. ARGV: ttl, id of the node, room, id, entry, ...
all_of('HSET', KEYS[1], 4, #ARGV)
redis.call('SADD', KEYS[2], ARGV[2])
redis.call('SADD', KEYS[3], ARGV[3])
for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], ARGV[1]) end
return 0
"""
)

DROP_PRESENCE = Script(
    _ALL_OF
    + """
-- KEYS: clients of a node in a room, nodes in the room, rooms of the node. ARGV: id of the node, room, ids.
all_of('HDEL', KEYS[1], 3, #ARGV)
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('SREM', KEYS[2], ARGV[1])
  redis.call('SREM', KEYS[3], ARGV[2])
end
return 0
"""
)

PRESENCE = Script(
    _LIVES
    + """
-- KEYS: nodes in a room. ARGV: prefix, room, the command to ask of each node's clients there.
local lives = living(ARGV[1])
local found = {}
for _, id in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if lives(id) then
    found[#found + 1] = {id, redis.call(ARGV[3], ARGV[1] .. 'present:' .. #id .. ':' .. id .. ':' .. ARGV[2])}
  end
end
return found
"""
)

ENTER = Script(
    _LIVES
    + """
-- KEYS: counts by node, arrival of the rate, what the node holds. ARGV: prefix, id of the node, what, ttl, max_concurrent,
-- interval and depth of the rate (a generic cell rate; milliseconds, 0: off).
local most, interval, depth = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
if most > 0 then
  local lives = living(ARGV[1])
  local counts, sum = redis.call('HGETALL', KEYS[1]), 0
  for i = 1, #counts, 2 do
    -- The node that asks does live, even if it has not said so yet.
    if counts[i] == ARGV[2] or lives(counts[i]) then sum = sum + counts[i + 1] end
  end
  if sum >= most then return {0, 'concurrent', '0'} end
end
if interval > 0 then
  local time = now()
  local ahead = math.max(tonumber(redis.call('GET', KEYS[2]) or 0) - time, 0) + interval
  if ahead - depth > 0.001 then return {0, 'rate', string.format('%.3f', ahead - depth)} end
  redis.call('SET', KEYS[2], string.format('%.3f', time + ahead), 'PX', math.ceil(ahead) + 1)
end
if most > 0 then
  redis.call('HINCRBY', KEYS[1], ARGV[2], 1)
  redis.call('SADD', KEYS[3], ARGV[3])
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  redis.call('PEXPIRE', KEYS[3], ARGV[4])
end
return {1, '', '0'}
"""
)

LEAVE = Script("""
-- KEYS: counts by node, what the node holds. ARGV: id of the node, what.
local count = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0)
if count > 1 then
  redis.call('HINCRBY', KEYS[1], ARGV[1], -1)
else
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('SREM', KEYS[2], ARGV[2])
end
return 0
""")

HOLD = Script("""
-- KEYS: what the node holds. ARGV: prefix, id of the node, ttl, what, count, ...
for _, what in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  redis.call('HDEL', ARGV[1] .. 'open:' .. what, ARGV[2])
end
redis.call('DEL', KEYS[1])
for i = 4, #ARGV, 2 do
  local counts = ARGV[1] .. 'open:' .. ARGV[i]
  redis.call('HSET', counts, ARGV[2], ARGV[i + 1])
  redis.call('PEXPIRE', counts, ARGV[3])
  redis.call('SADD', KEYS[1], ARGV[i])
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 0
""")

LEAD = Script("""
-- ARGV: id of the node, lease.
local leader = redis.call('GET', KEYS[1])
if leader and leader ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
""")

SWEEP = Script(
    _NOW
    + _FORGET
    + """
-- ARGV: prefix, ttl, how long the living need no renewal. Removes the dead; now and then renews the keys of the living.
local prefix = ARGV[1]
local dead = redis.call('ZRANGEBYSCORE', prefix .. 'nodes', '-inf', string.format('%.3f', now()))
for _, id in ipairs(dead) do forget(prefix, id) end
if redis.call('SET', prefix .. 'renewed', '1', 'NX', 'PX', ARGV[3]) then
  for _, id in ipairs(redis.call('ZRANGE', prefix .. 'nodes', 0, -1)) do
    local node = prefix .. 'node:' .. id
    for _, room in ipairs(redis.call('SMEMBERS', node .. ':rooms')) do
      redis.call('PEXPIRE', prefix .. 'present:' .. #id .. ':' .. id .. ':' .. room, ARGV[2])
      redis.call('PEXPIRE', prefix .. 'present-nodes:' .. room, ARGV[2])
    end
    for _, what in ipairs(redis.call('SMEMBERS', node .. ':held')) do
      redis.call('PEXPIRE', prefix .. 'open:' .. what, ARGV[2])
    end
  end
end
return #dead
"""
)

ENTER_GROUP = Script(
    _NOW
    + """
-- KEYS: channels of a group by when they leave it. ARGV: channel, ttl.
local time = now()
redis.call('ZADD', KEYS[1], string.format('%.3f', time + ARGV[2]), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.3f', time))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 0
"""
)

SEND_TO_GROUP = Script(
    _NOW
    + """
-- KEYS: channels of a group by when they leave it. ARGV: prefix, how channels of the sender begin, message, how many may
-- wait, ttl of what waits.
for _, channel in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], string.format('(%.3f', now()), '+inf')) do
  if string.sub(channel, 1, #ARGV[2]) ~= ARGV[2] then
    local inbox = ARGV[1] .. 'inbox:' .. channel
    redis.call('XADD', inbox, 'MAXLEN', '~', ARGV[4], '*', 'm', ARGV[3])
    redis.call('PEXPIRE', inbox, ARGV[5])
  end
end
return 0
"""
)

ALL = tuple(value for value in list(globals().values()) if isinstance(value, Script))
