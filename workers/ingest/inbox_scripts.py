"""What Redis runs for a reader of the inbox: scripts, each one step that nothing may come in between of."""

from __future__ import annotations

from typing import Final

from shared.identity import REFUSE_OTHERS

FORGET: Final = """
local gone = 0
for _, inbox in ipairs(KEYS) do
  if redis.call('EXISTS', inbox) == 1 then
    for _, pairs in ipairs(redis.call('XINFO', 'CONSUMERS', inbox, ARGV[1])) do
      local consumer = {}
      for i = 1, #pairs, 2 do consumer[pairs[i]] = pairs[i + 1] end
      if consumer['pending'] == 0 and consumer['idle'] > tonumber(ARGV[2]) then
        redis.call('XGROUP', 'DELCONSUMER', inbox, ARGV[1], consumer['name'])
        gone = gone + 1
      end
    end
  end
end
return gone
"""
"""Lua, so that no consumer takes an entry between the look and the deletion, which would drop that entry. KEYS inbox,
overflow; ARGV group, idle milliseconds."""

READ_STEP: Final = 16
"""Entries read at once within a bound of bytes, and by which it may be exceeded."""
OVERFLOW_PART: Final = 4
"""A batch of the overflow has one in so many of the entries and bytes of a batch of the inbox: when both have more than
enough, a fifth of what is stored is the overflow's. An event that comes into the inbox waits for a batch of 125, which
takes 15 ms of CPU, and not for one of 1,000, which takes 100."""
READ_ONE: Final = f"""
local function read_some(inbox, count, bytes)
  local entries = {{}}
  while count > 0 and bytes > 0 do
    local step = math.min({READ_STEP}, count)
    local read = redis.pcall('XREADGROUP', 'GROUP', group, consumer, 'COUNT', step, 'STREAMS', inbox, '>')
    if read and read.err and #entries == 0 then return read end
    if not read or read.err then break end
    for _, entry in ipairs(read[1][2]) do
      entries[#entries + 1] = entry
      for i = 2, #entry[2], 2 do bytes = bytes - #entry[2][i] end
    end
    count = count - #read[1][2]
    if #read[1][2] < step then break end
  end
  return entries
end
local function read_one(count, bytes, overflow_count, is_turn_of_overflow)
  local fresh = {{{{}}, {{}}}}
  for _, number in ipairs(is_turn_of_overflow == '1' and {{2, 1}} or {{1, 2}}) do
    if number == 1 or redis.call('XLEN', KEYS[2]) > 0 then
      local most, size = count, bytes
      if number == 2 then most, size = overflow_count, bytes / {OVERFLOW_PART} end
      local entries = read_some(KEYS[number], most, size)
      if entries.err then return entries end
      fresh[number] = entries
      if #entries > 0 then break end
    end
  end
  return fresh
end
"""
"""Lua, so that a batch is bounded in bytes before it is sent: COUNT alone may bring a gigabyte of large bodies. What
was read is returned even if the next step fails."""

READ: Final = (
    "local group, consumer = ARGV[1], ARGV[2]"
    + READ_ONE
    + "return read_one(tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6])"
)
"""KEYS inbox, overflow; ARGV group, consumer, bounds of entries and of bytes, bound of entries of the overflow, 1 if it
is the turn of that. Returns the entries of each, of one of them at the most."""

LIST_IDLE: Final = """
local function list_idle(group, idle, count)
  local found = {}
  for i = 1, 2 do
    found[i] = {}
    if redis.call('EXISTS', KEYS[i]) == 1 then
      found[i] = redis.call('XPENDING', KEYS[i], group, 'IDLE', idle, '-', '+', count)
    end
  end
  return found
end
"""

IDLE: Final = LIST_IDLE + "return list_idle(ARGV[1], ARGV[2], ARGV[3])"
"""KEYS inbox, overflow; ARGV group, idle milliseconds, bound of entries. Returns those of each stream."""

OPEN: Final = (
    "local group, consumer = ARGV[1], ARGV[4]"
    + READ_ONE
    + LIST_IDLE
    + REFUSE_OTHERS
    + """
local refusal = refuse_others(KEYS[4], ARGV[8])
if refusal then return refusal end
redis.call('DEL', KEYS[3])
local idle = list_idle(group, ARGV[2], ARGV[3])
if #idle[1] + #idle[2] > 0 then return {idle, {{}, {}}} end
local fresh = read_one(tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), '0')
if fresh.err then return fresh end
return {idle, fresh}
"""
)
"""Lua, so that a drain at rest begins with one round trip and one sync of the disk. KEYS inbox, overflow, bell,
identity; ARGV group, idle milliseconds, bound of idle entries, consumer, bounds of fresh ones as above, identity.
Returns idle entries, or else fresh ones, of each stream."""

TAKE_OVER: Final = """
local entries, bytes = {}, tonumber(ARGV[4])
for i = 5, #ARGV do
  if bytes <= 0 then break end
  for _, entry in ipairs(redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[i])) do
    entries[#entries + 1] = entry
    for j = 2, #entry[2], 2 do bytes = bytes - #entry[2][j] end
  end
end
return entries
"""
"""KEYS one of the streams; ARGV group, consumer, idle milliseconds, bound of bytes, ids. Returns what was taken."""

ACKNOWLEDGE: Final = """
local is_counted = redis.call('EXISTS', KEYS[2]) == 1
for i = 2, #ARGV, 3 do
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
  local removed = redis.call('XDEL', KEYS[1], ARGV[i])
  if is_counted and removed == 1 and redis.call('HEXISTS', KEYS[2], ARGV[i + 1]) == 1 then
    if redis.call('HINCRBY', KEYS[2], ARGV[i + 1], -ARGV[i + 2]) <= 0 then redis.call('HDEL', KEYS[2], ARGV[i + 1]) end
  end
end
"""
"""Lua, so that the bytes of an entry that two drains have stored are subtracted once. KEYS one of the streams, bytes by
tenant; ARGV group, then id, tenant and bytes of each entry."""


MAKE_GROUP: Final = """#!lua flags=allow-oom
return redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
"""
"""Lua, because a Redis that is full refuses the command by itself, and without the group no drain would make room."""
