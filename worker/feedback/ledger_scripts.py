"""The ledger as Redis keeps it: its keys, and the scripts that change them, each whole or not at all.

captioner:ledger:<project>            hash   name -> record as JSON; its name is "<annotation id>/<control>"
captioner:ledger-index:<project>      zset   "a:<name>" and "t:<task id>:<name>", to find names by annotation and task
captioner:ledger-removed:<project>    hash   name -> updated_at of what was removed, so that a late replay stays out
captioner:ledger-totals:<project>     hash   "<counter>:<arm>:<annotator>:<version>" -> number; no annotator: everybody
captioner:ledger-words:<project>      hash   "<arm>:<word>" -> captions it stands in
captioner:ledger-spectrum:<project>   hash   "<arm>:<captions>" -> words that stand in so many
captioner:counts                      hash   of all projects and ever growing; `worker/queue/job_metrics.py` says what

A record carries what it adds to the totals, so that exactly this is taken away again. What comes to zero is deleted:
totals that were counted up and down are those that never were.
"""

from worker.feedback.inbox_scripts import REMOVED_KEPT_S

KEYS = ("ledger", "ledger-index", "ledger-removed", "ledger-totals", "ledger-words", "ledger-spectrum")
COUNTS_KEY = "captioner:counts"

SHARED = f"""
local RECORDS, INDEX, REMOVED, TOTALS, WORDS, SPECTRUM, COUNTS = unpack(KEYS)

local function add(key, field, number)
  local sum = redis.call('HINCRBY', key, field, string.format('%.0f', number))
  if sum == 0 then redis.call('HDEL', key, field) end
  return sum
end

local function count(record, sign)
  for counter, number in pairs(record.counts) do
    for _, cell in ipairs(record.cells) do add(TOTALS, counter .. ':' .. cell, sign * number) end
  end
  for _, word in ipairs(record.words) do
    local after = add(WORDS, record.arm .. ':' .. word, sign)
    local before = after - sign
    if before > 0 then add(SPECTRUM, string.format('%s:%.0f', record.arm, before), -1) end
    if after > 0 then add(SPECTRUM, string.format('%s:%.0f', record.arm, after), 1) end
  end
end

local function tell(noun, record, what)
  redis.call('HINCRBY', COUNTS, string.format('%s:%.0f:%s', noun, record.project_id, what), 1)
end

local function take_out(name, record)
  redis.call('HDEL', RECORDS, name)
  redis.call('ZREM', INDEX, 'a:' .. name, string.format('t:%.0f:%s', record.task_id, name))
  count(record, -1)
end

local function remember_removal(name, record)
  redis.call('HSET', REMOVED, name, record.updated_at)
  redis.call('EXPIRE', REMOVED, {REMOVED_KEPT_S})
end
"""

STORE = (
    SHARED
    + """
local name, json = unpack(ARGV)
local record = cjson.decode(json)
local removed = redis.call('HGET', REMOVED, name)
if removed and removed >= record.updated_at then return 0 end
local before = redis.call('HGET', RECORDS, name)
if before then
  before = cjson.decode(before)
  if before.updated_at >= record.updated_at then return 0 end
  take_out(name, before)
end

redis.call('HSET', RECORDS, name, json)
redis.call('ZADD', INDEX, 0, 'a:' .. name, 0, string.format('t:%.0f:%s', record.task_id, name))
count(record, 1)
tell('correction', record, record.outcome)
for _, kind in ipairs(record.kinds) do tell('edit', record, kind) end
return 1
"""
)

REMOVE = (
    SHARED
    + """
local prefix = ARGV[1]
local last = ARGV[2] or '(' .. prefix .. '\\255'
local found = redis.call('ZRANGEBYLEX', INDEX, '[' .. prefix, last)
for _, entry in ipairs(found) do
  local name = string.match(entry, '^a:(.*)$') or string.match(entry, '^t:%d+:(.*)$')
  local record = cjson.decode(redis.call('HGET', RECORDS, name))
  take_out(name, record)
  remember_removal(name, record)
  tell('correction', record, 'removed')
end
return #found
"""
)


def ledger_key(noun: str, project_id: int) -> str:
    return f"captioner:{noun}:{project_id}"


def ledger_keys(project_id: int) -> list[str]:
    """Return the keys that every script takes, in its order."""
    return [*(ledger_key(noun, project_id) for noun in KEYS), COUNTS_KEY]


def total_field(counter: str, arm: str, annotator: int | None, model_version: str | None) -> str:
    """Return the field of a number in the totals; no annotator means everybody."""
    return f"{counter}:{cell(arm, annotator, model_version)}"


def cell(arm: str, annotator: int | None, model_version: str | None) -> str:
    return f"{arm}:{'' if annotator is None else annotator}:{model_version or ''}"
